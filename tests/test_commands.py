"""The commands as their users meet them: help with an example that works, and one clear line with exit code 2 for every
mistake, which costs nothing

Mistakes are made in this process, where they cost milliseconds; that the installed commands behave alike is tried with
a few of them.
"""
import os, re, resource, shlex, shutil, subprocess, sys
from collections import namedtuple
from pathlib import Path

import pytest, torch

import curriculum_gen
import commands
from curriculum_gen.sweeps import run_study as batches
from curriculum_gen.core.task import TASKS
from curriculum_gen.curriculum.regimes import REGIMES
from curriculum_gen.studies.study import STUDIES
from curriculum_gen.curriculum.config import PROFILES, run_config
from curriculum_gen.core.records import read_json
from curriculum_gen.core.run_folder import RunFolder
from curriculum_gen.evaluation.evaluate import evaluate_run
from curriculum_gen.training.train import train

COMMANDS = ["cgen-data", "cgen-train", "cgen-evaluate", "cgen-batch", "cgen-gate", "cgen-compare", "cgen-diagnose",
            "cgen-bench"]
TRAIN = "--regime full_curriculum --profile tiny"
# in an argument list: a folder that does not exist yet, and a folder with a finished tiny run
FRESH, MINE = "FRESH", "MINE"


@pytest.fixture(scope="module", autouse=True)
def no_network():
    "What the data tests try out is not tried again by every command here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURRICULUM_GEN_SOURCES", "folder,cache,embedded")
        yield


