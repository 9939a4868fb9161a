"""What is installed: the wheel's content and metadata, how it works without a clone, and the environment that `make`
builds
around one"""
import os, shutil, subprocess, sys, time, zipfile
from collections import namedtuple
from configparser import ConfigParser
from email import message_from_bytes
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import fastcore, nbformat, pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import curriculum_gen
from conftest import copied
from curriculum_gen.core.records import read_json
from notebooks import ONLY_IN_A_CLONE
from tools import environment, readme



@pytest.fixture(scope="module")
def settings(root):
    parser = ConfigParser(interpolation=None)
    parser.read(root/"settings.ini")
    return {name: value.split("\n")[1:] for name, value in parser["DEFAULT"].items()}


@pytest.fixture(scope="module")
def wheel_file(root, tmp_path_factory) -> Path:
    "The wheel, built in a copy of the project and without a network"
    folder = copied(root, tmp_path_factory.mktemp("project"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w",
               folder/"dist", folder]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return next((folder/"dist").glob("*.whl"))


@pytest.fixture
def wheel(wheel_file) -> zipfile.ZipFile: return zipfile.ZipFile(wheel_file)


def test_the_wheel_holds_the_package_its_data_its_reports_and_nothing_else(root, wheel):
    package = root/"curriculum_gen"
    content = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(root).as_posix() for path in package.rglob("*.py")}
    theirs = {name for name in modules if name.split("/")[1] in ONLY_IN_A_CLONE}
    reports = {f"curriculum_gen/notebooks/{path.name}" for path in (root/"nbs"/"reports").glob("*.ipynb")}
    data = {f"curriculum_gen/embedded/{path.name}" for path in (package/"embedded").glob("*")}
    assert {name.split("/")[1] for name in theirs} == {*ONLY_IN_A_CLONE} and len(reports) > 3 and len(data) == 3
    assert {"curriculum_gen/__init__.py", "curriculum_gen/diagnosis/checks/labels.py"} <= modules - theirs
    assert content == modules - theirs | reports | data | {
        "curriculum_gen/preregistration.json", "curriculum_gen/rivals.json", "curriculum_gen/composition.json",
        "curriculum_gen/dynamics.json", "curriculum_gen/gaussian_clouds.json", "curriculum_gen/pilots/digits.json",
        "curriculum_gen/pilots/coloured_digits.json", "curriculum_gen/pilots/fashion_mnist.json"}


def test_the_wheel_says_what_settings_ini_says(wheel, settings):
    information = {name.split("/", 1)[1]: wheel.read(name) for name in wheel.namelist() if ".dist-info/" in name}
    metadata = message_from_bytes(information["METADATA"])
    assert metadata["Version"] == curriculum_gen.__version__
    assert metadata["License-Expression"] == "Apache-2.0" and "licenses/LICENSE" in information
    def required(marker):
        return {line.split(";")[0].strip() for line in metadata.get_all("Requires-Dist") if ("extra" in line) == marker}
    assert {normal(r) for r in required(False)} == {normal(r) for r in settings["requirements"]}
    assert {normal(r) for r in required(True)} == {normal(r) for name, listed in settings.items()
                                                   if name.endswith("_requirements") for r in listed}
    points = information["entry_points.txt"].decode()
    for line in [*settings["console_scripts"], "curriculum_gen = curriculum_gen._modidx:d"]: assert line in points


def test_what_the_source_distribution_lists_is_there(root):
    "Of a pattern, at least one file"
    lines = [line.split() for line in (root/"MANIFEST.in").read_text().splitlines()]
    found = {" ".join(line): [*root.glob(line[1])] if line[0] == "include" else
             [path for pattern in line[2:] for path in (root/line[1]).rglob(pattern)] for line in lines}
    assert {line[0] for line in lines} == {"include", "recursive-include"} and all(found.values()), found
    assert all((root/name).exists() for line in lines if line[0] == "include" for name in line[1:])


def normal(requirement):
    "Name and bounds, without regard to their order and spelling"
    parsed = Requirement(requirement)
    return canonicalize_name(parsed.name), str(parsed.specifier)


# without a clone

