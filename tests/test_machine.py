"""Runs that went wrong, and machines that do: what the bench of the machine tries a hundred times is tried here a few
times, on 8x8 digits. Kills are real kills of real processes, disks are real disks where this user may mount one"""
import json, random, shutil, sys, time

import pytest

import commands
from curriculum_gen.bench import machine
from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import read_json, write_json
from curriculum_gen.core.run_folder import RunFolder, read_history
from curriculum_gen.curriculum.config import run_config
from curriculum_gen.diagnosis.questions import diagnose_run
from curriculum_gen.evaluation.evaluate import evaluate_run
from curriculum_gen.studies.study import study_named
from curriculum_gen.studies.table import seed_table
from curriculum_gen.training.train import train
from notebooks import MODULES

TINY = ["--profile", "tiny", "--dataset", "digits", "--steps", "6", "--interval", "3", "--device", "cpu"]
REGIME = "full_curriculum"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "The commands undisturbed"
    return machine.prepared_place(tmp_path_factory.mktemp("place"), report=False)


@pytest.fixture(scope="module")
def hot(tmp_path_factory) -> str:
    "The address of a regime whose numbers end: its learning rate is beyond all reason"
    folder = tmp_path_factory.mktemp("regimes")
    (folder/"hot_regime.py").write_text("from dataclasses import replace\n"
                                        "from curriculum_gen.curriculum.regimes import REGIMES\n"
                                        "hot = replace(REGIMES.named('full_curriculum'), name='hot', "
                                        "learning_rate=1e25)\n")
    sys.path.insert(0, str(folder))
    yield "hot_regime:hot"
    sys.path.remove(str(folder))


def problem(capfd) -> str:
    "The one line that a command says at its end"
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said.replace("\r", "\n").strip().splitlines()[-1]


# ---- faults of the machine

@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_killed_at_a_random_moment_it_ends_in_the_same_bits(place, command):
    row = machine.killed(place, command, rng=random.Random(7))
    assert row["held"], row


def test_what_a_killed_write_left_behind_is_gone_afterwards(place):
    folder = place.fresh("train", "left-behind")
    for name in ("judges/.first.safetensors-u8nddzts", ".history.jsonl-0a1b2c3d", "checkpoints/.step-000003/generator"):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_bytes(b"half of it")
    assert machine._outcome(place, "train", folder) == ""


