"""Sweeps that lose workers, kernels or themselves, on this machine and on a dask cluster: real processes, real kills

The cluster is a scheduler and two workers on the loopback, which end by themselves. The reports are stand-ins,
see started.py.
"""
import re, shutil, signal, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path

import psutil, pytest

import commands
from curriculum_gen.reporting import index, jobs as execution, reports
from curriculum_gen.sweeps import run_study as batches
from curriculum_gen.curriculum.config import run_config
from curriculum_gen.core.records import read_json, write_json
from curriculum_gen.core.run_folder import RunFolder
from curriculum_gen.reporting.reports import example_study
from curriculum_gen.studies.table import run_path
from curriculum_gen.training.train import train
from started import PATIENCE, REGIMES, SLEEPS, TRAINS, WAITS, Started, alive, notebooks, stand_in, times, words

BOTH = ["--profile", "tiny", "--regimes", *REGIMES, "--seeds", "0"]
needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="dask is not installed: pip install "
                                "'.[cluster]', or `make environment` with a network")


@pytest.fixture(scope="module", autouse=True)
def no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURRICULUM_GEN_SOURCES", "folder,cache,embedded")
        yield


@pytest.fixture
def out(tmp_path) -> Path: return tmp_path/"runs"


@pytest.fixture
def batch(notebooks, monkeypatch):
    "The command in this process"
    for module, name in (*((module, "report_notebook") for module in (reports, index, batches)),
                         (batches, "prepare_judges")):
        monkeypatch.setattr(module, name, getattr(module, name))   # so that they come back
    stand_in(notebooks)
    return lambda out, *arguments: commands.batch(["--out", str(out), *map(str, arguments)])


def folders(out) -> list[Path]: return [out/regime/"seed-0" for regime in REGIMES]
def executions(out) -> list[int]: return [len((folder/"executed").read_text().splitlines()) for folder in folders(out)]
def all_started(out) -> bool: return all((folder/"started").exists() for folder in folders(out))


# ---- a cluster on the loopback

class Cluster:
    "A scheduler and two workers, which end with the test, and by themselves after minutes"
    def __init__(self, folder):
        self.log = open(folder/"cluster.log", "w+")
        scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--idle-timeout",
                               "300 s")
        limit = time.monotonic() + PATIENCE
        while not (found := re.search(r"Scheduler at:\s+(tcp://127\.0\.0\.1:\d+)", Path(self.log.name).read_text())):
            assert scheduler.poll() is None and time.monotonic() < limit, Path(self.log.name).read_text()
            time.sleep(0.05)
        self.address = found[1]
        self.workers = [self.start("worker", self.address, "--host", "127.0.0.1", "--nthreads",
                                   "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60", "--lifetime", "300 s",
                                   "--local-directory", folder) for _ in range(2)]
        while Path(self.log.name).read_text().count("Registered to:") < 2:
            assert time.monotonic() < limit
            time.sleep(0.05)
        self.processes = [*self.workers, scheduler]

    def start(self, *arguments):
        return subprocess.Popen([sys.executable, "-m", "dask", *map(str, arguments)], stdout=self.log, stderr=self.log,
                                stdin=subprocess.DEVNULL, start_new_session=True)

    def end(self):
        for process in self.processes: process.kill(); process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    yield running
    running.end()


# ---- what is killed

LONG = [*BOTH, "--images-per-class", TRAINS, "--steps", 24, "--interval", 6]

@needs_dask
def test_a_killed_kernel_costs_its_own_run_alone_which_a_cluster_then_finishes_to_the_same_bits(out, notebooks,
                                                                                                cluster):
    start = Started(out, *LONG, "--jobs", 2, notebooks=notebooks)
    lost, other = map(RunFolder, folders(out))
    start.wait_for(lambda: lost.path in start.runs() and [step for step in lost.steps() if step >= 6])
    for process in start.runs()[lost.path]:
        if "ipykernel_launcher" in words(process): process.kill()
    assert start.wait() == 1, start.said
    line = [line for line in start.said.splitlines() if line.startswith("cgen-batch:")]
    assert (len(line) == 1 and f"{REGIMES[0]} seed 0 failed" in line[0]
            and line[0].endswith("the same command goes on with it"))
    assert ([read_json(run.status)["status"] for run in (lost, other)] == ["failed", "ok"]
            and read_json(lost.status)["killed"] and len(lost.steps()) < len(other.steps()))
    kept = {name: time for name, time in times(lost.path).items() if name.startswith("checkpoints/")}
    again = Started(out, *LONG, "--scheduler", cluster.address, notebooks=notebooks)
    assert again.wait() == 0, again.said
    assert kept and kept.items() <= times(lost.path).items() and read_json(lost.status)["seconds_per_step"] > 0
    unbroken = train(run_config("tiny", regime=REGIMES[0], seed=0, total_steps=24, checkpoint_interval=6),
                     out.parent/"unbroken")
    assert unbroken.history.read_bytes() == lost.history.read_bytes()
    assert [read_json(run.checkpoint(24)/"record.json")["weights_sha256"]
            for run in (unbroken, lost)] == [read_json(lost.checkpoint(24)/"record.json")["weights_sha256"]]*2


def test_a_killed_worker_costs_nothing(out, notebooks):
    start = Started(out, *BOTH, "--images-per-class", WAITS, "--jobs", 2, notebooks=notebooks)
    start.wait_for(lambda: all_started(out))
    next(member for member in psutil.Process(start.process.pid).children()
         if any("LokyProcess" in word for word in words(member))).kill()
    start.wait_for(lambda: "a worker was killed" in start.said)
    (out/"go").touch()
    assert start.wait() == 0, start.said
    assert executions(out) == [1, 1] and [read_json(folder/"run.json")["status"] for folder in folders(out)] == ["ok",
                                                                                                                 "ok"]


