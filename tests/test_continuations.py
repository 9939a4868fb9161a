"""A stretch of a run in another order of the data: the same bits with the run's own seed, whatever happens on the way;
and what is decided from the ends, of a run and of anybody's loop"""
import multiprocessing, os, re, shutil, signal

import numpy as np
import pytest, torch

from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import read_json, sha256
from curriculum_gen.core.run_folder import RunFolder
from curriculum_gen.curriculum.config import run_config
from curriculum_gen.data.dataset import normalise
from curriculum_gen.data.sources import load_dataset
from curriculum_gen.diagnosis.one_run import continued_comparison
from curriculum_gen.evaluation.continuations import compare_continued, compare_ends
from curriculum_gen.statistics.card import Card
from curriculum_gen.statistics.words import Verdict
from curriculum_gen.training import continuations, train as training
from curriculum_gen.training.continuations import continue_run
from curriculum_gen.training.train import train

MINE = '''
from dataclasses import replace

from curriculum_gen.curriculum.regimes import Regime, Stage
from curriculum_gen.training.grounding import Grounding

class Deaf(Grounding):
    "Takes its data in the same order whatever seed it is given"
    def __init__(self, config): super().__init__(replace(config, seed=0))

stages = (Stage(name="soft", weights={"grounding": 0.1}), Stage(name="firm", weights={"grounding": 1.0}))
regime = Regime(name="gentle", description="Half of the run at a tenth of the weight.", stages=stages)
deaf = Regime(name="deaf", description="The same, and deaf.", stages=stages, program="my_regimes:Deaf")
'''
START, END = 4, 12   # checkpoints at 0, 3, 4, 6, 7, 8, 12
PATIENCE = 120       # seconds that a process gets, on a busy machine; none needs a tenth of it
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["curriculum_gen.training.continuations"])


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    "Regimes of one's own, where module:object finds them"
    folder = tmp_path_factory.mktemp("mine")
    (folder/"my_regimes.py").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("CURRICULUM_GEN_SOURCES", "folder,cache,embedded")
        yield


@pytest.fixture(scope="module")
def digits(): return load_dataset("digits", report=lambda line: None)


@pytest.fixture(scope="module")
def run(mine, digits, tmp_path_factory) -> RunFolder:
    config = run_config("tiny", regime="my_regimes:regime", dataset="digits", seed=0)
    return train(config, tmp_path_factory.mktemp("run")/"run", dataset=digits)


def content(fork):
    "SHA-256 of every file of a continuation, by its path"
    return {str(path.relative_to(fork.path)): sha256(path) for path in sorted(fork.path.rglob("*"))
            if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory) -> dict:
    "The continuation that nobody disturbed"
    return content(continued(copied(run, tmp_path_factory.mktemp("unbroken"))))


def copied(run, folder):
    "A run of its own, without what went on from it"
    return RunFolder(shutil.copytree(run.path, folder/"run", ignore=shutil.ignore_patterns("continuations")))


def continued(run, **changes):
    return continue_run(run, **{"from_step": START, "to_step": END, "order_seed": 3} | changes)


def weights(folder, step): return read_json(folder.checkpoint(step)/"record.json")["weights_sha256"]


# ---- training on

def test_the_runs_own_order_gives_the_run_again_and_another_gives_another(run):
    own, other = continued(run, order_seed=0), continued(run)
    assert [weights(own, step) for step in own.steps()] == [weights(run, step) for step in run.steps() if step >= START]
    assert own.history.read_bytes().splitlines() == run.history.read_bytes().splitlines()[START:]
    assert weights(other, START) == weights(run, START) and weights(other, END) != weights(run, END)
    assert not set(other.history.read_bytes().splitlines()) & set(run.history.read_bytes().splitlines())


def killed(folder, step, moment):
    "Goes on, in a process of its own, and is killed: after a line of the history, or in a checkpoint"
    def die(*_): os.kill(os.getpid(), signal.SIGKILL)
    append, save = training._append, training.save_checkpoint
    def lines(path, line):
        append(path, line)
        if moment == "in a step" and f'"step": {step},' in line: die()
    def checkpoint(place, snapshot, *, record):
        if moment == "in a checkpoint" and record["step"] == step: os.rename = die
        save(place, snapshot, record=record)
    training._append, training.save_checkpoint = lines, checkpoint
    continued(RunFolder(folder))


def test_killed_in_the_middle_it_goes_on_to_the_same_bits(run, unbroken, tmp_path):
    mine, left = copied(run, tmp_path), []
    for step, moment in ((START, "in a checkpoint"), (5, "in a step"), (8, "in a checkpoint"), (10, "in a step")):
        process = PROCESSES.Process(target=killed, args=(mine.path, step, moment))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL
        left.append(mine.continuation(START, order_seed=3).steps())
    assert left == [[], [4], [4, 6, 7], [4, 6, 7, 8]]
    assert content(continued(mine)) == unbroken


