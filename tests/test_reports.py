"""Batches as their users meet them: a tiny study by the real command, opened in a real browser, interrupted, failed, doubled and asked for again

The study is made once, with the real reports, and is interrupted in the middle of its first training. What only concerns the batch is tried with stand-ins for the report notebooks, which cost
a kernel's start each.
"""
import multiprocessing, os, shutil, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag

import nbformat, psutil, pytest
from filelock import FileLock

from browser import browser
from curriculum_gen import batches, commands
from curriculum_gen.records import RunFolder, read_history, read_json
from curriculum_gen.reports import outside_references

REGIMES = ["phase1_only_reported", "full_curriculum_reported"]
STUDY = ["--profile", "tiny", "--regimes", *REGIMES, "--seeds", "0", "--jobs", "1"]
ONE = ["--profile", "tiny", "--regimes", REGIMES[0], "--seeds", "0"]
PATIENCE = 300   # seconds that anything gets, on a busy machine; only judges that are not in the cache need a fifth of it
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["curriculum_gen.training", "curriculum_gen.commands", "curriculum_gen.batches"])


@pytest.fixture(scope="module", autouse=True)
def no_network():
    "What the data tests try out is not tried again here; what a batch sets for its children ends with this file"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURRICULUM_GEN_SOURCES", "folder,cache,embedded")
        yield


def times(folder) -> dict[str, int]:
    "When the files below a folder were changed"
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file() and not path.name.endswith(".lock")}


# ---- real processes

def in_process(log, arguments, notebooks):
    "Runs in the new process, which leads a group of its own, as a command in a terminal does"
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1); os.dup2(descriptor, 2)
    if notebooks: stand_in(batches, notebooks)
    sys.exit(commands.batch([str(argument) for argument in arguments]))


def stand_in(module, notebooks):
    "Other notebooks in the place of the reports, for runs that have their judges"
    module.report_notebook = lambda name: notebooks/f"{name}.ipynb"
    module.prepare_judges = lambda *arguments, **options: None


class Started:
    "cgen-batch in a process of its own"
    def __init__(self, out, *arguments, notebooks=None):
        self.log = Path(out).with_name(f"{Path(out).name}-{time.monotonic_ns()}.log")
        self.process = PROCESSES.Process(target=in_process, args=(self.log, ["--out", out, *arguments], notebooks))
        self.process.start()

    def family(self) -> list[psutil.Process]: return psutil.Process(self.process.pid).children(recursive=True)

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
        for process in [*self.family(), psutil.Process(self.process.pid)] if self.process.is_alive() else []: process.kill()
        pytest.fail(f"not within {PATIENCE} s:\n{self.said[-2000:]}")

    def signalled(self, number) -> SimpleNamespace:
        "Send a signal to its group, as a terminal does; its exit code, its children at that moment, and those of them that are still there five seconds later"
        family = self.family()
        os.killpg(self.process.pid, number)
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


# ---- the study

@pytest.fixture(scope="module")
def study(tmp_path_factory) -> SimpleNamespace:
    "A study of two runs, interrupted in the first training and then asked for again"
    out = tmp_path_factory.mktemp("study")/"runs"
    first, second = (RunFolder(out/regime/"seed-0") for regime in REGIMES)
    start = Started(out, *STUDY)
    start.wait_for(lambda: read_history(first.history) and first.steps())
    interrupted = start.signalled(signal.SIGINT)
    interrupted.said, interrupted.status, interrupted.others = start.said, read_json(first.status)["status"], times(second.path)
    interrupted.checkpoint = {name: time for name, time in times(first.path).items() if name.startswith("checkpoints/step-000000")}
    done = subprocess.run([sys.executable, "-c", "import sys; from curriculum_gen.commands import batch; sys.exit(batch())", "--out", out, *STUDY],
                          cwd=out.parent, capture_output=True, text=True, timeout=3*PATIENCE)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(out=out, runs=[first, second], interrupted=interrupted, output=done.stdout)


def test_ctrl_c_ends_every_process_and_is_told_in_one_line(study):
    stop = study.interrupted
    assert stop.code == 130 and "Traceback" not in stop.said
    assert "cgen-batch: interrupted; the same command continues" in stop.said.splitlines()[-1]
    assert len(stop.family) >= 2 and not stop.left   # papermill and its kernel
    assert stop.status == "cancelled" and list(stop.others) == ["config.json"], "a run that had not begun was begun"


def test_the_same_command_continues_an_interrupted_study(study):
    now = times(study.runs[0].path)
    assert study.interrupted.checkpoint and study.interrupted.checkpoint == {name: now[name] for name in study.interrupted.checkpoint}
    assert [len(read_history(run.history)) for run in study.runs] == [12, 12]


