"""Faults of the tools that give wrong results without an error. Each is shown to happen first, so that the test that it
does not happen here can fail."""
import json, os, re, signal, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat, papermill, psutil, pytest
from jupyter_client import KernelManager
from nbclient.exceptions import CellTimeoutError
from nbconvert import HTMLExporter

from browser import browser
from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import read_json
from curriculum_gen.reporting.pages import outside_references, write_page
from curriculum_gen.reporting.jobs import Job, execute

PYTHON = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
PATIENCE = 60   # seconds that anything gets, on a busy machine; nothing needs a tenth of it


def written(path, parameters, *cells) -> Path:
    "A notebook with a cell of parameters and others"
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[tagged, *map(nbformat.v4.new_code_cell, cells)], metadata=PYTHON),
                   path)
    return path


def job(notebook, folder="out", threads=1, **parameters) -> Job:
    return Job(name="a job", notebook=notebook, report=notebook.parent/folder/"report.ipynb", parameters=parameters,
               threads=threads)


def printed(path) -> str:
    return "".join(output.text for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
                   for output in cell.outputs if output.output_type == "stream")


def wait_for(happened):
    limit = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < limit, f"nothing in {PATIENCE} s"
        time.sleep(0.02)


# ---- 1: the parameters that are not used

PARAMETERS = nbformat.v4.new_code_cell('regime = "phase1_only"\nseed = 0',
                                       metadata={"tags": ["parameters"], "collapsed": True})


def kept_parameters(folder, command, setting):
    "Names of the parameters that papermill still sees after nbdev-clean, with this line in the project's configuration"
    text = (folder/"pyproject.toml").read_text()
    text, replaced = re.subn(r"^allowed_cell_metadata_keys = .*\n", setting, text, flags=re.MULTILINE)
    assert replaced == 1
    (folder/"pyproject.toml").write_text(text)
    path = folder/"nbs"/"trap.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[PARAMETERS], metadata=PYTHON)
    nbformat.write(notebook, path)
    cleaned = command("nbdev-clean", "--fname", "nbs/trap.ipynb", folder=folder)
    assert cleaned.returncode == 0, cleaned.stderr
    cell = nbformat.read(path, as_version=4).cells[0]
    assert "collapsed" not in cell.metadata, "nbdev-clean did not clean, so this shows nothing"
    return set(papermill.inspect_notebook(path))


@pytest.mark.parametrize("setting", ["", 'allowed_cell_metadata_keys = "tags"\n'],
                         ids=["no setting", "a string instead of a list"])
def test_clean_strips_the_parameters_tag_without_our_setting(project_copy, command, setting):
    assert kept_parameters(project_copy, command, setting) == set()


def test_clean_keeps_the_parameters_tag_with_our_setting(root, project_copy, command):
    ours = re.search(r"^allowed_cell_metadata_keys = .*\n", (root/"pyproject.toml").read_text(), flags=re.MULTILINE)[0]
    assert kept_parameters(project_copy, command, ours) == {"regime", "seed"}


def test_clean_keeps_the_parameters_of_every_report(root, project_copy, command):
    reports = sorted((project_copy/"nbs"/"reports").glob("*.ipynb"))
    before = {path: set(papermill.inspect_notebook(path)) for path in reports}
    assert before and all(before.values())
    assert command("nbdev-clean", folder=project_copy).returncode == 0
    assert {path: set(papermill.inspect_notebook(path)) for path in reports} == before


MISTYPED = 'regime = "phase1_only"', 'import os\nprint(regime, os.environ["OMP_NUM_THREADS"])'