@pytest.fixture(scope="module")
def installed(wheel_file, tmp_path_factory) -> Path:
    """An environment with the wheel and nothing of the clone: the packages it needs lie elsewhere,
    as `make environment`
    has it"""
    folder = tmp_path_factory.mktemp("elsewhere")/"environment"
    made = subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (folder/environment.SITE_PACKAGES/"shared.pth").write_text(f"{Path(fastcore.__file__).parent.parent}\n")
    shutil.copytree(Path(sys.prefix)/"share"/"jupyter", folder/"share"/"jupyter")   # templates of nbconvert
    done = subprocess.run([sys.executable, "-m", "pip", "--python", folder/"bin"/"python", "install", "--quiet",
                           "--no-deps", "--no-index", "--disable-pip-version-check", wheel_file], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def elsewhere(installed, tmp_path):
    "Starts a command of that environment in an empty folder"
    def run(name, *arguments):
        return subprocess.run([installed/"bin"/name, *arguments], cwd=tmp_path, capture_output=True, text=True,
                              timeout=600, env={**os.environ, "PYTHONPATH": "", "MPLBACKEND": "Agg"})
    return run


def test_without_a_clone_the_front_door_opens(elsewhere, installed):
    done = elsewhere("python", "-c",
                     "from curriculum_gen import watch; import curriculum_gen; print(curriculum_gen.__file__)")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_without_a_clone_every_command_tells_the_version(elsewhere, settings):
    names = [line.split(" = ")[0] for line in settings["console_scripts"] if ".workshop:" not in line]
    assert len(names) >= 6
    for name in names:
        done = elsewhere(name, "--version")
        assert done.returncode == 0 and curriculum_gen.__version__ in done.stdout, done.stderr


@pytest.mark.parametrize("command",
                         ["cgen-bench faults", "cgen-bench controls --brief", "cgen-site", "cgen-site --out site"])
def test_without_a_clone_the_workshop_says_that_it_needs_one(elsewhere, tmp_path, command):
    done = elsewhere(*command.split(" "))
    assert done.returncode == 2 and done.stdout == "", done.stdout
    assert len(done.stderr.splitlines()) == 1 and "clone" in done.stderr and not [*tmp_path.iterdir()], done.stderr


def test_without_a_clone_a_tiny_study_runs_from_its_command_to_its_pages(elsewhere, tmp_path):
    done = elsewhere("cgen-batch", "--profile", "tiny", "--seeds", "0", "--regimes", "phase1_only", "--out", "study")
    assert done.returncode == 0, done.stderr
    run = tmp_path/"study"/"phase1_only"/"seed-0"
    assert read_json(run/"run.json")["status"] == "ok" and read_json(run/"config.json")
    for page in (run/"report.html", tmp_path/"study"/"seed_table.html", tmp_path/"study"/"index.html"):
        assert "phase1_only" in page.read_text(), page.name


def test_every_command_is_installed_beside_the_interpreter(settings):
    wanted = dict(line.split(" = ") for line in settings["console_scripts"])
    installed = {point.name: point.value for point in entry_points(group="console_scripts")
                 if point.value.startswith("curriculum_gen.")}
    if not installed: pytest.skip("the package is not installed here, only imported: `make test` installs it")
    assert installed == wanted
    assert all((Path(sys.executable).parent/name).exists() for name in wanted)
    assert EntryPoint("curriculum_gen", "curriculum_gen._modidx:d", "nbdev") in entry_points(group="nbdev")


def test_every_requirement_has_a_pin_that_fits(root, settings):
    pins = [Requirement(line) for line in (root/"constraints.txt").read_text().splitlines() if "==" in line]
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    for requirement in map(Requirement,
                           settings["requirements"] + settings["dev_requirements"] + settings["docs_requirements"]):
        assert pinned.get(canonicalize_name(
            requirement.name)) in requirement.specifier, f"{requirement}: no pin in constraints.txt fits"


def test_the_readme_is_the_index_as_seen_from_the_top():
    table = nbformat.v4.new_output("display_data", {"text/html": "<div>\n<style scoped>\n td {}\n</style>\n"
                                                    "<table><tr><td>3</td></tr></table></div>"})
    picture = nbformat.v4.new_output("display_data", {"image/png": "aGk="})
    cells = [nbformat.v4.new_markdown_cell("# name\n\n> what it is\n\n[records](00_records.ipynb) "
                                           "[licence](../LICENSE) [web](https://example.com) [below](#below)"),
             nbformat.v4.new_code_cell("#| hide\nsecret = 1"),
             nbformat.v4.new_code_cell("#| eval: false\nshown()", outputs=[table, picture])]
    text, images = readme.readme(nbformat.v4.new_notebook(cells=cells))
    assert text.startswith("# name\n\n> what it is\n\n[records](nbs/00_records.ipynb) [licence](LICENSE) "
                           "[web](https://example.com) [below](#below)\n")
    assert "shown()" in text and "<td>3</td>" in text
    assert not [word for word in ("secret", "#|", "style") if word in text]
    [(name, content)] = images.items()
    assert name.startswith("nbs/index_files/") and f"({name})" in text and content == b"hi"


# The environment. Pins that need nothing from a registry make its steps quick enough to test: a real one takes minutes
# and 6 GB.

@pytest.fixture
def no_pins(tmp_path):
    path = tmp_path/"constraints.txt"
    path.write_text("# nothing to install\n")
    return path


@pytest.fixture
def base(tmp_path, no_pins):
    folder = tmp_path/"environments"/environment.base_key(no_pins)
    folder.parent.mkdir()
    return folder


def test_a_base_is_made_once_and_again_only_when_it_was_broken_off(base, no_pins, capsys):
    base.mkdir()
    (base/"half").write_text("an earlier make was killed here")
    environment.make_base(base, no_pins)
    assert not (base/"half").exists() and "broken off" in capsys.readouterr().out
    made = (base/"complete").stat().st_mtime_ns
    environment.make_base(base, no_pins)
    assert (base/"complete").stat().st_mtime_ns == made and capsys.readouterr().out == ""


def test_two_makes_at_once_make_one_base(base, no_pins, root):
    program = ("import sys; from pathlib import Path; from tools import environment as e\n"
               "base, pins = map(Path, sys.argv[1:])\n"
               "with e.locked(base.parent/'lock'): e.make_base(base, pins)")
    makes = [subprocess.Popen([sys.executable, "-c", program, base, no_pins], cwd=root, stdout=subprocess.PIPE,
                              text=True) for _ in range(2)]
    said = [make.communicate(timeout=120)[0] for make in makes]
    assert [make.returncode for make in makes] == [0, 0]
    assert sum("installed in" in text for text in said) == 1 and sum("waiting" in text for text in said) == 1


def test_the_lock_outlives_a_killed_make_while_its_step_still_writes(tmp_path, root):
    program = ("import sys; from pathlib import Path; from tools import environment as e\n"
               "folder = Path(sys.argv[1])\n"
               "with e.locked(folder/'lock'): e.run(['sleep', '3'], folder/'log')")
    make = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=root)
    while not (tmp_path/"log").exists(): time.sleep(0.02)
    time.sleep(0.5)
    make.kill(); make.wait()
    started = time.monotonic()
    with environment.locked(tmp_path/"lock"): assert time.monotonic() - started > 1