def start(command, *arguments, folder, **options) -> subprocess.Popen:
    "The command as it is installed"
    return subprocess.Popen([Path(sys.executable).parent/command, *map(str, arguments)], cwd=folder,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def call(command, arguments) -> int:
    return getattr(commands, command.removeprefix("cgen-"))([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunFolder:
    "A finished tiny run, which tests copy"
    return train(run_config("tiny", regime="full_curriculum", seed=0), tmp_path_factory.mktemp("trained")/"run")


@pytest.fixture
def mine(trained, tmp_path) -> RunFolder: return RunFolder(shutil.copytree(trained.path, tmp_path/"mine"))


def everything(folder) -> dict:
    "Content and time of change of all that is in a folder"
    return {path: path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(folder).rglob("*")}


# ---- help

@pytest.fixture(scope="module")
def helps(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("helps")
    running = {command: start(command, "--help", folder=folder, env=os.environ | {"COLUMNS": "100"})
               for command in COMMANDS}
    said = {command: process.communicate(timeout=60) for command, process in running.items()}
    assert {command: (process.returncode, said[command][1])
            for command, process in running.items()} == {command: (0, "") for command in COMMANDS}
    return {command: output for command, (output, _) in said.items()}


def example(help) -> list[str]:
    "The words of the first example in a help text"
    return shlex.split(help.split("example:\n")[1].strip().splitlines()[0])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option_and_shows_one_example(helps, command):
    words = example(helps[command])
    assert words[0] == command and len(helps[command].split("example:")) == 2
    for option in re.findall(r"^  (-\S+)[^\n]*", helps[command], re.M):
        assert re.search(rf"^  {option}[^\n]*(\n)?\s+\w", helps[command], re.M), f"{option} is not explained"
    assert max(map(len, helps[command].splitlines())) <= 110


@pytest.mark.parametrize("command", ["cgen-train", "cgen-batch"])
def test_help_names_what_can_be_chosen(helps, command):
    for name in (*REGIMES, *PROFILES, *TASKS, *(STUDIES if command == "cgen-batch" else ())):
        assert name in helps[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_version(command, capsys):
    with pytest.raises(SystemExit) as end: call(command, ["--version"])
    assert end.value.code == 0 and capsys.readouterr().out.split()[-1] == curriculum_gen.__version__


def test_the_examples_of_training_and_evaluation_work_one_after_the_other(helps, tmp_path):
    outputs = []
    for command in ("cgen-train", "cgen-evaluate"):
        process = start(*example(helps[command]), folder=tmp_path)
        output, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert error.count("\r") < 12, "a log got a bar for each step"
        outputs.append(output)
    run = RunFolder(tmp_path/"runs"/"mine")
    assert "next: cgen-evaluate runs/mine" in outputs[0]
    rows = read_json(run.evaluation)["rows"]
    assert [row["step"] for row in rows] == run.steps() and {row["n_per_class"] for row in rows} == {100}
    assert len(outputs[1].strip().splitlines()) == 1 + len(rows) and "verdict" in outputs[1]


def test_the_example_of_data_works(helps, tmp_path):
    process = start(*example(helps["cgen-data"]), folder=tmp_path)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0 and re.search(r"fashion_mnist: [\d,]+ training and [\d,]+ test images",
                                                 output), error


def test_a_generator_of_ones_own_gets_a_card_and_a_report(tmp_path, monkeypatch, capsys):
    "Noise that ignores the class, from a module in the current folder; the brief panel, so that it takes seconds"
    from curriculum_gen.evaluation import evaluate as evaluation
    real = evaluation.evaluate_generator
    monkeypatch.setattr(evaluation, "evaluate_generator", lambda generator, **options: real(
        generator, **options | {"judge_training": "brief", "student_images": 20, "progress": False}))
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("import torch\ndef noise(latents, labels): return torch.tanh(latents[:, "
                               ":49].reshape(-1, 1, 7, 7).repeat_interleave(4, 2).repeat_interleave(4, 3))\n")
    assert call("cgen-evaluate", ["--generator", "mine:noise", "--images-per-class", "20", "--out", "noise"]) == 0
    card = read_json("noise/card.json")
    assert (card["verdict"] == "AT-CHANCE" and card["generator"] == "mine:noise"
            and set(card["panel"]) == set(card["judges"]))
    assert "AT-CHANCE" in capsys.readouterr().out and "AT-CHANCE" in Path("noise/report.html").read_text()


LOOP = """
import torch, plain_loop
from curriculum_gen.diagnosis.watching.watch import watch

def loop():
    torch.manual_seed(0)
    networks = plain_loop.Weaver(), plain_loop.Witness(), plain_loop.make_judge()
    with watch(**dict(zip(("generator", "witness", "judge"), networks))) as seen:
        plain_loop.train(*networks, torch.rand(99, 1, 28, 28), torch.arange(99) % 10, total=3)
    return seen

def forgetful(): loop()

def unused():
    with watch(generator=plain_loop.Weaver()) as seen: pass
    return seen
"""


def test_a_loop_of_ones_own_is_diagnosed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"my_loop.py").write_text(LOOP)
    assert call("cgen-diagnose", ["my_loop:loop"]) == 1
    told = capsys.readouterr().out
    assert ("4. Which fault explains it? loss term without gradient" in told and "plain_loop.py:" in told
            and "requested labels reach no loss" in told)
    found = read_json("diagnosis/findings.json")
    assert [f["cause"] for f in found["findings"] if f["kind"] == "cause"] == ["loss term without gradient",
                                                                               "requested labels reach no loss"]
    assert ("ORACLE" in found["not_possible"]
            and "loss term without gradient" in (tmp_path/"diagnosis"/"report.html").read_text())
    assert call("cgen-diagnose", ["my_loop:unused", "--out", "unseen"]) == 3
    told = capsys.readouterr().out
    assert "not looked at. no optimiser made a step inside the block" in told and "none was found" not in told
    assert call("cgen-diagnose",
                ["my_loop:forgetful", "--out", "elsewhere"]) == 2 and not (tmp_path/"elsewhere").exists()
    assert "return seen" in capsys.readouterr().err


def test_a_run_is_diagnosed(mine, capsys):
    card = evaluate_run(mine.path, images_per_class=10)[-1]
    assert call("cgen-diagnose", [mine.path, "--undo-steps", "0"]) == 0
    told = capsys.readouterr().out
    assert ("1. Is the meter right? YES" in told and "none was found" in told and "CAUSE" not in told
            and f"the evaluation calls it {card.reasons[0]}\n" in told)
    assert mine.findings.exists() and mine.findings.with_name("report.html").exists()


def test_the_example_of_batch_asks_for_what_it_says(helps, monkeypatch, tmp_path, capsys):
    "Such a study is carried out in test_reports"
    asked = []
    monkeypatch.setattr(batches, "run_study", lambda out, **options: asked.append((out, options)) or [])
    monkeypatch.chdir(tmp_path)
    assert call("cgen-batch", example(helps["cgen-batch"])[1:]) == 0
    [(out, options)] = asked
    assert (out == Path("runs") and options["profile"] == "tiny" and options["seeds"] == [0, 1]
            and options["regimes"] == ["phase1_only", "full_curriculum"])


# ---- mistakes

MISTAKES = {   # command line -> what the line must say
    f"cgen-train {FRESH} --regime full_curiculum": "unknown regime 'full_curiculum': did you mean 'full_curriculum'",
    f"cgen-train {FRESH} --regime gan": "did you mean 'cgan'?",
    f"cgen-train {FRESH} --profile tiny": "--regime",
    f"cgen-train {FRESH} --regime": "--regime",
    f"cgen-train {TRAIN}": "folder",
    f"cgen-train {FRESH} {TRAIN} --profile quik": "did you mean 'quick'",
    f"cgen-train {FRESH} {TRAIN} --dataset fashon_mnist": "did you mean 'fashion_mnist'",
    f"cgen-train {FRESH} {TRAIN} --widths papr": "did you mean 'paper'",
    f"cgen-train {FRESH} {TRAIN} --device gpu": "unknown device 'gpu'",
    f"cgen-train {FRESH} {TRAIN} --sed 1": "did you mean '--seed'",
    f"cgen-train {FRESH} {TRAIN} --sed=1": "did you mean '--seed'",
    f"cgen-train {FRESH} {TRAIN} --seed x": "--seed",
    f"cgen-train {FRESH} {TRAIN} --seed -1": "seed is -1",
    f"cgen-train {FRESH} {TRAIN} --seed 1.5": "--seed",
    f"cgen-train {FRESH} {TRAIN} --steps 300 --interval 70": "does not divide 300",
    f"cgen-train {FRESH} {TRAIN} --interval 0": "interval of 0",
    f"cgen-train {FRESH} {TRAIN} --interval -3": "interval of -3",
    f"cgen-train {FRESH} {TRAIN} --steps 2 --interval 1": "total steps is 2",
    f"cgen-train {FRESH} {TRAIN} --steps 0": "0",
    f"cgen-train {FRESH} {TRAIN} --threads 0": "threads is 0",
    f"cgen-train {FRESH} {TRAIN} more": "'more'",
    f"cgen-train {FRESH} {TRAIN} --data no-such-folder": "no-such-folder",
    f"cgen-train {MINE} --regime phase1_only --profile tiny": "regime phase1_only, not full_curriculum",
    f"cgen-train {MINE} {TRAIN} --seed 1": "seed 1, not 0",
    f"cgen-train {MINE} {TRAIN} --steps 24": "total_steps 24, not 12",
    f"cgen-train {MINE}/config.json {TRAIN}": "config.json",
    f"cgen-train {MINE}/config.json/run {TRAIN}": "config.json",
    f"cgen-train /proc/curriculum {TRAIN}": "/proc/curriculum",
    f"cgen-train /dev/null/run {TRAIN}": "/dev/null/run",
    f"cgen-evaluate {FRESH}": "not a run folder",
    f"cgen-evaluate {MINE}/judges": "judges",
    f"cgen-evaluate {MINE}/config.json": "config.json",
    f"cgen-evaluate {MINE} --images-per-class 0": "at least 1",
    f"cgen-evaluate {MINE} --images-per-class many": "--images-per-class",
    f"cgen-evaluate {MINE} --image-per-class 3": "did you mean '--images-per-class'",
    "cgen-evaluate": "give a run folder, checkpoint files, --generator",
    f"cgen-evaluate {MINE} --generator mine:generator": "--generator does not go with a run folder",
    f"cgen-evaluate {MINE} --dataset mnist": "--dataset does not go with a run folder",
    "cgen-evaluate --generator mine": "module:function",
    "cgen-evaluate --generator no_such_module:generator": "no_such_module",
    "cgen-evaluate --generator os.path:joyn": "did you mean 'join'",
    "cgen-evaluate --generator os.path:sep": "no function",
    "cgen-evaluate --generator os.path:join --dataset minst": "did you mean 'mnist'",
    "cgen-gate": "runs",
    f"cgen-gate {FRESH}": "neither a run folder nor a study",
    f"cgen-gate {MINE}": "cgen-evaluate",
    f"cgen-gate {MINE} --require LERNED": "did you mean 'LEARNED'",
    f"cgen-gate {MINE} --strikt": "did you mean '--strict'",
    "cgen-bench": "NAME",
    "cgen-bench control": "did you mean 'controls'",
    "cgen-bench controls --runs 0": "runs is 0",
    "cgen-bench faults --runs 3": "go with controls",
    "cgen-diagnose": "RUN_FOLDER|MODULE:FUNCTION",
    "cgen-diagnose nowhere": "nowhere: not a run folder",
    "cgen-diagnose nowhere:loop": "loop 'nowhere:loop': No module named 'nowhere'",
    "cgen-diagnose MINE --undo-steps -1": "undo steps is -1",
    "cgen-diagnose MINE --undo-step x": "undo",
    "cgen-bench controls --jobs 0": "jobs is 0",
    "cgen-bench controls --first-seed -1": "first seed is -1",
    f"cgen-batch --out {FRESH} --regimes full_curriculum phase1_onyl": "did you mean 'phase1_only'",
    f"cgen-batch --out {FRESH} --profile tini": "did you mean 'tiny'",
    f"cgen-batch --out {FRESH} --profile tiny --seeds 0:a": "0:a",
    f"cgen-batch --out {FRESH} --profile tiny --seeds 3:3": "3:3",
    f"cgen-batch --out {FRESH} --profile tiny --seeds -1": "-1",
    f"cgen-batch --out {FRESH} --profile tiny --jobs 0": "jobs is 0",
    f"cgen-batch --out {FRESH} --profile tiny --images-per-class 0": "images per class is 0",
    f"cgen-batch --out {FRESH} --profile tiny --seeds 0,1,x": "0,1,x",
    f"cgen-batch --out {FRESH} --profile tiny --seeds 0,": "write one as 3",
    f"cgen-batch --out {FRESH} --profile tiny --timeout 0": "timeout is 0 minutes",
    f"cgen-batch --out {FRESH} --profile tiny --timeout -5": "timeout is -5 minutes",
    f"cgen-batch --out {FRESH} --profile tiny --retry-faild": "did you mean '--retry-failed'",
    f"cgen-batch --out {FRESH} --profile tiny --scheduler "
    "tcp://127.0.0.1:9 --jobs 2": "--jobs goes without --scheduler",
    f"cgen-batch --out {FRESH} --profile tiny --interval 5": "does not divide 12",
    f"cgen-batch --out {MINE}/config.json --profile tiny": "config.json",
    "cgen-batch --out /proc/curriculum --profile tiny": "/proc/curriculum",
    f"cgen-batch --out {FRESH} --study step_1000": "did you mean 'step_10000'",
    f"cgen-batch --out {FRESH} --study nowhere:study": "study 'nowhere:study': No module named 'nowhere'",
    f"cgen-batch --out {FRESH} --study curriculum_gen.core.task:MNIST": "a Task is no study",
    f"cgen-batch --out {FRESH} --study comparison": "no regimes were given",
    f"cgen-batch --out {FRESH} --regimes nowhere:regime": "regime 'nowhere:regime': No module named 'nowhere'",
    f"cgen-batch --out {FRESH} --regimes curriculum_gen.core.task:MNIST": "a Regime is needed, and this is a Task",
    f"cgen-batch --out {FRESH} --regimes curriculum_gen.core.task:MINST": "did you mean 'MNIST'",
    f"cgen-batch --out {FRESH} --dataset nowhere:task": "data set 'nowhere:task': No module named 'nowhere'",
    f"cgen-batch --out {FRESH} --dataset curriculum_gen.studies.regimes:COMPARISON": "a Task is needed",
    f"cgen-train {FRESH} --regime nowhere:regime": "No module named 'nowhere'",
    f"cgen-train {FRESH} {TRAIN} --dataset nowhere:task": "No module named 'nowhere'",
    "cgen-evaluate --generator os.path:join --dataset nowhere:task": "No module named 'nowhere'",
    "cgen-data --dataset nowhere:task": "No module named 'nowhere'",
    "cgen-data --dataset digits --data no-such-folder": "it comes from its own function",
    "cgen-data --dataset minst": "did you mean 'mnist'",
    "cgen-data --data no-such-folder": "no-such-folder",
    f"cgen-data --dataset mnist --data {MINE}": "mnist",
    "cgen-data both": "'both'",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_costs_nothing(line, mine, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = everything(tmp_path)
    command, *arguments = [word.replace(MINE, str(mine.path)).replace(FRESH, "fresh") for word in line.split()]
    assert call(command, arguments) == 2
    told = capfd.readouterr()
    [words] = told.err.splitlines()
    assert words.startswith(f"{command}: ") and MISTAKES[line] in words and told.out == ""
    assert everything(tmp_path) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path, capfd):
    assert call("cgen-train", [tmp_path/"run", *TRAIN.split(), "--device", "cuda"]) == 2
    [words] = capfd.readouterr().err.splitlines()
    assert "no GPU" in words and "--device cpu" in words and not (tmp_path/"run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; /proc and /dev/null stand in for it above")
def test_a_folder_that_may_not_be_written(tmp_path, capfd):
    (tmp_path/"locked").mkdir(mode=0o500)
    assert call("cgen-train", [tmp_path/"locked"/"run", *TRAIN.split()]) == 2
    [words] = capfd.readouterr().err.splitlines()
    assert "may not be" in words and str(tmp_path/"locked") in words


@pytest.mark.parametrize("command", ["cgen-train", "cgen-batch"])
def test_too_little_space_is_told_before_anything_is_computed(command, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(free=20_000_000))
    folder = [tmp_path/"run", *TRAIN.split()] if command == "cgen-train" else ["--out", tmp_path/"run", "--profile",
                                                                               "tiny"]
    assert call(command, folder) == 2
    [words] = capfd.readouterr().err.splitlines()
    assert "20 MB are free" in words and "run needs" in words
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_batch_needs_space_for_all_its_runs(tmp_path, monkeypatch, capfd):
    "Each of the four fits, all together do not"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(free=100_000_000))
    assert call("cgen-batch", ["--out", tmp_path/"study", "--profile", "tiny", "--seeds", "0"]) == 2
    [words] = capfd.readouterr().err.splitlines()
    assert "100 MB are free" in words


# ---- the gate

def test_the_gate_stops_what_learned_nothing_and_an_exchanged_judge(mine, capfd):
    assert call("cgen-evaluate", [mine.path, "--images-per-class", "20"]) == 0
    assert [call("cgen-gate", [mine.path, *options])
            for options in ((), ("--require", "AT-CHANCE"), ("--require", "LEARNED", "--strict"))] == [1, 0, 1]
    assert "AT-CHANCE falls short of ABOVE-CHANCE" in capfd.readouterr().out
    flip(mine.judges/"second.safetensors")
    assert call("cgen-gate", [mine.path, "--require", "AT-CHANCE"]) == 1
    assert "INVALID" in capfd.readouterr().out


# ---- damage

def cut(path): path.write_bytes(path.read_bytes()[:-50])
def flip(path): path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


@pytest.mark.parametrize("command", ["cgen-train", "cgen-evaluate"])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["a flipped bit", "cut short", "missing"])
def test_a_damaged_judge_is_found_before_it_judges(mine, command, damage, capfd):
    damage(mine.judges/"first.safetensors")
    shutil.rmtree(mine.checkpoint(12))   # so that there is something to train
    before = everything(mine.path)
    assert call(command, [mine.path] + (TRAIN.split() if command == "cgen-train" else [])) == 2
    words = capfd.readouterr().err.splitlines()[-1]
    assert words.startswith(f"{command}: ") and "judge" in words
    assert everything(mine.path) == before


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["a flipped bit", "cut short", "missing"])
def test_a_damaged_checkpoint_is_not_scored(mine, damage, capfd):
    damage(mine.checkpoint(6)/"generator.safetensors")
    assert call("cgen-evaluate", [mine.path]) == 2
    words = capfd.readouterr().err.splitlines()[-1]
    assert words.startswith("cgen-evaluate: ") and "step-000006" in words
    assert not mine.evaluation.exists()


def test_a_run_without_checkpoints_is_not_scored(mine, capfd):
    shutil.rmtree(mine.checkpoints)
    assert call("cgen-evaluate", [mine.path]) == 2
    [words] = capfd.readouterr().err.splitlines()
    assert "no checkpoint yet" in words


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"profile": "tyni"}'],
                         ids=["empty", "half", "no fields", "another thing", "an unknown profile"])