def test_papermill_runs_with_the_defaults_when_a_name_is_mistyped_and_with_the_threads_of_whoever_calls(tmp_path,
                                                                                                        monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    papermill.execute_notebook(written(tmp_path/"source.ipynb", *MISTYPED), tmp_path/"bare.ipynb",
                               {"regmie": "full_curriculum"}, progress_bar=False)
    assert printed(tmp_path/"bare.ipynb") == "phase1_only 7\n"


def test_a_mistyped_name_is_refused(tmp_path):
    mistyped = job(written(tmp_path/"source.ipynb", *MISTYPED), regmie="full_curriculum")
    with pytest.raises(InputError, match="did you mean 'regime'"): execute(mistyped)
    assert not mistyped.report.parent.exists()


def test_a_notebook_without_the_tag_is_refused(tmp_path):
    untagged = written(tmp_path/"source.ipynb", *MISTYPED)
    untagged.write_text(untagged.read_text().replace('"parameters"', '"parameter"'))
    with pytest.raises(InputError, match="no cell is tagged"): execute(job(untagged, regime="full_curriculum"))


# ---- 2: the notebook that calls itself completed

SLEEPER = """import os, subprocess, sys, time
from pathlib import Path
if started:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    # papermill, kernel, what the kernel started
    Path(f"{started}.part").write_text(f"{os.getppid()} {os.getpid()} {child.pid}")
    os.rename(f"{started}.part", started)
time.sleep(seconds)"""

def sleeper(folder) -> Path:
    return written(folder/"source.ipynb", 'seconds = 0\nstarted = ""', SLEEPER, "print('the end')")


def claims(path) -> set:
    "What a saved notebook says of its cells"
    return {cell.metadata.papermill.status for cell in nbformat.read(path, as_version=4).cells}


def test_after_a_timeout_the_saved_notebook_calls_every_cell_completed(tmp_path):
    with pytest.raises(CellTimeoutError):
        papermill.execute_notebook(sleeper(tmp_path), tmp_path/"bare.ipynb",
                                   {"seconds": 600, "started": str(tmp_path/"started")}, execution_timeout=2,
                                   progress_bar=False)
    assert claims(tmp_path/"bare.ipynb") == {"completed"} and "the end" not in printed(tmp_path/"bare.ipynb")


def test_after_an_interrupt_the_saved_notebook_calls_every_cell_completed(tmp_path):
    command = [sys.executable, "-m", "papermill", sleeper(tmp_path), tmp_path/"bare.ipynb", "-p", "seconds", "600",
               "-p", "started", tmp_path/"started"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for((tmp_path/"started").exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) != 0
    assert claims(tmp_path/"bare.ipynb") == {"completed"} and "the end" not in printed(tmp_path/"bare.ipynb")


def test_papermill_has_no_limit_to_the_whole_time(tmp_path):
    slow = written(tmp_path/"source.ipynb", "x = 0", *["import time\ntime.sleep(0.6)"]*4)
    papermill.execute_notebook(slow, tmp_path/"bare.ipynb", execution_timeout=1, progress_bar=False)
    assert claims(tmp_path/"bare.ipynb") == {"completed"}


class Ended:
    "A job that went well once, and then was stopped in the middle of a cell: by its total time or from outside"
    def __init__(self, folder, how):
        self.good, started = job(sleeper(folder)), folder/"started"
        assert execute(self.good)["status"] == "ok" and self.good.is_done()
        self.before = {path: path.read_bytes() for path in (self.good.report, self.good.page)}
        self.stopped = job(self.good.notebook, seconds=600, started=str(started))
        if how == "cancelled":
            cancelled = threading.Event()
            threading.Thread(target=lambda: (wait_for(started.exists), cancelled.set())).start()
            self.outcome = execute(self.stopped, cancelled=cancelled)
        else:
            for seconds in (4, 15, PATIENCE):   # on a busy machine the kernel needs longer than its whole time
                self.outcome = execute(self.stopped, timeout_seconds=seconds)
                if started.exists(): break
        self.papermill, self.kernel, self.child = map(int, started.read_text().split())


@pytest.fixture(scope="module", params=["timeout", "cancelled"])
def ended(request, tmp_path_factory) -> Ended: return Ended(tmp_path_factory.mktemp("ended"), request.param)


def test_the_record_says_how_a_job_ended(ended, request):
    how = request.node.callspec.params["ended"]
    record = read_json(ended.stopped.status)
    assert record == ended.outcome and (record["status"], record["error"],
                                        record["attempts"]) == (how, how, 1) and record["parameters"]["seconds"] == 600
    assert not ended.stopped.is_done() and not ended.good.is_done()


def test_an_earlier_success_is_not_overwritten(ended):
    assert {path: path.read_bytes() for path in ended.before} == ended.before


def test_a_cell_that_fails_is_told_and_costs_no_earlier_report(tmp_path):
    good = job(sleeper(tmp_path))
    execute(good)
    before = good.report.read_bytes(), good.page.read_bytes()
    record = execute(job(good.notebook, seconds=-1))
    assert (record["status"], record["attempts"]) == ("failed",
                                                      1) and "sleep length must be non-negative" in record["error"]
    assert (good.report.read_bytes(), good.page.read_bytes()) == before and not good.is_done()


# ---- 3: kernels that outlive their job, answer for another one or do not start

def gone(*pids) -> bool:
    "Ended; one that nobody has collected yet counts as ended"
    def status(pid):
        try: return psutil.Process(pid).status()
        except psutil.NoSuchProcess: return psutil.STATUS_ZOMBIE
    return {status(pid) for pid in pids} == {psutil.STATUS_ZOMBIE}


def test_nothing_of_an_ended_job_goes_on(ended):
    limit = time.monotonic() + 5   # a kernel looks for its parent once a second
    while not gone(ended.papermill, ended.kernel) and time.monotonic() < limit: time.sleep(0.05)
    assert gone(ended.papermill, ended.kernel)


def test_what_the_kernel_of_an_ended_job_had_started_is_ended_too(ended):
    try: assert gone(ended.child)
    finally:
        if not gone(ended.child): os.kill(ended.child, signal.SIGKILL)


def sockets(manager) -> set[str]:
    "Those in the working folder at which a kernel listens"
    names = {f"{manager.ip}-{port}" for port in manager.ports}
    return names & {connection.laddr
                    for connection in psutil.Process(manager.provisioner.pid).net_connections(kind="unix")}


def answers(client) -> bool:
    try: client.wait_for_ready(timeout=3)
    except RuntimeError: return False
    return True


def test_of_two_kernels_on_ipc_in_one_folder_at_most_one_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    managers, clients = [KernelManager(transport="ipc") for _ in range(2)], []
    try:
        for manager in managers: manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert len({(manager.ip, manager.shell_port) for manager in managers}) == 1
        # before any client comes: whoever comes early is still answered by the first
        for manager in managers:
            wait_for(lambda: len(sockets(manager)) == len(manager.ports))
        clients = [manager.client() for manager in managers]
        for client in clients: client.start_channels()
        assert not all(answers(client) for client in clients) and all(manager.is_alive() for manager in managers)
    finally:
        for client in clients: client.stop_channels()
        for manager in managers: manager.shutdown_kernel(now=True)


MEETING = """import json, os, time
from pathlib import Path
from ipykernel.connect import get_connection_info
Path(f"here-{x}").touch()
while len(list(Path(".").glob("here-*"))) < 3: time.sleep(0.05)
threads = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"
print(x, json.loads(get_connection_info())["transport"], *(os.environ[name] for name in threads),
      os.getpgid(os.getppid()) == os.getppid())"""

def test_parallel_jobs_in_one_folder_do_not_cross_and_each_has_its_threads_and_group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    source = written(Path("source.ipynb"), "x = 0", MEETING)
    jobs = [job(source, folder=f"job-{x}", threads=x, x=x) for x in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda job: execute(job, timeout_seconds=PATIENCE), jobs))
    assert [outcome["status"] for outcome in outcomes] == ["ok"]*3
    assert [printed(job.report) for job in jobs] == [f"{x} tcp {x} {x} {x} True\n" for x in (1, 2, 3)]


RELUCTANT = """import os, sys
log, deaths, *arguments = sys.argv[1:]
with open(log, "a+") as file:
    file.write("start\\n"); file.seek(0)
    if len(file.readlines()) <= int(deaths): sys.exit(1)
os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments])"""

@pytest.fixture
def reluctant(tmp_path, monkeypatch):
    "Puts a kernel in the place of python3 that dies at its first starts; gives the file that counts them"
    def install(deaths) -> Path:
        folder, starts = tmp_path/"jupyter"/"kernels"/"python3", tmp_path/"starts"
        folder.mkdir(parents=True)
        (folder/"start.py").write_text(RELUCTANT)
        (folder/"kernel.json").write_text(json.dumps({"argv": [sys.executable, str(folder/"start.py"), str(starts),
                                                               str(deaths), "-f", "{connection_file}"],
                                                      "display_name": "python3", "language": "python"}))
        monkeypatch.setenv("JUPYTER_PATH", str(tmp_path/"jupyter"))
        return starts
    return install


@pytest.mark.parametrize("deaths, status", [(1, "ok"), (2, "failed")], ids=["dies once", "dies twice"])
def test_a_kernel_that_dies_at_its_start_is_started_once_more(tmp_path, reluctant, deaths, status):
    starts = reluctant(deaths)
    record = execute(job(written(tmp_path/"source.ipynb", "x = 0", "print(x)"), x=1))
    assert (record["status"], record["attempts"]) == (status, 2) and len(starts.read_text().splitlines()) == 2
    assert ("Kernel died" in record["error"]) == (status == "failed")


def test_papermill_gives_up_at_the_first_failed_start(tmp_path, reluctant):
    starts = reluctant(1)
    source = written(tmp_path/"source.ipynb", "x = 0")
    bare = subprocess.run([sys.executable, "-m", "papermill", source, tmp_path/"bare.ipynb"], capture_output=True,
                          text=True, timeout=PATIENCE)
    assert (bare.returncode != 0 and "Kernel died before replying" in bare.stderr
            and len(starts.read_text().splitlines()) == 1)


def test_a_kernel_that_dies_at_its_work_is_not_started_again(tmp_path, reluctant):
    starts = reluctant(0)
    record = execute(job(written(tmp_path/"source.ipynb", "x = 0", "import os\nos._exit(3)"), x=1))
    assert (record["status"], record["attempts"]) == ("failed", 1) and len(starts.read_text().splitlines()) == 1
    assert "Kernel died" in record["error"] or "DeadKernel" in record["error"]


# ---- 4: the page that needs the network

@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    "One executed notebook, as nbconvert makes a page of it and as we do"
    folder = tmp_path_factory.mktemp("pages")
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    cells = [nbformat.v4.new_markdown_cell("# Title\n\n> subtitle\n\nA formula, $p \\le 0.01$.\n\n"
                                           "```mermaid\ngraph LR; a --> b\n```"),
             nbformat.v4.new_code_cell("a figure",
                                       outputs=[nbformat.v4.new_output("display_data", data={"image/png": dot})])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=PYTHON), folder/"report.ipynb")
    (folder/"bare.html").write_text(HTMLExporter().from_filename(folder/"report.ipynb")[0])
    write_page(folder/"report.ipynb", folder/"ours.html", title="<A> title")
    return {name: folder/f"{name}.html" for name in ("bare", "ours")}


def test_the_page_of_nbconvert_names_other_sites_and_ours_does_not(pages):
    assert outside_references(pages["bare"].read_text()) and not outside_references(pages["ours"].read_text())


def test_in_a_browser_the_page_of_nbconvert_asks_for_them(browser, pages):
    visit = browser.visit(pages["bare"])
    assert visit.errors and [address for address in visit.requests if not address.startswith("file:")]


def test_in_a_browser_our_page_asks_for_nothing(browser, pages):
    visit = browser.visit(pages["ours"])
    assert visit.requests == [pages["ours"].as_uri()] and not visit.errors and not visit.broken
    assert "A formula" in visit.text and "a figure" not in visit.text
