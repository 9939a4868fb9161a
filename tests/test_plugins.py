"""Somebody's own regime, task, study and report, in a file outside the package, by the installed command; and the 8x8
digits from training to the report, without a network

Nothing of the package is edited: what is one's own is named as module:object and lies where the command is started.
"""
import json, os, re, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import nbformat, pytest

from curriculum_gen.core.records import read_json
from curriculum_gen.core.run_folder import RunFolder, read_history
from curriculum_gen.reporting.pages import outside_references

MINE = '''
import numpy as np

from curriculum_gen.core.task import Task
from curriculum_gen.curriculum.regimes import Regime, Stage
from curriculum_gen.data.own import dataset_of
from curriculum_gen.studies.study import Study

def corners():
    "A spot in one of three corners of 12x12 pixels"
    rng = np.random.default_rng(0)
    def images(number):
        labels, pixels = np.arange(number) % 3, rng.normal(25, 10, (number, 12, 12))
        for image, label in zip(pixels, labels):
            row, column = ((1, 1), (1, 7), (7, 1))[label] + rng.integers(-1, 2, 2)
            image[row:row + 4, column:column + 4] += 200
        return pixels.clip(0, 255).astype(np.uint8), labels
    return dataset_of(task, train=images(900), test=images(300))

task = Task("corners", (1, 12, 12), ("upper left", "upper right", "lower left"), data=corners)
regime = Regime(name="gentle", description="Half of the run at a tenth of the weight, then at the full one.",
                stages=(Stage(name="soft", weights={"grounding": 0.1}), Stage(name="firm", weights={"grounding": 1.0})),
                options={"grounding_target": "requested"})

def answer(table):
    last = [row for row in table["pooled"] if row["step"] == table["total_steps"]]
    return "Is gentle enough? " + ", ".join(f"{row['regime']}: {row['accuracy']:.0%}" for row in last) + "."

study = Study(name="corners", question="Is a gentle beginning enough?", answer=answer, landmarks=("1/2",),
              regimes=("mine:regime", "phase1_only"), report="own_report.ipynb")
'''


def own_report(folder):
    "A report of one's own, which imports the file too"
    cells = [nbformat.v4.new_markdown_cell("# A draft"),
             nbformat.v4.new_code_cell("out = ''\ntable_sha256 = ''", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("import json, pathlib\nimport mine"),
             nbformat.v4.new_code_cell("mine.answer(json.loads((pathlib.Path(out)/'seed_table.json').read_text()))")]
    metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder/"own_report.ipynb")


def command(name, *arguments, folder):
    "The installed command, where no network answers"
    offline = {"CURRICULUM_GEN_SOURCES": "folder,cache,embedded", "https_proxy": "http://127.0.0.1:9",
               "http_proxy": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    return subprocess.run([Path(sys.executable).parent/name, *arguments], cwd=folder, env=os.environ | offline,
                          capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> SimpleNamespace:
    "A study of one's own regime beside one of the package, on one's own data"
    folder = tmp_path_factory.mktemp("mine")
    (folder/"mine.py").write_text(MINE)
    own_report(folder)
    done = command("cgen-batch", "--profile", "tiny", "--study", "mine:study", "--regimes", "mine:regime",
                   "phase1_only", "--dataset", "mine:task", "--seeds", "0", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(folder=folder, out=folder/"runs", said=done.stdout)


def test_ones_own_regime_task_and_study_run_by_the_installed_command(mine):
    run = RunFolder(mine.out/"gentle"/"seed-0")
    config, evaluation = read_json(run.config), read_json(run.evaluation)
    assert (config["regime"], config["dataset"], config["landmarks"]) == ("mine:regime", "mine:task", ["1/2"])
    assert [phase["grounding_weight"] for phase in evaluation["phases"]] == [0.1, 1.0]
    assert {row["regime"] for row in evaluation["rows"]} == {"gentle"} and evaluation["rows"][-1]["step"] == 12
    assert len(evaluation["rows"][-1]["confusion"]) == 3 and len(read_history(run.history)) == 12
    page = run.page.read_text()
    assert read_json(run.status)["status"] == "ok" and outside_references(page) == []
    assert "gets one in 3 on average" in page and "Half of the run at a tenth of the weight" in page


def test_it_is_answered_and_reported_as_its_study_says(mine):
    table = read_json(mine.out/"seed_table.json")
    assert table["answer"].startswith("Is gentle enough? gentle: ") and table["answer"] in mine.said
    assert list(table["phases"]) == ["gentle", "phase1_only"] and table["data"]["dataset"] == "corners"
    assert read_json(mine.out/"study.json") == {"study": "mine:study", "question": "Is a gentle beginning enough?",
                                                "preregistration_sha256": None}   # it states nothing
    index, report = (mine.out/"index.html").read_text(), (mine.out/"own_report.html").read_text()
    assert "<h1>Is a gentle beginning enough?</h1>" in index and 'href="own_report.html"' in index
    assert "Is a gentle beginning enough?</h1>" in re.sub(r"<a .*?</a>", "", report) and "A draft" not in report
    assert "Is gentle enough?" in report


def test_the_folder_knows_its_study(mine):
    "Asked again without it, nothing is done; a regime of another study is refused; elsewhere the file is missed"
    again = command("cgen-batch", "--profile", "tiny", "--dataset", "mine:task", "--seeds", "0", folder=mine.folder)
    assert again.returncode == 0 and "2 of them done already" in again.stdout, again.stdout + again.stderr
    other = command("cgen-batch", "--profile", "tiny", "--regimes", "full_curriculum", "--dataset", "mine:task",
                    folder=mine.folder)
    assert other.returncode == 2 and "holds the study mine:study, which has no regime 'full_curriculum'" in other.stderr
    elsewhere = command("cgen-evaluate", mine.out/"gentle"/"seed-0", folder=mine.out)
    assert elsewhere.returncode == 2 and len(elsewhere.stderr.splitlines()) == 1
    assert "is it installed, or in this folder?" in elsewhere.stderr


def test_ones_own_task_serves_the_other_commands(mine):
    found = command("cgen-data", "--dataset", "mine:task", folder=mine.folder)
    assert found.returncode == 0 and "corners: 900 training and 300 test images" in found.stdout, found.stderr
    gated = command("cgen-gate", "runs", "--require", "AT-CHANCE", folder=mine.folder)
    assert gated.returncode in (0, 1) and "gentle seed 0, step 12" in gated.stdout, gated.stderr


def test_the_8x8_digits_from_training_to_the_report(tmp_path):
    done = command("cgen-batch", "--profile", "tiny", "--dataset", "digits", "--regimes", "phase1_only", "--seeds", "0",
                   folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run, table = RunFolder(tmp_path/"runs"/"phase1_only"/"seed-0"), read_json(tmp_path/"runs"/"seed_table.json")
    evaluation = read_json(run.evaluation)
    assert evaluation["task"]["image_shape"] == [1, 8, 8] and len(evaluation["task"]["classes"]) == 10
    assert len(json.loads(run.evaluation.read_text())["rows"]) == len(run.steps()) == 7
    assert table["dataset"] == "digits" and table["answer"] in done.stdout and "200 images" in table["answer"]
    for page in (run.page, tmp_path/"runs"/"seed_table.html", tmp_path/"runs"/"index.html"):
        assert outside_references(page.read_text()) == []
