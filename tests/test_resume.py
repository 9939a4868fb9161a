"""A run that is killed, interrupted, doubled or damaged ends in the same bits as one that was left alone,
or says in one line why it does not

Every kill here is a real SIGKILL of a real process. The processes are forked from a server that has imported torch
already, so a start costs a second.
"""
import json, multiprocessing, os, random, resource, shutil, signal, subprocess, sys, time
from pathlib import Path

import pytest

import commands
from curriculum_gen.training import train as training
from curriculum_gen.curriculum.config import checkpoint_steps, run_config
from curriculum_gen.core.records import read_json, sha256
from curriculum_gen.core.run_folder import RunFolder, read_history

STEPS, INTERVAL = 16, 8
PLANNED = list(checkpoint_steps(STEPS, INTERVAL))   # 0, 4, 5, 8, 9, 10, 16
LAST = 8   # the last checkpoint of the run that is half done
RUN = ["--regime", "full_curriculum", "--seed", "5", "--profile", "tiny", "--steps", str(STEPS), "--interval",
       str(INTERVAL)]
PATIENCE = 120   # seconds that a process gets for anything, on a busy machine; none needs a tenth of it
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["curriculum_gen.training.train", "curriculum_gen.commands.runs"])


@pytest.fixture(scope="module", autouse=True)
def no_network():
    "What the data tests try out is not tried again in every process here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURRICULUM_GEN_SOURCES", "folder,cache,embedded")
        yield


# ---- real processes

def at_operation(number, folder, act):
    """Call `act` when this process is about to do its n-th operation on a path under a folder:
    open, mkdir, rename, remove, list"""
    seen = 0
    def watch(event, arguments):
        nonlocal seen
        if event != "open" and event.split(".")[0] not in ("os", "shutil", "tempfile"): return
        if not any(isinstance(a, (str, os.PathLike)) and str(a).startswith(str(folder)) for a in arguments): return
        seen += 1
        if seen == number: act()
    sys.addaudithook(watch)


def in_process(command, arguments, log, killed_at, largest_file):
    "Runs in the new process"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1); os.dup2(descriptor, 2)
    if killed_at: at_operation(killed_at, Path(arguments[0]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    if largest_file: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.exit(getattr(commands, command)([str(a) for a in arguments]))


class Started:
    "A command in a process of its own"
    def __init__(self, *arguments, command="train", killed_at=None, largest_file=None):
        self.folder = Path(arguments[0])
        self.log = self.folder.with_name(f"{self.folder.name}.log")
        self.process = PROCESSES.Process(target=in_process,
                                         args=(command, arguments, self.log, killed_at, largest_file))
        self.process.start()

    def wait(self) -> int:
        "Its exit code, negative for a signal"
        self.process.join(PATIENCE)
        if self.process.exitcode is None: self.process.kill(); pytest.fail(f"no end after {PATIENCE} s:\n{self.said}")
        return self.process.exitcode

    def wait_for(self, happened):
        "Until something happens or the process ends"
        limit = time.monotonic() + PATIENCE
        while not happened() and self.process.is_alive() and time.monotonic() < limit: time.sleep(0.003)

    def signal(self, number):
        if self.process.is_alive(): os.kill(self.process.pid, number)

    @property
    def said(self): return self.log.read_text() if self.log.exists() else ""


def problem(text, command="cgen-train") -> str:
    "The one line in which a command told its problem: the last, and no traceback above it"
    lines = [line.split("\r")[-1] for line in text.splitlines()]
    told = [line for line in lines if line.startswith(f"{command}: ")]
    assert "Traceback" not in text and told == lines[-1:], text
    return told[0]


def content(folder) -> dict[str, str]:
    "SHA-256 of every file a run leaves, by its path; not of data.json, which says who delivered the data"
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name not in (".lock", "data.json")]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def partials(run) -> list[Path]: return [path for path in run.checkpoints.glob(".*")]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> RunFolder:
    "The run nobody disturbed, by the installed command, with however many threads this machine would use by itself"
    folder = tmp_path_factory.mktemp("unbroken")/"run"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c",
                           "import sys; from curriculum_gen.commands.runs import train; sys.exit(train())", folder,
                           *RUN], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    run = RunFolder(folder)
    assert run.steps() == PLANNED and len(read_history(run.history)) == STEPS
    return run


@pytest.fixture
def half_way(unbroken, tmp_path) -> RunFolder:
    "A copy of the run as a kill in step 10 would have left it, just before the checkpoint of step 9"
    run = RunFolder(shutil.copytree(unbroken.path, tmp_path/"run"))
    for step in PLANNED:
        if step > LAST: shutil.rmtree(run.checkpoint(step))
    run.history.write_bytes(b"".join(run.history.read_bytes().splitlines(keepends=True)[:9]))
    return run


# ---- kills