def test_only_pins_and_the_python_release_decide_which_base(no_pins):
    key = environment.base_key(no_pins)
    no_pins.write_text("# another comment\n")
    assert environment.base_key(no_pins) == key
    no_pins.write_text("seaborn==0.13.2\n")
    assert environment.base_key(no_pins) != key


@pytest.mark.parametrize("asked, gpu, there, had, build", [
    ("cpu", True, [], True, "cpu"), ("cuda", False, ["cpu"], True, "cuda"), ("", True, ["cpu"], True, "cuda"),
    ("", False, [], True, "cpu"), ("", False, [], False, "cuda"), ("cpu", False, ["cuda"], False, "cuda"),
    ("", False, ["cuda"], True, "cuda"), ("", False, ["cpu", "cuda"], True, "cpu"),
    ("cpu", False, ["cuda"], True, "cpu")])
def test_the_build_of_torch_is_what_is_asked_for_or_there_or_fits_the_machine(tmp_path, monkeypatch, asked, gpu, there,
                                                                              had, build):
    "And a registry is asked only where nothing else decides"
    pins = tmp_path/"constraints.txt"
    pins.write_text("numpy==2.0.0\ntorch==2.14.1\ntorchvision==0.29.1\n")
    for name in there:
        (folder := tmp_path/environment.base_key(pins, name)).mkdir()
        (folder/"bin").mkdir()
        (folder/"bin"/"python").touch()
        environment.stamp(folder, folder.name)
    asking = []
    monkeypatch.setenv("TORCH", asked)
    monkeypatch.setattr(environment, "sees_a_gpu", lambda: gpu)
    monkeypatch.setattr(environment, "has_cpu_build", lambda constraints: asking.append(1) or had)
    assert environment.chosen_build(tmp_path, pins) == build
    assert not asking or (not there or asked == "cpu") and asked != "cuda"