def test_a_finished_copy_without_its_judge_is_mended_and_with_half_of_it_refused(place, capfd):
    folder = place.fresh("evaluate", "half-a-judge")   # begins with what training left
    again = [str(folder), "--regime", REGIME, "--seed", "0", *TINY]
    judge = RunFolder(folder).judges/"first.safetensors"
    whole = judge.read_bytes()
    judge.write_bytes(whole[:len(whole)//2])
    assert commands.train(again) == 2 and "first.safetensors" in problem(capfd)
    for file in RunFolder(folder).judges.iterdir(): file.unlink()
    assert commands.train(again) == 0 and judge.exists()


def test_a_page_of_ones_own_is_not_written_over(place, tmp_path, capfd):
    run, mine = str(place.root/"evaluate"), tmp_path/"mine"
    mine.mkdir()
    for name in ("report.html", "index.html"): (mine/name).write_text("my own")
    for command, arguments in ((commands.diagnose, [run]), (commands.compare, [run, run]),
                               (commands.evaluate, ["--samples", "made.npz"]),
                               (commands.batch, ["--regimes", REGIME, "--seeds", "0", *TINY])):
        assert command([*arguments, "--out", str(mine)]) == 2 and "written over" in problem(capfd)
    assert {path.name: path.read_text() for path in mine.iterdir() if path.suffix == ".html"} == \
        {"report.html": "my own", "index.html": "my own"}


def test_two_writers_and_a_copy_cut_short(place):
    assert machine.two_writers(place, "train") == ""
    assert machine.half_copied(place, rng=random.Random(3)) == ""


def test_a_finished_folder_on_a_disk_that_may_only_be_read(place, tmp_path, capfd):
    try:
        with machine._read_only(place.root/"evaluate", tmp_path/"only-read") as folder:
            assert commands.train([str(folder), "--regime", REGIME, *TINY]) == 0
            assert commands.evaluate([str(folder), "--images-per-class", "20"]) == 0   # as they are there
            assert commands.evaluate([str(folder), "--images-per-class", "21"]) == 2 and "--out" in problem(capfd)
            assert commands.diagnose([str(folder)]) == 2 and "--out" in problem(capfd)
            assert commands.evaluate([str(folder), "--images-per-class", "20", "--out", str(tmp_path/"away")]) == 0
            again = read_json(tmp_path/"away"/"evaluation.json")
            assert again == read_json(folder/"evaluation.json")
    except machine.NotPossible as why: pytest.skip(str(why))


@pytest.mark.slow
def test_every_fault_in_short(tmp_path):
    result = machine.bench_machine(tmp_path/"machine.json", kills=4)
    assert not [one for one in result["faults"] if one["lost"]] and not (tmp_path/"machine.jsonl").exists()


# ---- numbers that nobody can mean

@pytest.mark.parametrize("command,option,value", machine.ABSURD)
def test_an_absurd_number_is_refused_at_once_with_the_reason(tmp_path, command, option, value, capfd):
    folder, began = tmp_path/"run", time.monotonic()
    words = {"train": [str(folder), "--regime", REGIME, *TINY], "evaluate": [str(folder)],
             "batch": ["--out", str(folder), "--regimes", REGIME, *TINY]}[command]
    assert getattr(commands, command)([*words, option, value]) == 2
    assert time.monotonic() - began < 10 and not folder.exists()
    line = problem(capfd)
    assert line.startswith(f"cgen-{command}: ") and ("because" in line or "interval" in line)


def test_a_disk_that_is_too_small_is_told_before_a_folder_is_made(tmp_path):
    config = run_config("tiny", regime=REGIME, seed=0, total_steps=10**8, checkpoint_interval=2*10**3)
    with pytest.raises(InputError, match="MB are free"): train(config, tmp_path/"run")
    assert not (tmp_path/"run").exists()


# ---- runs whose numbers end

@pytest.fixture(scope="module")
def stopped(place, hot, tmp_path_factory) -> RunFolder:
    "A run that stopped because its losses are no numbers"
    folder = tmp_path_factory.mktemp("hot")/"run"
    assert commands.train([str(folder), "--regime", hot, *TINY]) == 2
    return RunFolder(folder)


def test_it_stops_at_the_step_and_says_so_every_time(stopped, hot, capfd):
    first = next(record.step for record in read_history(stopped.history) if "nan" in str(record.losses))
    assert stopped.steps()[-1] == first == read_history(stopped.history)[-1].step
    assert commands.train([str(stopped.path), "--regime", hot, *TINY]) == 2
    line = problem(capfd)
    assert f"not finite from step {first}" in line and "loss " in line and "--keep-going" in line


def test_told_to_keep_going_it_is_the_run_that_never_stopped(stopped, hot, tmp_path):
    for folder in (shutil.copytree(stopped.path, tmp_path/"again"), tmp_path/"at once"):
        assert commands.train([str(folder), "--regime", hot, *TINY, "--keep-going"]) == 0
    assert machine.difference(machine.contents_of(tmp_path/"at once"), machine.contents_of(tmp_path/"again")) == ""


def test_its_checkpoints_are_invalid_the_others_are_scored_and_diagnosis_names_step_and_loss(stopped, capfd):
    cards = evaluate_run(stopped.path, images_per_class=20)
    first, unscored = stopped.steps()[-1], [card for card in cards if not card.scored]
    assert cards[0].scored and not cards[-1].scored and cards[-1].step == first
    assert {card.verdict for card in unscored} == {"INVALID"}
    assert all(f"not finite from step {unscored[0].step}" in card.reasons[0] for card in unscored)
    assert cards[0].verdict == "AT-CHANCE" and "NaN" not in stopped.evaluation.read_text()
    assert [card.verdict for card in evaluate_run(stopped.path, images_per_class=20)] == [c.verdict for c in cards]
    assert commands.gate([str(stopped.path)]) == 2   # it did not reach its end
    found = diagnose_run(stopped.path)
    assert (found.findings[0].cause, found.findings[0].step) == ("non-finite values", first)
    assert found.findings[0].subject.startswith("loss ") and found.exit_code == 1


def test_a_study_goes_on_with_the_runs_that_have_numbers(place, hot, tmp_path):
    out, folders = tmp_path/"study", []
    for seed, regime in enumerate((REGIME, REGIME, hot)):
        folders.append(out/("hot" if regime == hot else regime)/f"seed-{seed}")
        config = run_config("tiny", regime=regime, seed=seed, dataset="digits", total_steps=6, checkpoint_interval=3)
        train(config, folders[-1], keep_going=True)
        evaluate_run(folders[-1], images_per_class=20)
    table = seed_table(folders, study=study_named("regimes"))
    assert {row["regime"] for row in table["not_scored"]} == {"hot"}
    assert all(row["n_per_class"] for row in table["rows"])
    assert "Not scored: hot seed 2" in table["answer"]
    assert commands.gate([str(folders[-1])]) == 1
    json.dumps(table, allow_nan=False)


# ---- other machines

def test_a_run_of_a_gpu_is_evaluated_where_there_is_none(place, tmp_path, capfd):
    folder = RunFolder(shutil.copytree(place.root/"train", tmp_path/"run"))
    write_json(folder.config, read_json(folder.config) | {"device": "cuda"})
    for device in ([], ["--device", "cpu"]):
        assert commands.evaluate([str(folder.path), "--images-per-class", "20", *device]) == 0
    found = read_json(folder.evaluation)
    assert found["config"]["device"] == "cuda" and found["measured_with"]["device"] == "cpu"
    known = read_json(place.root/"evaluate"/"evaluation.json")
    assert [row["confusion"] for row in found["rows"]] == [row["confusion"] for row in known["rows"]]
    assert commands.evaluate([str(folder.path), "--device", "cuda"]) in (0, 2)   # 2 and one line without a GPU
    problem(capfd)


def test_only_one_place_names_the_cache():
    named = [notebook.module for notebook in MODULES if "user_cache_dir" in "".join(notebook.code(exported=True))]
    assert named == ["core.cache"]


def test_a_dry_run_says_what_would_fail(tmp_path, capfd):
    one = ["--profile", "tiny", "--regimes", REGIME, "--seeds", "0"]
    (tmp_path/"file").touch()
    assert commands.batch(["--out", str(tmp_path/"file"/"runs"), *one, "--dry-run"]) == 2
    assert "may not be written" in problem(capfd)
    assert commands.batch(["--out", str(tmp_path/"runs"), *one, "--dry-run", "--data", str(tmp_path)]) == 2
    assert "this would fail" in problem(capfd) and not (tmp_path/"runs").exists()
    other = RunFolder(tmp_path/"runs"/REGIME/"seed-0")
    write_json(other.config, run_config("tiny", regime=REGIME, seed=0, batch_size=32).to_dict())
    assert commands.batch(["--out", str(tmp_path/"runs"), *one, "--dry-run"]) == 2
    assert "another configuration (batch_size 64, not 32)" in problem(capfd)
