"""What is chosen by name may come from anybody: a file, an installed package, a notebook"""
import subprocess, sys

import pytest

from curriculum_gen.core.errors import InputError
from curriculum_gen.core.task import TASKS
from curriculum_gen.curriculum.config import run_config
from curriculum_gen.curriculum.regimes import PROGRAMS, REGIMES, Regime, Stage

THEIRS = """from curriculum_gen.core.task import Task
from curriculum_gen.curriculum.regimes import Regime, Stage
only = Stage(name="only", weights={"grounding": 0.1})
gentle = Regime(name="gentle", description="A tenth of the weight.", stages=(only,))
rings = Task("rings", (1, 8, 8), ("small", "large"))
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    "A folder with somebody's module, where Python is started"
    (tmp_path/"theirs.py").write_text(THEIRS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("theirs", None)


def test_a_regime_and_a_task_of_a_file_are_named_by_their_address(elsewhere):
    config = run_config("tiny", regime="theirs:gentle", seed=0, dataset="theirs:rings")
    assert config.recipe.name == "gentle" and config.task.classes == ("small", "large")
    assert [phase.weights for phase in config.phases] == [{"grounding": 0.1}]


WRONG = [("theirs:gentel", "did you mean 'gentle'"), ("thiers:gentle", "is it installed"),
         ("theirs:", "write it as module:")]


@pytest.mark.parametrize("wrong, told", WRONG)
def test_an_address_with_a_typo_is_told_in_one_line(elsewhere, wrong, told):
    with pytest.raises(InputError, match=told) as error: run_config("tiny", regime=wrong, seed=0)
    assert "\n" not in str(error.value)


def test_an_installed_package_adds_its_regime_and_its_task_by_entry_points(elsewhere):
    about = elsewhere/"theirs-1.0.dist-info"
    about.mkdir()
    (about/"METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = "[curriculum_gen.regimes]\ngentle = theirs:gentle\n[curriculum_gen.tasks]\nrings = theirs:rings\n"
    (about/"entry_points.txt").write_text(points)
    program = ("from curriculum_gen.curriculum.config import run_config\n"
               "from curriculum_gen.curriculum.regimes import REGIMES\n"
               "config = run_config('tiny', regime='gentle', seed=0, dataset='rings')\n"
               "print(config.recipe.description, config.task.image_shape, list(REGIMES)[-1])")
    done = subprocess.run([sys.executable, "-c", program], cwd=elsewhere, capture_output=True, text=True,
                          env={"PYTHONPATH": str(elsewhere), "PATH": ""})
    assert done.stdout.strip() == "A tenth of the weight. (1, 8, 8) gentle", done.stderr


def test_a_decorator_adds_a_regime_for_the_rest_of_the_process():
    @REGIMES.add
    def firm():
        twice = Stage(name="only", weights={"grounding": 2.0})
        return Regime(name="firm", description="Twice the weight.", stages=(twice,))
    try: assert run_config("tiny", regime="firm", seed=0).recipe.description == "Twice the weight."
    finally: del REGIMES._entries["firm"]


@pytest.mark.parametrize("registry", [REGIMES, TASKS, PROGRAMS], ids=lambda registry: registry.what)
def test_a_registry_is_a_mapping_and_every_entry_can_be_had(registry):
    assert len(registry) >= 1 and all(registry.named(name).name == name for name in registry)
