"""Batches as their users meet them: a tiny study by the real command, opened in a real browser, interrupted, failed,
doubled and asked for again

The study is made once, with the real reports, and is interrupted in the middle of its first training.
What only concerns the batch is tried with stand-ins for the report notebooks, which cost
a kernel's start each.
"""
import html, io, json, re, shutil, signal, subprocess, sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag

import nbformat, numpy as np, pytest
from filelock import FileLock
from PIL import Image

from browser import browser
import commands
from curriculum_gen.reporting import index, jobs as execution, reports
from curriculum_gen.sweeps import run_study as batches
from curriculum_gen.diagnosis.questions import diagnose_run
from curriculum_gen.studies.comparing import compare
from curriculum_gen.studies.step_10000 import preregistration_sha256
from curriculum_gen.curriculum.config import run_config
from curriculum_gen.studies.study import remember_study, study_named, study_of
from curriculum_gen.studies.table import pooled_rows
from curriculum_gen.core.records import read_json, sha256, write_json
from curriculum_gen.core.run_folder import RunFolder, read_history
from curriculum_gen.reporting.pages import outside_references
from started import PAUSES, PATIENCE, REGIMES, SLEEPS, TRAINS, Started, notebooks, stand_in, times, words

STUDY = ["--profile", "tiny", "--regimes", *REGIMES, "--seeds", "0", "--jobs", "1"]
ONE = ["--profile", "tiny", "--regimes", REGIMES[0], "--seeds", "0"]


@pytest.fixture(scope="module", autouse=True)
def no_network():
    "What the data tests try out is not tried again here; what a batch sets for its children ends with this file"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURRICULUM_GEN_SOURCES", "folder,cache,embedded")
        yield


# ---- the study

@pytest.fixture(scope="module")
def study(tmp_path_factory) -> SimpleNamespace:
    "A study of two runs, interrupted in the first training and then asked for again"
    out = tmp_path_factory.mktemp("study")/"runs"
    first, second = (RunFolder(out/regime/"seed-0") for regime in REGIMES)
    start = Started(out, *STUDY)
    start.wait_for(lambda: read_history(first.history) and first.steps())
    commands_of = [words(member) for member in start.family()]
    interrupted = start.signalled(signal.SIGINT)
    interrupted.words = commands_of
    interrupted.said, interrupted.status, interrupted.others = (start.said, read_json(first.status)["status"],
                                                                times(second.path))
    interrupted.checkpoint = {name: time for name, time in times(first.path).items()
                              if name.startswith("checkpoints/step-000000")}
    done = subprocess.run([Path(sys.executable).parent/"cgen-batch", "--out", out, *STUDY], cwd=out.parent,
                          capture_output=True, text=True, timeout=3*PATIENCE)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(out=out, runs=[first, second], interrupted=interrupted, output=done.stdout)


def test_ctrl_c_ends_every_process_and_is_told_in_one_line(study):
    stop = study.interrupted
    assert stop.code == 130 and "Traceback" not in stop.said
    assert "cgen-batch: interrupted; the same command continues" in stop.said.splitlines()[-1]
    assert any("ipykernel_launcher" in words for words in stop.words) and not stop.left
    assert stop.status == "cancelled" and list(stop.others) == ["config.json"], "a run that had not begun was begun"


def test_the_same_command_continues_an_interrupted_study(study):
    now = times(study.runs[0].path)
    assert study.interrupted.checkpoint and study.interrupted.checkpoint == {name: now[name]
                                                                             for name in study.interrupted.checkpoint}
    assert [len(read_history(run.history)) for run in study.runs] == [12, 12]


