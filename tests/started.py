"""cgen-batch in real processes, with stand-ins for the report notebooks: they cost a kernel's start each,
and do what a test needs"""
import multiprocessing, os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace

import nbformat, psutil, pytest

import commands
from curriculum_gen.reporting import index, reports
from curriculum_gen.sweeps import run_study as batches
from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import read_json

REGIMES = ["phase1_only_reported", "full_curriculum_reported"]
# seconds that anything gets, on a busy machine; only judges that are not in the cache need a fifth of it
PATIENCE = 300
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["curriculum_gen.training.train", "curriculum_gen.commands.batch",
                                  "curriculum_gen.sweeps.run_study"])

# What a run does is told by its number of images a class, which is part of the command line
SLEEPS, PAUSES, TRAINS, WAITS = 17, 18, 19, 16
REGIME = f"""import time
from pathlib import Path
folder = Path(run_folder)
with open(folder/"executed", "a") as file: file.write(f"{{images_per_class}}\\n")
if (folder/"broken").exists(): raise RuntimeError("this run is broken")
if images_per_class == {SLEEPS}: (folder/"started").touch(); time.sleep(600)
if images_per_class == {PAUSES}: time.sleep(2)
if images_per_class == {WAITS}:
    (folder/"started").touch()
    while not (folder.parent.parent/"go").exists(): time.sleep(0.05)
if images_per_class == {TRAINS}:
    from curriculum_gen.curriculum.config import run_config
    from curriculum_gen.training.train import train
    train(run_config(profile, regime=regime, seed=seed, **changes), folder)"""


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory) -> Path:
    "Stand-ins for the reports: they note that they were executed, and do what the test needs"
    folder = tmp_path_factory.mktemp("notebooks")
    for name, parameters, code in (("regime", "regime = ''\nprofile = ''\nrun_folder = ''\n"
                                    "seed = 0\nimages_per_class = 0\nchanges = {}", REGIME),
                                   ("seed_table", "out = ''\ntable_sha256 = ''", "print(out)")):
        cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
                 nbformat.v4.new_code_cell(code)]
        nbformat.write(nbformat.v4.new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}),
                       folder/f"{name}.ipynb")
    return folder


def stand_in(notebooks):
    "Other notebooks in the place of the reports, for runs that have their judges"
    for module in (reports, index, batches): module.report_notebook = lambda name: notebooks/f"{name}.ipynb"
    batches.prepare_judges = lambda *arguments, **options: None


def in_process(log, arguments, notebooks, environment):
    "Runs in the new process, which leads a group of its own, as a command in a terminal does"
    os.setsid()
    os.environ |= environment
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1); os.dup2(descriptor, 2)
    sys.stdout.reconfigure(line_buffering=True)
    if notebooks: stand_in(notebooks)
    sys.exit(commands.batch([str(argument) for argument in arguments]))


class Started:
    "cgen-batch in a process of its own"
    def __init__(self, out, *arguments, notebooks=None, environment={}):
        self.out, self.log = Path(out), Path(out).with_name(f"{Path(out).name}-{time.monotonic_ns()}.log")
        self.process = PROCESSES.Process(target=in_process,
                                         args=(self.log, ["--out", out, *arguments], notebooks, environment))
        self.process.start()

    def runs(self) -> dict[Path, list[psutil.Process]]:
        "Run folder -> the process of the run and all that it has started"
        found = {}
        for mark in self.out.glob("*/seed-*/.running-*"):
            try:
                process = psutil.Process(read_json(mark)["process"])
                found[mark.parent] = [process, *process.children(recursive=True)]
            except (psutil.NoSuchProcess, InputError): pass
        return found

    def family(self) -> list[psutil.Process]:
        return [*psutil.Process(self.process.pid).children(recursive=True), *sum(self.runs().values(), [])]

    def wait_for(self, happened):
        limit = time.monotonic() + PATIENCE
        while not happened():
            if not self.process.is_alive() or time.monotonic() > limit: self.give_up()
            time.sleep(0.01)

    def wait(self) -> int:
        self.process.join(PATIENCE)
        if self.process.exitcode is None: self.give_up()
        return self.process.exitcode

    def give_up(self):
        for process in [*self.family(), psutil.Process(self.process.pid)] if self.process.is_alive() else []:
            process.kill()
        pytest.fail(f"not within {PATIENCE} s:\n{self.said[-2000:]}")

    def signalled(self, number, only=False) -> SimpleNamespace:
        """Send a signal to its group, as a terminal does, or to it alone; its exit code, what belonged to it at that
        moment, and what of that is still there five seconds later"""
        family = self.family()
        (os.kill if only else os.killpg)(self.process.pid, number)
        code, limit = self.wait(), time.monotonic() + 5
        while (left := [member for member in family if alive(member)]) and time.monotonic() < limit: time.sleep(0.05)
        for member in left: member.kill()
        return SimpleNamespace(code=code, family=family, left=left)

    @property
    def said(self): return self.log.read_text() if self.log.exists() else ""


def words(process) -> list[str]:
    "Of its command line"
    try: return process.cmdline()
    except psutil.NoSuchProcess: return []


def alive(process) -> bool:
    "One that ended and that nobody has collected counts as ended"
    try: return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return False


def times(folder) -> dict[str, int]:
    "When the files below a folder were changed"
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()
            and not path.name.endswith(".lock")}