def test_the_pins_of_a_build_for_processors_name_it_and_make_another_base(tmp_path):
    pins = tmp_path/"constraints.txt"
    pins.write_text("# tested\ntorch==2.14.1\ntorch-fidelity==0.4.0\ntorchvision==0.29.1\n")
    assert environment.pins_of(pins, "cuda") == ["torch==2.14.1", "torch-fidelity==0.4.0", "torchvision==0.29.1"]
    assert environment.pins_of(pins, "cpu") == ["torch==2.14.1+cpu", "torch-fidelity==0.4.0", "torchvision==0.29.1+cpu"]
    assert environment.base_key(pins, "cpu") != environment.base_key(pins)


def test_a_build_of_another_name_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH", "gpu")
    with pytest.raises(environment.Problem, match="give cpu, cuda, or nothing"):
        environment.chosen_build(tmp_path, environment.CONSTRAINTS)


def test_a_wish_for_processors_that_cannot_be_had_is_told_and_the_other_build_taken(tmp_path, monkeypatch, capsys):
    pins = tmp_path/"constraints.txt"
    pins.write_text("torch==0.0.1\n")
    for name, value in {"CONFIG_FILE": "/dev/null", "INDEX_URL": "http://127.0.0.1:9/simple", "FIND_LINKS": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(environment, "ASK", ("--retries", "0", "--timeout", "1"))
    monkeypatch.setenv("TORCH", "cpu")
    assert environment.chosen_build(tmp_path, pins) == "cuda"
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_registry_that_does_not_answer_is_told_in_one_line(base, no_pins, monkeypatch):
    no_pins.write_text("curriculum-gen-needs-this==1\n")
    for name, value in {"CONFIG_FILE": "/dev/null", "INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "1",
                        "FIND_LINKS": "", "EXTRA_INDEX_URL": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(environment.Problem, match="registry does not answer") as told:
        environment.make_base(base, no_pins)
    assert "\n" not in str(told.value) and not environment.is_complete(base, base.name)


def test_a_full_disk_is_told_before_anything_is_written(base, no_pins, monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: namedtuple("usage", "free")(free=3e9))
    with pytest.raises(environment.Problem, match="3.0 GB free and 8 are needed"): environment.make_base(base, no_pins)
    assert not base.exists()


def test_a_foreign_folder_is_not_deleted(tmp_path, base):
    (tmp_path/".venv").mkdir()
    (tmp_path/".venv"/"mine").write_text("keep")
    with pytest.raises(environment.Problem, match="not made by this project"):
        environment.make_clone(tmp_path/".venv", base)
    assert (tmp_path/".venv"/"mine").exists()


def test_an_unwritable_place_is_told_in_one_line_with_exit_code_2(root, tmp_path):
    (tmp_path/"file").write_text("")
    told = subprocess.run([sys.executable, root/"tools"/"environment.py"], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "CURRICULUM_GEN_ENVIRONMENTS": str(tmp_path/"file")})
    assert told.returncode == 2 and len(told.stderr.splitlines()) == 1 and "CURRICULUM_GEN_ENVIRONMENTS" in told.stderr
