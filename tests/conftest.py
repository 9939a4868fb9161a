"""What every test shares: the top of the repository, slow tests on request only, one thread and no window"""
import os

# before torch is imported: two test processes then share two cores evenly
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import shutil, signal, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# ignored where the shell started the tests in the background, and children would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow too")


LONGEST = ["test_reports", "test_site", "test_resume", "test_commands", "test_sweeps", "test_packaging"]


def pytest_collection_modifyitems(config, items):
    # or one of two processes begins minutes of work when the other one ends
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    if config.getoption("--run-slow") or "slow" in (config.getoption("-m") or ""): return
    for item in items:
        if "slow" in item.keywords: item.add_marker(pytest.mark.skip(reason="slow: give --run-slow to run it"))


@pytest.fixture(scope="session")
def root() -> Path:
    "The top of the repository, and certainty that its package is the one under test"
    import curriculum_gen
    assert Path(curriculum_gen.__file__).is_relative_to(ROOT), ("another copy of the package is being tested: "
                                                                f"{curriculum_gen.__file__}")
    return ROOT


def copied(root, folder) -> Path:
    "A copy of the files that make the project"
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                            capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if not (root/name).is_file(): continue
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root/name, folder/name)
    return folder


@pytest.fixture
def project_copy(root, tmp_path) -> Path:
    "A copy of the project, to build in or to damage"
    return copied(root, tmp_path)


@pytest.fixture(scope="session")
def command():
    "Runs one of the environment's own commands, such as nbdev-export, in a folder"
    def run(name, *arguments, folder, **kwargs):
        return subprocess.run([Path(sys.executable).parent/name, *arguments], cwd=folder, capture_output=True,
                              text=True, timeout=300, **kwargs)
    return run