def test_ctrl_c_while_the_judges_are_prepared_ends_every_process(study, tmp_path):
    start = Started(tmp_path/"runs", *ONE)
    start.wait_for(lambda: any("curriculum_gen.batches" in " ".join(words(member)) for member in start.family()))
    stop = start.signalled(signal.SIGINT)
    assert stop.code == 130 and not stop.left and "Traceback" not in start.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_do_not_outlive_a_batch_that_is_killed(evaluated, notebooks, number):
    start = Started(evaluated, *ONE, "--images-per-class", "17", notebooks=notebooks)   # for 17 the stand-in sleeps
    start.wait_for((evaluated/REGIMES[0]/"seed-0"/"started").exists)
    assert not start.signalled(number).left


def test_every_run_has_an_executed_report_its_page_and_its_record(study):
    for run, regime in zip(study.runs, REGIMES):
        record, notebook = read_json(run.status), nbformat.read(run.report, as_version=4)
        assert record["status"] == "ok" and record["error"] == "" and record["seconds"] > 0 and {"curriculum_gen", "torch", "numpy"} <= set(record["versions"])
        assert (record["parameters"]["regime"], record["parameters"]["seed"]) == (regime, 0) and notebook.metadata.papermill.parameters == record["parameters"]
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code if cell.source) and not any(output.output_type == "error" for cell in code for output in cell.outputs)
        assert read_json(run.evaluation)["rows"][-1]["step"] == 12 and run.page.exists()
        assert not [path.name for path in run.path.iterdir() if path.name == ".report.ipynb" or path.suffix == ".log"]


def test_the_study_has_a_table_a_report_and_an_index(study):
    table = read_json(study.out/"seed_table.json")
    assert {(row["regime"], row["seed"]) for row in table["rows"]} == {(regime, 0) for regime in REGIMES}
    assert {row["regime"] for row in table["pooled"]} == set(REGIMES) and table["profile"] == "tiny" and table["total_steps"] == 12
    assert table["data_source"] and table["data"]["fingerprint"] and set(table["phases"]) == set(REGIMES) and table["judges"]
    assert table["answer"].strip() and table["answer"] in study.output and str(study.out/"index.html") in study.output
    assert read_json(study.out/"run.json")["status"] == "ok" and (study.out/"seed_table.ipynb").exists() and (study.out/"seed_table.html").exists()
    assert all(outside_references(page.read_text()) == [] for page in study.out.rglob("*.html"))


def test_asked_again_it_does_nothing(study, capfd):
    before, content = times(study.out), {path: path.read_bytes() for path in study.out.glob("*.*")}
    assert commands.batch(["--out", str(study.out), *STUDY]) == 0
    assert "2 of them done already" in capfd.readouterr().out
    written = {name for name, time in times(study.out).items() if before.get(name) != time}
    assert written <= {"seed_table.json", "index.html"} and times(study.out).keys() == before.keys()   # derived anew, from the same rows
    assert {path: path.read_bytes() for path in content} == content


# ---- in a browser

def pages(study) -> list[Path]: return [study.out/"index.html", study.out/"seed_table.html", *(run.page for run in study.runs)]


def test_every_page_opens_without_an_error_and_asks_for_nothing_but_itself(study, browser):
    for page in pages(study):
        visit = browser.visit(page)
        assert visit.requests == [page.resolve().as_uri()] and not visit.errors and not visit.broken and len(visit.text) > 500, page.name


def test_every_link_leads_somewhere(study, browser):
    "From the index one gets to every page, notebook and record of the study"
    visits, reached = {page.resolve(): browser.visit(page) for page in pages(study)}, set()
    for page, visit in visits.items():
        for link in visit.links:
            address, fragment = urldefrag(link)
            assert address.startswith("file://"), f"{page.name} links outside: {link}"
            target = Path(unquote(address.removeprefix("file://")))
            assert target.is_file(), f"{page.name} links to {link}"
            if fragment: assert unquote(fragment) in visits[target].ids, f"{page.name} links to {link}"
            if page.name == "index.html": reached.add(target)
    assert {path.resolve() for run in study.runs for path in (run.page, run.report, run.status)} | {study.out.resolve()/f"seed_table.{kind}" for kind in ("html", "ipynb", "json")} <= reached


def test_no_page_is_wider_than_a_computer_screen(study, browser):
    assert {page.name: max(0, browser.visit(page).overflow) for page in pages(study)} == dict.fromkeys((page.name for page in pages(study)), 0)


def test_no_page_is_wider_than_a_phone(study, browser):
    browser.window(390)
    try: assert {page.name: max(0, browser.visit(page).overflow) for page in pages(study)} == dict.fromkeys((page.name for page in pages(study)), 0)
    finally: browser.window(1200)


# ---- the batch, with stand-ins for the reports

REGIME = """import time
from pathlib import Path
folder = Path(run_folder)
with open(folder/"executed", "a") as file: file.write(f"{images_per_class}\\n")
if (folder/"broken").exists(): raise RuntimeError("this run is broken")
if images_per_class == 17: (folder/"started").touch(); time.sleep(600)
if images_per_class == 18: time.sleep(2)
if images_per_class == 19:
    from curriculum_gen.curriculum import run_config
    from curriculum_gen.training import train
    train(run_config(profile, regime=regime, seed=seed), folder)"""