def test_interrupted_it_says_so_and_goes_on_to_the_same_bits(run, unbroken, tmp_path, monkeypatch):
    mine, append = copied(run, tmp_path), training._append
    def interrupts(path, line):
        append(path, line)
        if '"step": 10,' in line: os.kill(os.getpid(), signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_append", interrupts)
        with pytest.raises(KeyboardInterrupt, match="stopped after step 10; the same command continues from there"):
            continued(mine)
    assert mine.continuation(START, order_seed=3).steps() == [4, 6, 7, 8, 10]
    assert content(continued(mine)) == unbroken


def test_a_longer_stretch_goes_on_from_the_shorter_one(run, unbroken, tmp_path):
    mine = copied(run, tmp_path)
    assert continued(mine, to_step=7).steps() == [4, 6, 7]
    assert content(continued(mine)) == unbroken and content(continued(mine, to_step=8)) == unbroken


@pytest.mark.parametrize("steps, said", [
    ({"from_step": 5}, "no checkpoint at step 5; there are 0, 3, 4, 6, 7, 8, 12"),
    ({"to_step": 11}, "no checkpoint at step 11; there are 0, 3"),
    ({"from_step": 8, "to_step": 8}, "from step 8 to step 8: the second must be the later one"),
    ({"from_step": 12, "to_step": 8}, "from step 12 to step 8"), ({"order_seed": -1}, "seed is -1")])
def test_steps_that_cannot_be_are_told_in_a_line(run, steps, said):
    with pytest.raises(InputError, match=re.escape(said)) as told: continued(run, **steps)
    assert "\n" not in str(told.value)


def test_what_began_elsewhere_is_not_gone_on_with(run, tmp_path):
    mine = copied(run, tmp_path)
    fork = continued(mine, to_step=6)
    record = fork.checkpoint(START)/"record.json"
    record.write_text(record.read_text().replace(weights(mine, START), "0"*64))
    with pytest.raises(InputError, match="began at another checkpoint than the run's step 4"): continued(mine)


def test_two_processes_do_not_write_one_continuation(run, tmp_path):
    mine = copied(run, tmp_path)
    fork = mine.continuation(START, order_seed=3)
    fork.path.mkdir(parents=True)
    with training.alone_in(fork), pytest.raises(InputError, match="another process is training"): continued(mine)


# ---- deciding, of a run

def test_a_run_is_decided_on_and_nothing_is_trained_twice(run, monkeypatch):
    found = continued_comparison(run.path, continuations=2)
    assert (found.start, found.end, found.seeds) == (6, 12, (1, 2)) and found.verdict == Verdict.AT_CHANCE
    assert list(found.table().index) == ["step 6", "order 1", "order 2", "as recorded"]
    assert found.recorded.weights_sha256 == weights(run, END)
    monkeypatch.setattr(continuations, "train_between", lambda *arguments, **options: pytest.fail("trained again"))
    again = continued_comparison(run.path, continuations=2)
    assert again.words == found.words and again.table().equals(found.table())


def test_a_program_that_does_not_heed_the_seed_is_found_out(mine, digits, tmp_path):
    run = train(run_config("tiny", regime="my_regimes:deaf", dataset="digits", seed=0), tmp_path/"run", dataset=digits)
    with pytest.raises(InputError, match="seed 2 gave the same generator as the continuation of seed 1"):
        continued_comparison(run.path, continuations=2)


@pytest.mark.parametrize("arguments, said", [({"continuations": 0}, "it must be 1 to 16"),
                                             ({"images_per_class": 1}, "at least 2"), ({"before": 12}, "the later one"),
                                             ({"before": 5}, "there are 0, 3, 4, 6, 7, 8, 12")])
def test_wrong_numbers_are_refused_before_anything_is_trained(run, monkeypatch, arguments, said):
    monkeypatch.setattr(continuations, "train_between", lambda *a, **o: pytest.fail("trained"))
    with pytest.raises(InputError, match=re.escape(said)) as told: continued_comparison(run.path, **arguments)
    assert "\n" not in str(told.value)


# ---- the words

def made_up(share, rng, p_chance=1e-6):
    "A card and what five judges saw, right on a share of 1,000 images"
    right, asked = rng.random((10, 100)) < share, np.arange(10)[:, None]
    seen = np.where(right, asked, (asked + rng.integers(1, 10, right.shape)) % 10)
    confusion = np.stack([np.bincount(row, minlength=10) for row in seen]).tolist()
    names = ("first", "second", "neighbours", "hog_svm", "noise")
    panel = {name: {"accuracy": right.mean(), "confusion": confusion} for name in names}
    student = {"correct": int(right.sum()), "images": right.size}
    return Card(n_per_class=100, accuracy=right.mean(), accuracy_second_judge=right.mean(), confusion=confusion,
                panel=panel, student=student, p_chance=p_chance, judge_sha256="ab"), np.stack([seen]*5)


def decided(shares, recorded=None, before=0.7, p_chance=1e-6):
    rng = np.random.default_rng(0)
    return compare_ends(made_up(before, rng, p_chance), [made_up(share, rng) for share in shares],
                        seeds=range(len(shares)), recorded=recorded and made_up(recorded, rng), start=60, end=100)


def test_a_fall_of_all_ends_is_of_the_checkpoint_and_a_fall_of_one_run_of_its_order():
    fell, unlucky = decided([0.5]*5, recorded=0.5), decided([0.7]*5, recorded=0.5)
    assert fell.verdict == Verdict.REGRESSED and unlucky.verdict == Verdict.NOT_WORSE
    assert "from step 60" in fell.words and "5 continuations" in fell.words and "data order, not" not in fell.words
    assert "lower than any of 5" in unlucky.words and "its data order, not going on from step 60" in unlucky.words
    assert all("of this checkpoint, not of the regime" in found.words for found in (fell, unlucky))
    assert "continuations" in fell._repr_markdown_() and "seeds" not in fell._repr_markdown_()


def test_an_ordinary_end_is_called_so_and_few_continuations_are_hedged():
    assert re.search(r"is number [2-6] of 6", decided([0.5, 0.6, 0.7, 0.72, 0.74], recorded=0.65).words)
    few = decided([0.5]*3)
    assert few.verdict == Verdict.MEASURED_DROP and "5 are needed" in few.words and few.rank is None
    assert "its data order" not in decided([0.7]*3, recorded=0.5).words


def test_a_checkpoint_at_chance_is_one_network_however_often_it_is_continued():
    found = decided([0.1]*5, before=0.3, p_chance=0.006)
    assert found.verdict == Verdict.AT_CHANCE and found.gates.stopped_by == "G1"
    assert decided([0.1]*5, before=0.3).verdict == Verdict.REGRESSED


# ---- anybody's loop

@pytest.fixture(scope="module")
def pool(digits):
    return torch.stack([normalise(digits.half_a.images[digits.half_a.labels == c][:40]) for c in range(10)])


@pytest.fixture
def compared(pool, digits):
    def sampler(latents, labels): return pool[labels, (1000*latents[:, 0].abs()).long() % 40]
    def compare(continue_from, before=sampler, **options):
        return compare_continued(before, continue_from, dataset=digits, judge_training="brief",
                                 **{"images_per_class": 20, "continuations": 2} | options)
    return compare


def rolled(pool, seed):
    return lambda latents, labels: pool[labels, ((1000*latents[:, 0].abs()).long() + seed) % 40]


def test_a_loop_of_ones_own_is_decided_on(compared, pool):
    asked = []
    found = compared(lambda seed: asked.append(seed) or rolled(pool, seed), continuations=5)
    assert asked == [1, 2, 3, 4, 5] and found.verdict == Verdict.NOT_WORSE and found.recorded is None
    wrong = compared(lambda seed: rolled(pool.roll(1, 0), seed), continuations=2)
    assert wrong.gates.difference < -0.8 and wrong.verdict != Verdict.NOT_WORSE


def fails(seed): raise ValueError("no such file:\ncheckpoint.pt")
def draws_nothing(latents, labels): raise KeyError("digit")


@pytest.mark.parametrize("continue_from, said", [
    (lambda seed: None, "continue_from(1) is NoneType: a generator is wanted"),
    (fails, "continue_from(1) raised ValueError: no such file: checkpoint.pt"),
    (lambda seed: draws_nothing, "continue_from(1) raised KeyError"),
    (lambda seed: lambda latents, labels: None, "continue_from(1): the generator gave NoneType"),
    (lambda seed: torch.nn.Linear(2, 2), "continue_from(1): the generator is in train mode")])
def test_a_callable_that_is_wrong_is_told_in_a_line(compared, continue_from, said):
    with pytest.raises(InputError, match=re.escape(said)) as told: compared(continue_from)
    assert "\n" not in str(told.value)


def test_a_loop_that_trains_what_it_was_given_is_found_out(compared, pool):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ink = torch.nn.Parameter(torch.tensor(0.9))
        def forward(self, latents, labels): return (self.ink*(pool[labels, 0] + 1) - 1).detach()
    network = Network().eval()
    def trains(seed):
        network.ink.data -= 0.01
        return network
    with pytest.raises(InputError, match="continue_from\\(1\\) changed the generator `before` itself"):
        compared(trains, before=network)


def test_a_checkpoint_that_is_no_generator_is_told_in_a_line(compared, pool):
    with pytest.raises(InputError, match="before is str: a generator is wanted"):
        compared(lambda seed: rolled(pool, seed), before="model.pt")