def test_ctrl_c_while_the_judges_are_prepared_ends_every_process(study, tmp_path):
    start = Started(tmp_path/"runs", *ONE, environment={"XDG_CACHE_HOME": str(tmp_path/"cache")})
    start.wait_for(lambda: any("curriculum_gen.sweeps.judges" in " ".join(words(member)) for member in start.family()))
    stop = start.signalled(signal.SIGINT)
    assert stop.code == 130 and not stop.left and "Traceback" not in start.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_do_not_outlive_a_batch_that_is_killed(evaluated, notebooks, number):
    start = Started(evaluated, *ONE, "--images-per-class", str(SLEEPS), notebooks=notebooks)
    start.wait_for((evaluated/REGIMES[0]/"seed-0"/"started").exists)
    stop = start.signalled(number)
    assert len(stop.family) >= 3 and not stop.left   # the run's process, papermill and its kernel


def test_every_run_has_an_executed_report_its_page_and_its_record(study):
    for run, regime in zip(study.runs, REGIMES):
        record, notebook = read_json(run.status), nbformat.read(run.report, as_version=4)
        assert (record["status"] == "ok" and record["error"] == "" and record["seconds"] > 0
                and {"curriculum_gen", "torch", "numpy"} <= set(record["versions"]))
        assert ((record["parameters"]["regime"], record["parameters"]["seed"]) == (regime, 0)
                and notebook.metadata.papermill.parameters == record["parameters"])
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert (all(cell.execution_count for cell in code if cell.source)
                and not any(output.output_type == "error" for cell in code for output in cell.outputs))
        assert read_json(run.evaluation)["rows"][-1]["step"] == 12 and run.page.exists()
        assert not [path.name for path in run.path.iterdir() if path.name == ".report.ipynb" or path.suffix == ".log"]


def test_the_study_has_a_table_a_report_and_an_index(study):
    table = read_json(study.out/"seed_table.json")
    assert {(row["regime"], row["seed"]) for row in table["rows"]} == {(regime, 0) for regime in REGIMES}
    assert {row["regime"]
            for row in table["pooled"]} == set(REGIMES) and table["profile"] == "tiny" and table["total_steps"] == 12
    assert (table["data_source"] and table["data"]["fingerprint"] and set(table["phases"]) == set(REGIMES)
            and table["judges"])
    assert table["answer"].strip() and table["answer"] in study.output and str(study.out/"index.html") in study.output
    assert (read_json(study.out/"run.json")["status"] == "ok" and (study.out/"seed_table.ipynb").exists()
            and (study.out/"seed_table.html").exists())
    assert all(outside_references(page.read_text()) == [] for page in study.out.rglob("*.html"))


def test_asked_again_it_does_nothing(study, capfd):
    before, content = times(study.out), {path: path.read_bytes() for path in study.out.glob("*.*")}
    assert commands.batch(["--out", str(study.out), *STUDY]) == 0
    assert "2 of them done already" in capfd.readouterr().out
    written = {name for name, time in times(study.out).items() if before.get(name) != time}
    # derived anew, from the same rows
    assert written <= {"seed_table.json", "index.html"} and times(study.out).keys() == before.keys()
    assert {path: path.read_bytes() for path in content} == content


def test_a_study_copied_without_its_checkpoints_is_done_wherever_it_lies(study, tmp_path, monkeypatch, capfd):
    "Nothing is executed, and no disk space asked for"
    copy = shutil.copytree(study.out, tmp_path/"elsewhere", ignore=shutil.ignore_patterns("checkpoints", "*.lock"))
    before = times(copy)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(free=0))
    assert commands.batch(["--out", str(copy), *STUDY]) == 0
    assert "2 of them done already" in capfd.readouterr().out
    assert {name for name, time in times(copy).items()
            if before.get(name) != time} <= {"seed_table.json", "index.html"} and times(copy).keys() == before.keys()


# ---- what a page is like

# reports of one file
FILES = {"card": "card.json", "diagnosis": "findings.json", "systems": "comparison.json", "series": "evaluation.json",
         "verdict_table": "seed_table.json"}
DRAWN = "placed_untrained", "control_real", "control_constant"   # regimes of displays