def test_killed_between_any_two_operations_on_its_files_it_ends_in_the_same_bits(unbroken, tmp_path):
    rng, run, kills, unfinished = random.Random(0), RunFolder(tmp_path/"run"), 0, 0
    while True:
        start = Started(run.path, *RUN, killed_at=rng.randint(1, 80) if kills < 9 else None)
        code = start.wait()
        if code == 0: break
        assert code == -signal.SIGKILL, start.said
        kills, unfinished = kills + 1, unfinished + len(partials(run))
        assert all(read_json(run.checkpoint(step)/"record.json")["step"] == step for step in run.steps())
    assert kills >= 4 and unfinished >= 1, "these kills show little: change the seed"
    assert content(run.path) == content(unbroken.path)


def test_killed_at_random_moments_it_ends_in_the_same_bits(unbroken, tmp_path):
    rng, run, kills = random.Random(2), RunFolder(tmp_path/"run"), 0
    def lines(): return run.history.read_bytes().count(b"\n") if run.history.exists() else 0
    for moment in ("before the first step", "in a checkpoint", "in a step", "in a checkpoint", "in a step"):
        start, before, wait = Started(run.path, *RUN), lines(), rng.randint(1, 3)
        if moment == "before the first step": time.sleep(rng.uniform(0, 0.5))
        if moment == "in a step": start.wait_for(lambda: lines() > before + wait)
        if moment == "in a checkpoint": start.wait_for(lambda: lines() > before and partials(run))
        time.sleep(rng.uniform(0, 0.03))
        start.signal(signal.SIGKILL)
        kills += start.wait() == -signal.SIGKILL
    assert kills >= 3, "it ended before the kills came: they show little"
    assert Started(run.path, *RUN).wait() == 0
    assert content(run.path) == content(unbroken.path)


@pytest.mark.parametrize("interrupts", [1, 2], ids=["once", "twice"])
def test_ctrl_c_is_told_in_one_line_and_goes_on_to_the_same_bits(unbroken, tmp_path, interrupts):
    run = RunFolder(tmp_path/"run")
    start = Started(run.path, *RUN)
    start.wait_for(lambda: len(read_history(run.history)) >= 11)
    for _ in range(interrupts): start.signal(signal.SIGINT); time.sleep(0.01)
    assert start.wait() == 130
    line = problem(start.said)
    stopped = read_history(run.history)[-1].step
    assert 11 <= stopped < STEPS and "same command continues" in line
    if interrupts == 1:
        assert f"step {stopped}" in line and run.steps()[-1] == stopped, "the steps since the last checkpoint are lost"
    again = Started(run.path, *RUN)
    assert again.wait() == 0, again.said
    assert run.steps() == PLANNED, "the checkpoint of the interrupt is not one of the run's"
    assert content(run.path) == content(unbroken.path)


def test_a_finished_run_is_left_alone(unbroken):
    before = {path: path.stat().st_mtime_ns for path in unbroken.path.rglob("*")}
    assert Started(unbroken.path, *RUN).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


# ---- one seed, one history

def test_another_seed_is_another_history(unbroken, tmp_path):
    config = run_config("tiny", regime="full_curriculum", seed=6, total_steps=STEPS, checkpoint_interval=STEPS)
    other = training.train(config, tmp_path/"run")
    ours, theirs = (read_history(run.history) for run in (unbroken, other))
    assert not {record.losses["alignment"] for record in ours} & {record.losses["alignment"] for record in theirs}
    for file in ("generator.safetensors", "witness.safetensors"):
        assert sha256(unbroken.checkpoint(0)/file) != sha256(other.checkpoint(0)/file)


def test_the_thread_count_is_part_of_a_run(half_way, capfd):
    assert read_json(half_way.config)["threads"] == 1
    before = content(half_way.path)
    assert commands.train([str(half_way.path), *RUN, "--threads", "2"]) == 2
    assert "threads 2, not 1" in problem(capfd.readouterr().err)
    assert content(half_way.path) == before


# ---- refused, and nothing lost

def test_a_second_process_is_refused_while_the_first_goes_on(unbroken, tmp_path, capfd):
    run = RunFolder(tmp_path/"run")
    first = Started(run.path, *RUN)
    first.wait_for(lambda: read_history(run.history))
    first.signal(signal.SIGSTOP)   # so that it cannot be done before the second comes
    try: assert commands.train([str(run.path), *RUN]) == 2
    finally: first.signal(signal.SIGCONT)
    line = problem(capfd.readouterr().err)
    assert "another process" in line and str(run.path) in line
    assert first.wait() == 0
    assert content(run.path) == content(unbroken.path)


def flip(path):
    "Change one bit in the middle of a file"
    data = bytearray(path.read_bytes())
    data[len(data)//2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:-100]), Path.unlink],
                         ids=["a flipped bit", "cut short", "missing"])