@needs_dask
def test_a_cluster_that_loses_a_worker_loses_nothing_and_an_interrupt_ends_what_runs_there(out, notebooks, cluster):
    start = Started(out, *BOTH, "--images-per-class", WAITS, "--scheduler", cluster.address, notebooks=notebooks)
    start.wait_for(lambda: all_started(out))
    cluster.workers[0].kill()
    (out/"go").touch()
    assert start.wait() == 0, start.said
    assert executions(out) == [1, 1]
    start = Started(out, *BOTH[:-4], REGIMES[0], "--seeds", 0, "--images-per-class", SLEEPS, "--scheduler",
                    cluster.address, notebooks=notebooks)
    (folders(out)[0]/"started").unlink()
    start.wait_for((folders(out)[0]/"started").exists)
    stop = start.signalled(signal.SIGINT)
    assert stop.code == 130 and alive(psutil.Process(cluster.workers[1].pid))
    assert len(stop.family) >= 3 and not stop.left and "Traceback" not in start.said, start.said
    assert read_json(folders(out)[0]/"run.json")["status"] == "cancelled"


def test_nothing_outlives_a_batch_whose_main_process_alone_is_killed(out, notebooks):
    start = Started(out, *BOTH, "--images-per-class", SLEEPS, "--jobs", 2, notebooks=notebooks)
    start.wait_for(lambda: all_started(out))
    stop = start.signalled(signal.SIGKILL, only=True)
    left = [member for member in stop.left if not any("resource_tracker" in word for word in words(member))]
    assert len(stop.family) >= 8 and not left   # two workers, and for each the run's process, papermill and its kernel


# ---- what is told

def test_a_run_that_takes_too_long_is_stopped_and_goes_on_at_the_next_start(out, batch, capfd):
    one = ["--profile", "tiny", "--regimes", REGIMES[0], "--seeds", "0"]
    assert batch(out, *one, "--images-per-class", WAITS, "--timeout", 0.05) == 1
    assert (capfd.readouterr().err.splitlines()[-1] == f"cgen-batch: {REGIMES[0]} seed 0 timeout: timeout; "
            "the same command goes on with it")
    (out/"go").touch()
    assert batch(out, *one, "--images-per-class", WAITS) == 0


@pytest.fixture
def known(out) -> Path:
    "Two runs trained and scored, one of which an earlier batch has timed"
    for regime in REGIMES:
        shutil.copytree(run_path(example_study(), run_config("tiny", regime=regime, seed=0)), out/regime/"seed-0",
                        ignore=shutil.ignore_patterns(".lock", "checkpoints"))
    write_json(out/REGIMES[0]/"seed-0"/"run.json",
               {"status": "ok", "key": "", "seconds_per_step": 100, "other_seconds": 600})
    return out


def test_a_dry_run_says_what_would_be_done_and_does_nothing(known, batch, capfd):
    before = times(known)
    assert batch(known, "--profile", "tiny", "--regimes", *REGIMES, "--seeds", "0,1", "--jobs", 2, "--dry-run") == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0] == f"{known}: 4 runs of 12 steps, profile tiny, mnist, widths small, threads a run 1"
    for regime in REGIMES:
        assert (f"  {regime}, seed 0: only the report is missing" in said
                and f"  {regime}, seed 1: to be trained from step 0" in said)
    assert "time: about 30 min for 4 runs, 2 at a time" in said   # two runs of 12*100 + 600 s, side by side
    assert said[-2].startswith("  estimated from 100.000 s a step and 10 min a run for scoring and report: median "
                               "of 1 recorded run") and re.fullmatch(r"disk: \d+ MB more; [\d,]+ MB are free", said[-1])
    assert times(known) == before


def test_a_dry_run_without_records_measures_steps_and_says_so(out, batch, capfd):
    assert batch(out, *BOTH, "--dry-run") == 0
    assert "2 steps measured now" in capfd.readouterr().out and not out.exists()


def test_a_dry_run_of_what_failed_and_of_what_is_done(known, batch, capfd):
    jobs = reports.study_jobs(known, [run_config("tiny", regime=regime, seed=0) for regime in REGIMES],
                              images_per_class=20)
    for job, outcome in zip(jobs, ("failed", "ok")):
        for path in (job.report, job.page): path.touch()
        execution.record_outcome(job, outcome, error="this run is broken", seconds=1)
    assert batch(known, *BOTH, "--dry-run") == 0
    said = capfd.readouterr().out.splitlines()
    assert said[1:] == [f"  {REGIMES[0]}, seed 0: failed before (this run is broken); --retry-failed tries it again",
                        f"  {REGIMES[1]}, seed 0: done"]
    assert batch(known, *BOTH, "--dry-run", "--retry-failed") == 0 and "for 1 run," in capfd.readouterr().out


@needs_dask
def test_a_scheduler_that_does_not_answer_is_told_in_one_line(out, batch, capfd, monkeypatch):
    from dask import distributed
    real = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: real(address, timeout=0.5))
    assert batch(out, *BOTH, "--scheduler", "tcp://127.0.0.1:9", "--dry-run") == 2
    assert "tcp://127.0.0.1:9: no scheduler answers" in capfd.readouterr().err.splitlines()[-1]