@pytest.fixture(scope="module")
def all_reports(study, tmp_path_factory) -> dict[str, Path]:
    "A page of every report there is"
    found, folder = ({"regime": study.runs[1].page, "seed_table": study.out/"seed_table.html"},
                     tmp_path_factory.mktemp("reports"))
    other = shutil.copytree(study.out, folder/"comparison",
                            ignore=shutil.ignore_patterns("checkpoints", "*.lock", "*.html"))
    remember_study(other, "comparison")
    [outcome] = index.report_study(other)
    assert outcome["status"] == "ok", outcome["error"]
    found["comparison"] = other/"comparison.html"
    table = shutil.copytree(other, folder/"regimes", ignore=shutil.ignore_patterns("comparison.*", "run.json"))
    remember_study(table, "regimes")
    [outcome] = index.report_study(table)
    assert outcome["status"] == "ok", outcome["error"]
    found["regimes"] = table/"regimes.html"
    moved = shutil.copytree(study.out, folder/"dynamics", ignore=shutil.ignore_patterns("*.lock", "*.html", "run.json"))
    remember_study(moved, "dynamics")
    [outcome] = index.report_study(moved)
    assert outcome["status"] == "ok", outcome["error"]
    composed = folder/"composition"
    assert commands.batch(["--study", "composition", "--profile", "tiny", "--seeds", "0", "--jobs", "1", "--regimes",
                           *(f"curriculum_gen.studies.composition:{name}" for name in DRAWN), "--out",
                           str(composed)]) == 0
    found |= {"dynamics": moved/"dynamics.html", "composition": composed/"composition.html"}
    evaluation = read_json(study.runs[1].evaluation)
    contents = {"card": evaluation["rows"][-1] | {"judges": evaluation["judges"],
                                                  "data_source": evaluation["data"]["source"]},
                "diagnosis": diagnose_run(study.runs[1].path, undo_steps=0).to_dict(),
                "systems": compare(study.runs[0].path, study.runs[1].path).to_dict(),
                "verdict_table": read_json(study.out/"seed_table.json"), "series": evaluation}
    for name, content in contents.items():
        (folder/name).mkdir()
        if name == "series": shutil.copy(study.runs[1].samples, folder/name)
        file = write_json(folder/name/FILES[name], content)
        parameter = "table" if name == "verdict_table" else name
        job = execution.Job(name=name, notebook=reports.report_notebook(name), report=folder/name/"report.ipynb",
                            threads=1, parameters={parameter: file, f"{parameter}_sha256": sha256(file)})
        assert execution.execute(job)["status"] == "ok", read_json(job.status)["error"]
        found[name] = job.page
    return found


REPORTS = pytest.mark.parametrize(
    "name", [path.stem for path in sorted((Path(__file__).parent.parent/"nbs"/"reports").glob("*.ipynb"))])