@pytest.mark.parametrize("file", ["generator.safetensors", "witness.safetensors", "optimisers.safetensors"])
def test_a_damaged_checkpoint_is_named(half_way, file, damage, capfd):
    damage(half_way.checkpoint(LAST)/file)
    before = content(half_way.path)
    assert commands.train([str(half_way.path), *RUN]) == 2
    line = problem(capfd.readouterr().err)
    assert f"step-{LAST:06d}/{file}" in line and "delete" in line
    after = content(half_way.path)
    assert {name: after[name] for name in before
            if name != "history.jsonl"} == {name: value for name, value in before.items() if name != "history.jsonl"}
    assert read_history(half_way.history)


def test_without_the_damaged_checkpoint_it_goes_on_to_the_same_bits(unbroken, half_way):
    flip(half_way.checkpoint(LAST)/"generator.safetensors")
    assert commands.train([str(half_way.path), *RUN]) == 2
    shutil.rmtree(half_way.checkpoint(LAST))
    assert commands.train([str(half_way.path), *RUN]) == 0
    assert content(half_way.path) == content(unbroken.path)


@pytest.mark.parametrize("text", ["", "{}", '{"step": 8, "files": {', "[]"],
                         ids=["empty", "no fields", "half", "another thing"])
def test_a_damaged_record_is_named(half_way, text, capfd):
    (half_way.checkpoint(LAST)/"record.json").write_text(text)
    assert commands.train([str(half_way.path), *RUN]) == 2
    assert f"step-{LAST:06d}" in problem(capfd.readouterr().err)


@pytest.mark.parametrize("damage", [lambda run: run.history.write_bytes(run.history.read_bytes()[:700]),
                                    lambda run: run.history.unlink(), lambda run: shutil.rmtree(run.checkpoint(5))],
                         ids=["lines of the history", "the history", "a checkpoint in the middle"])
def test_what_a_finished_run_has_lost_is_made_again(unbroken, tmp_path, damage):
    "The lines of the history are not forced to the disk one by one, so a power cut can cost the last of them"
    run = RunFolder(shutil.copytree(unbroken.path, tmp_path/"run"))
    damage(run)
    assert commands.train([str(run.path), *RUN]) == 0
    assert content(run.path) == content(unbroken.path)


def test_a_run_folder_of_the_first_format_goes_on_to_the_same_bits(unbroken, half_way):
    "Before there were landmarks in config.json, and when each loss was a field of its own in the history"
    config = read_json(half_way.config)
    del config["landmarks"]
    half_way.config.write_text(json.dumps(config))
    names = {"generator": "generator_loss", "on_generated": "witness_on_generated", "on_real": "witness_on_real"}
    def first_format(record):
        losses = {names.get(name, name): loss for name, loss in record.losses.items()}
        return {"step": record.step, "phase": record.phase, "grounding_weight": record.weights["grounding"], **losses,
                "judge_accuracy": record.judge_accuracy, "images": record.images}
    half_way.history.write_text("".join(json.dumps(first_format(r)) + "\n" for r in read_history(half_way.history)))
    assert commands.train([str(half_way.path), *RUN]) == 0
    differing = {name for name, digest in content(half_way.path).items() if content(unbroken.path)[name] != digest}
    assert differing <= {"config.json"}, differing


# ---- no space

@pytest.mark.parametrize("largest_file", [1_500_000, 3_000_000], ids=["the generator's weights", "the optimisers"])
def test_a_write_that_the_system_refuses_is_told_in_one_line_and_leaves_no_half_checkpoint(unbroken, half_way,
                                                                                           largest_file):
    start = Started(half_way.path, *RUN, largest_file=largest_file)
    assert start.wait() == 2, start.said
    assert str(half_way.path) in problem(start.said)
    assert half_way.steps()[-1] == LAST and not partials(half_way)
    assert Started(half_way.path, *RUN).wait() == 0
    assert content(half_way.path) == content(unbroken.path)


def test_a_disk_that_fills_up_is_told_in_one_line_and_the_run_goes_on_when_there_is_space(unbroken, half_way, tmp_path,
                                                                                          monkeypatch, capfd):
    disk, steps = tmp_path/"disk", training.take_steps
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", disk], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        run = RunFolder(shutil.copytree(half_way.path, disk/"run"))
        def steps_on_a_filling_disk(*arguments, **options):
            for record in steps(*arguments, **options):
                if record.step == 12:
                    subprocess.run(["dd", "if=/dev/zero", f"of={disk/'filler'}", "bs=64k"], capture_output=True)
                yield record
        monkeypatch.setattr(training, "take_steps", steps_on_a_filling_disk)
        assert commands.train([str(run.path), *RUN]) == 2
        line = problem(capfd.readouterr().err)
        assert "disk is full" in line and str(run.path) in line
        assert not partials(run)
        monkeypatch.setattr(training, "take_steps", steps)
        (disk/"filler").unlink()
        assert commands.train([str(run.path), *RUN]) == 0
        assert content(run.path) == content(unbroken.path)
    finally: subprocess.run(["umount", "-l", disk])