@pytest.fixture(scope="module")
def notebooks(tmp_path_factory) -> Path:
    "Stand-ins for the reports: they note that they were executed, and do what the test needs"
    folder = tmp_path_factory.mktemp("notebooks")
    for name, parameters, code in (("regime", "regime = ''\nprofile = ''\nrun_folder = ''\nseed = 0\nimages_per_class = 0\nchanges = {}", REGIME), ("seed_table", "out = ''\ntable_sha256 = ''", "print(out)")):
        cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), folder/f"{name}.ipynb")
    return folder


@pytest.fixture
def evaluated(study, tmp_path) -> Path:
    "The runs of the study in another folder, trained and scored, without reports"
    out = tmp_path/"runs"
    for run in study.runs:
        shutil.copytree(run.path, out/run.path.relative_to(study.out), ignore=shutil.ignore_patterns("report.*", "run.json", ".lock", ".report.lock"))
    return out


@pytest.fixture
def batch(notebooks, monkeypatch):
    "The command in this process"
    for name in ("report_notebook", "prepare_judges"): monkeypatch.setattr(batches, name, getattr(batches, name))   # so that they come back
    stand_in(batches, notebooks)
    return lambda out, *arguments: commands.batch(["--out", str(out), *arguments])


def executions(out) -> list[int]:
    "How often the report of each run was executed"
    return [len((out/regime/"seed-0"/"executed").read_text().splitlines()) for regime in REGIMES if (out/regime/"seed-0"/"executed").exists()]


def test_a_failed_job_stops_no_other_and_is_tried_again(evaluated, batch, capfd):
    failing, other = (evaluated/regime/"seed-0" for regime in REGIMES)
    (failing/"broken").touch()
    assert batch(evaluated, *STUDY) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"cgen-batch: {REGIMES[0]} seed 0 failed: RuntimeError: this run is broken")
    assert [read_json(folder/"run.json")["status"] for folder in (failing, other)] == ["failed", "ok"]
    assert "this run is broken" in (failing/"report.log").read_text() and not (failing/"report.html").exists()
    assert read_json(evaluated/"run.json")["status"] == "ok" and "failed" in (evaluated/"index.html").read_text()
    (failing/"broken").unlink()
    assert batch(evaluated, *STUDY) == 0
    assert read_json(failing/"run.json")["status"] == "ok" and executions(evaluated) == [2, 1]
    assert not (failing/"report.log").exists() and (failing/"report.html").exists()


def test_the_index_names_a_run_that_failed_before_it_was_scored(evaluated, batch):
    failing = evaluated/REGIMES[0]/"seed-0"
    (failing/"broken").touch()
    (failing/"evaluation.json").unlink()
    assert batch(evaluated, *STUDY) == 1
    assert REGIMES[0] in (evaluated/"index.html").read_text() and "failed" in (evaluated/"index.html").read_text()


def test_a_changed_parameter_or_notebook_is_executed_again_and_nothing_else(evaluated, batch, notebooks):
    assert batch(evaluated, *ONE) == 0 and executions(evaluated) == [1]
    assert batch(evaluated, *ONE) == 0 and executions(evaluated) == [1]
    assert batch(evaluated, *ONE, "--images-per-class", "10") == 0 and executions(evaluated) == [2]
    notebook = notebooks/"regime.ipynb"
    before = notebook.read_text()
    try:
        notebook.write_text(before.replace("this run is broken", "this run is not whole"))
        assert batch(evaluated, *ONE, "--images-per-class", "10") == 0 and executions(evaluated) == [3]
    finally: notebook.write_text(before)


def test_a_run_that_another_process_trains_is_left_to_it(evaluated, batch, capfd):
    run = RunFolder(evaluated/REGIMES[0]/"seed-0")
    before = times(run.path)
    with FileLock(run.lock): assert batch(evaluated, *ONE, "--images-per-class", "19") == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "another process is training" in line and "the same command tries it again" in line
    assert {name: time for name, time in times(run.path).items() if name in before} == before


def test_two_batches_at_once_in_one_folder_both_end_well(evaluated, notebooks):
    both = [Started(evaluated, *STUDY, "--images-per-class", "18", notebooks=notebooks) for _ in range(2)]
    assert [start.wait() for start in both] == [0, 0], "\n".join(start.said for start in both)
    for folder in (evaluated, *(evaluated/regime/"seed-0" for regime in REGIMES)): assert read_json(folder/"run.json")["status"] == "ok"
    for page in evaluated.rglob("*.html"): assert page.read_text().rstrip().endswith("</html>")
    assert not [path for path in evaluated.rglob("*") if path.suffix == ".log" or path.name == ".report.ipynb"]