def words_of(page: str) -> str:
    return " ".join(re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", page, flags=re.S).split())


@REPORTS
def test_a_page_is_one_small_file(all_reports, name):
    page = all_reports[name]
    assert page.stat().st_size < 3_000_000 and outside_references(page.read_text()) == []
    assert re.findall(r'<img[^>]*src="(?!data:)', page.read_text()) == []


@REPORTS
def test_every_picture_says_what_it_shows(all_reports, name):
    pictures = re.findall(r"<img\b[^>]*>", all_reports[name].read_text())
    texts = [html.unescape(found[1]) if (found := re.search(r'\balt="([^"]*)"', picture)) else ""
             for picture in pictures]
    assert texts and all(len(text) > 60 and not re.match(r"<|No description|Figure", text) for text in texts), texts
    # there the sliders of equal regimes
    assert len(set(texts)) == len(texts) or name in ("seed_table", "comparison"), "two pictures with one text"


@REPORTS
def test_a_page_begins_with_the_answer_and_its_figure(all_reports, name):
    after_title = re.split(r"</h1>", all_reports[name].read_text(), maxsplit=1)[1]
    after_title = after_title.split("</blockquote>", 1)[1]   # the line under the title
    answer, rest = re.search(r"<blockquote>(.*?)</blockquote>(.*)", after_title, re.S).groups()
    said = {"regime": "the first judge assigns", "seed_table": "As reported, it is not the regime",
            "comparison": "too few seeds (6 are needed)", "regimes": "None of 2 regimes is LEARNED",
            "verdict_table": "are decided with yes", "dynamics": "that of clouds without a hole in",
            "composition": "pairs that were kept back",
            "card": "the first judge assigns", "series": "the first judge assigns",
            "systems": "no direction can be stated",
            "diagnosis": "First to act on: loss term without gradient"}
    assert (words_of(after_title).startswith(words_of(answer)) and said[name] in words_of(answer)
            and len(answer.split("</p>")) == 2), words_of(answer)
    assert words_of(rest[:rest.index("<img")]) == "", "something stands between the answer and its figure"


@REPORTS
def test_a_page_ends_with_what_it_was_made_from(all_reports, name):
    end = all_reports[name].read_text().split("Parameters and provenance")
    assert len(end) == 2 and "<h2" not in end[1]
    commit = read_json(all_reports[name].with_name("run.json"))["commit"] or "an installed package"
    named = ["parameter ", "version of curriculum_gen", "version of torch", commit,
             *(["fingerprint"] if name != "diagnosis" else []),
             *([preregistration_sha256()] if name in ("seed_table", "verdict_table") else [])]
    assert [what for what in named if what not in words_of(end[1])] == []


def test_a_study_of_any_regimes_asks_its_own_question_and_says_nothing_of_the_report(all_reports):
    page, study = all_reports["comparison"], study_named("comparison")
    index_page, table = page.with_name("index.html").read_text(), read_json(page.with_name("seed_table.json"))
    for text in (page.read_text(), index_page):
        assert f"<title>{study.question}</title>" in text and words_of(text).count(study.question) >= 1
    assert f"{REGIMES[1]} against {REGIMES[0]}: " in table["answer"] and "they are one training" in table["answer"]
    assert f"<h1>{study.question}</h1>" in index_page and 'href="comparison.html"' in index_page
    told = " ".join([table["answer"], words_of(index_page), words_of(page.read_text())])
    assert re.findall(r"(?i)step 10,000|lab report|the report's|registered|step_10000|14\.3", told) == []


def test_the_first_study_keeps_its_question_and_its_table(study, root):
    "And what its functions say of the committed rows is what stands in the committed table"
    asked = study_named("step_10000")
    assert read_json(study.out/"study.json") == {"study": "step_10000", "question": asked.question,
                                                 "preregistration_sha256": asked.preregistration_sha256}
    page = (study.out/"index.html").read_text()
    assert "<h1>Is it the regime, is it the stopping, is there a regression?</h1>" in page
    text = (root/"results"/"quick.json").read_text()
    table, ours = json.loads(text), read_json(study.out/"seed_table.json")
    assert list(ours) == list(table) and list(ours["rows"][0]) == list(table["rows"][0])
    assert list(ours["pooled"][0]) == list(table["pooled"][0])
    assert list(ours["comparisons"][0]) == list(table["comparisons"][0])
    again = table | {"pooled": pooled_rows(table["rows"])}
    again |= {"answer": study_named("step_10000").answer(again)}
    assert write_json(study.out.parent/"again.json", again).read_text() == text
    asked = study_named("step_10000").pairs
    configs = [run_config("quick", regime=name, seed=0) for name in table["phases"]]
    planned = [(c.regime, *pair) for c in configs for pair in [*asked(c), (c.reference_step, c.total_steps)]]
    assert [(c["regime"], c["before"], c["after"]) for c in table["comparisons"]] == planned


def test_a_folder_without_a_note_is_the_study_that_its_regimes_are_of(study, tmp_path):
    out = shutil.copytree(study.out, tmp_path/"old", ignore=shutil.ignore_patterns("checkpoints", "study.json"))
    assert study_of(out).name == "step_10000"
    for config in out.glob(f"{REGIMES[0]}/*/config.json"):
        write_json(config, read_json(config) | {"regime": "mine:regime"})
    assert study_of(out).name == "comparison"


# ---- in a browser

def pages(study) -> list[Path]:
    return [study.out/"index.html", study.out/"seed_table.html", *(run.page for run in study.runs)]


@REPORTS
def test_a_page_is_well_behaved_on_a_narrow_phone(all_reports, browser, name):
    browser.window(375)
    try: visit = browser.visit(all_reports[name])
    finally: browser.window(1200)
    assert (visit.overflow <= 0 and not visit.errors and not visit.broken
            and visit.requests == [all_reports[name].resolve().as_uri()])


@pytest.mark.parametrize("width", [375, 1200])
def test_the_slider_shows_one_checkpoint_after_the_other(study, browser, width):
    run = study.runs[1]
    rows = read_json(run.evaluation)["rows"]
    browser.window(width)
    try:
        visit = browser.visit(run.page)
        browser.value("document.querySelector('.viewer input').focus()")
        caption, seen = "document.querySelector('.viewer figcaption').textContent", []
        for key in ["Home", *["ArrowRight"]*(len(rows) - 1)]:
            browser.press(key)
            seen.append((browser.value(caption), browser.picture(".viewer .window")))
        for (told, _), row in zip(seen, rows):
            n = 10*row["n_per_class"]
            assert (told.startswith(f"Step {row['step']:,} of {rows[-1]['step']:,}, ")
                    and f"{round(n*row['accuracy']):,} of {n:,} images" in told and row["verdict"] in told)
        assert browser.value("document.querySelector('.viewer input').getAttribute('aria-valuetext')") == seen[-1][0]
        assert len({words for words, _ in seen}) == len(rows) and len({picture for _, picture in seen}) == len(rows)
        box = browser.value("(b => [b.left, b.right])(document.querySelector('.viewer').getBoundingClientRect())")
        assert 0 <= box[0] < box[1] <= width and not visit.errors
    finally: browser.window(1200)


def test_the_slider_shows_the_images_on_record(study, browser):
    "What the screen has in the place of one image is that image"
    run = study.runs[1]
    with np.load(run.samples) as saved: images = saved["images"]
    browser.visit(run.page)
    # two pixels of the screen for one of the images
    browser.value("document.querySelector('.viewer').style.cssText += 'position: absolute; top: 0; left: 0; width: "
                  "600px; max-width: none'")
    browser.value("document.querySelector('.viewer input').focus()")
    for key, shown in (("Home", 0), ("ArrowRight", 1), ("End", len(images) - 1)):
        browser.press(key)
        screen = 255 - np.array(Image.open(io.BytesIO(browser.picture(".viewer .window"))).convert("L"),
                                dtype=float)[::2, ::2]
        for label, latent in ((0, 0), (7, images.shape[2] - 1)):
            part = screen[30*latent + 1:30*latent + 29, 30*label + 1:30*label + 29]
            alike = [np.corrcoef(part.ravel(), checkpoint[label, latent].ravel())[0, 1] for checkpoint in images]
            assert alike[shown] > 0.95 and np.argmax(alike) == shown, alike


def test_every_page_opens_without_an_error_and_asks_for_nothing_but_itself(study, browser):
    for page in pages(study):
        visit = browser.visit(page)
        assert (visit.requests == [page.resolve().as_uri()] and not visit.errors and not visit.broken
                and len(visit.text) > 500), page.name


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
    assert ({path.resolve() for run in study.runs for path in (run.page, run.report, run.status)}
            | {study.out.resolve()/f"seed_table.{kind}" for kind in ("html", "ipynb", "json")} <= reached)


def test_no_page_is_wider_than_a_computer_screen(study, browser):
    assert {page.name: max(0, browser.visit(page).overflow)
            for page in pages(study)} == dict.fromkeys((page.name for page in pages(study)), 0)


def test_no_page_is_wider_than_a_phone(study, browser):
    browser.window(390)
    try:
        assert {page.name: max(0, browser.visit(page).overflow)
                for page in pages(study)} == dict.fromkeys((page.name for page in pages(study)), 0)
    finally: browser.window(1200)


# ---- the batch, with stand-ins for the reports

@pytest.fixture
def evaluated(study, tmp_path) -> Path:
    "The runs of the study in another folder, trained and scored, without reports"
    out = tmp_path/"runs"
    for run in study.runs:
        shutil.copytree(run.path, out/run.path.relative_to(study.out),
                        ignore=shutil.ignore_patterns("report.*", "run.json", ".lock", ".report.lock"))
    return out


@pytest.fixture
def batch(notebooks, monkeypatch):
    "The command in this process"
    for module, name in (*((module, "report_notebook") for module in (reports, index, batches)),
                         (batches, "prepare_judges")):
        monkeypatch.setattr(module, name, getattr(module, name))   # so that they come back
    stand_in(notebooks)
    return lambda out, *arguments: commands.batch(["--out", str(out), *arguments])


def executions(out) -> list[int]:
    "How often the report of each run was executed"
    return [len((out/regime/"seed-0"/"executed").read_text().splitlines()) for regime in REGIMES
            if (out/regime/"seed-0"/"executed").exists()]


def test_a_failed_job_stops_no_other_and_is_tried_again_on_request(evaluated, batch, capfd):
    failing, other = (evaluated/regime/"seed-0" for regime in REGIMES)
    (failing/"broken").touch()
    assert batch(evaluated, *STUDY) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert (line == f"cgen-batch: {REGIMES[0]} seed 0 failed: RuntimeError: this run is broken; "
            "--retry-failed tries it again")
    assert [read_json(folder/"run.json")["status"] for folder in (failing, other)] == ["failed", "ok"]
    assert "this run is broken" in (failing/"report.log").read_text() and not (failing/"report.html").exists()
    assert read_json(evaluated/"run.json")["status"] == "ok" and "failed" in (evaluated/"index.html").read_text()
    (failing/"broken").unlink()
    # not by itself
    assert batch(evaluated,
                 *STUDY) == 1 and capfd.readouterr().err.splitlines()[-1] == line and executions(evaluated) == [1, 1]
    assert batch(evaluated, *STUDY, "--retry-failed") == 0
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
    shutil.rmtree(run.checkpoint(run.steps()[-1]))   # or there is nothing left to train
    before = times(run.path)
    with FileLock(run.lock): assert batch(evaluated, *ONE, "--images-per-class", str(TRAINS)) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "another process is training" in line and "--retry-failed tries it again" in line
    assert {name: time for name, time in times(run.path).items() if name in before} == before


def test_two_batches_at_once_in_one_folder_both_end_well(evaluated, notebooks):
    both = [Started(evaluated, *STUDY, "--images-per-class", str(PAUSES), notebooks=notebooks) for _ in range(2)]
    assert [start.wait() for start in both] == [0, 0], "\n".join(start.said for start in both)
    assert sum("another batch is at work here" in start.said for start in both) == 1
    for folder in (evaluated, *(evaluated/regime/"seed-0" for regime in REGIMES)):
        assert read_json(folder/"run.json")["status"] == "ok"
    for page in evaluated.rglob("*.html"): assert page.read_text().rstrip().endswith("</html>")
    assert not [path for path in evaluated.rglob("*") if path.suffix == ".log" or path.name == ".report.ipynb"]