@pytest.mark.parametrize("command", ["cgen-train", "cgen-evaluate"])
def test_a_damaged_configuration_is_told(mine, command, text, capfd):
    mine.config.write_text(text)
    assert call(command, [mine.path] + (TRAIN.split() if command == "cgen-train" else [])) == 2
    [words] = capfd.readouterr().err.splitlines()
    assert words.startswith(f"{command}: ")
    assert mine.config.read_text() == text


def test_a_result_that_cannot_be_written_is_told(mine):
    "A limit on the size of files stands in for a full disk"
    process = start("cgen-evaluate", mine.path, folder=mine.path,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)))
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and "Traceback" not in error
    assert re.match(r"cgen-evaluate: .*(judges/.*|samples.npz|judged.npz|evaluation.json): .+", error.splitlines()[-1])
    assert not [path for path in mine.path.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def test_the_installed_commands_tell_mistakes_alike(tmp_path):
    "Exit code 2 and one line from real processes"
    lines = [f"cgen-train run {TRAIN} --seed x", "cgen-evaluate run", "cgen-batch --profile tini",
             "cgen-data --dataset minst"]
    running = [start(*line.split(), folder=tmp_path) for line in lines]
    for line, process in zip(lines, running):
        output, error = process.communicate(timeout=60)
        assert (process.returncode == 2 and output == "" and len(error.splitlines()) == 1
                and error.startswith(f"{line.split()[0]}: "))
    assert not list(tmp_path.iterdir())
