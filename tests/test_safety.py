"""Nothing of the user's is run by accident, and nothing is asked of the network: every command, in a folder full of
files with the names of libraries, under a guard that stops connections in all its processes"""
import os, socket, subprocess, sys
from pathlib import Path

import pytest

SHADOWS = """pandas numpy torch torchvision scipy sklearn matplotlib seaborn joblib papermill psutil tqdm msgspec
IPython ipykernel ipykernel_launcher jupyter_client nbformat nbconvert nbclient yaml filelock safetensors triton cupy
tensorflow jax logging json random statistics multiprocessing pickle typing usercustomize curriculum_gen""".split()
SHADOW = "open({log!r}, 'a').write(__name__ + ' was imported from the working directory\\n')\nraise ImportError(__name__)\n"
GUARD = """import os, socket
def guarded(name, address_of):
    original = getattr(socket.socket, name, None) or getattr(socket, name)
    def call(*given, **named):
        host = address_of(given)
        if isinstance(host, bytes): host = host.decode()
        if isinstance(host, str) and not host.startswith(("127.", "/", "\\0")) and host not in ("localhost", "::1", ""):
            with open(os.environ["GUARD_LOG"], "a") as log: log.write(f"{name} {host}\\n")
            raise OSError(f"no connection to {host} in this test")
        return original(*given, **named)
    return call
def host(address): return address[0] if isinstance(address, tuple) else None
for name in ("connect", "connect_ex"): setattr(socket.socket, name, guarded(name, lambda given: host(given[1])))
for name in ("getaddrinfo", "gethostbyname"): setattr(socket, name, guarded(name, lambda given: given[0]))
with open(os.environ["GUARD_LOG"] + ".processes", "a") as log: log.write(f"{os.getpid()}\\n")
"""
MINE = """import pandas, beside
from curriculum_gen.curriculum.regimes import Regime, Stage
assert pandas.DataFrame
gentle = Regime(name="gentle", description="A tenth of the weight.",
                stages=(Stage(name="only", weights={"grounding": beside.WEIGHT}),))
"""


class Place:
    "A working directory of shadows, and a guard on the network"
    def __init__(self, folder: Path):
        self.folder, self.log, guard = folder/"work", folder/"log", folder/"guard"
        for made in (self.folder, guard, folder/"bin"): made.mkdir()
        for name in SHADOWS: (self.folder/f"{name}.py").write_text(SHADOW.format(log=str(self.log)))
        (self.folder/"mine.py").write_text(MINE)
        (self.folder/"beside.py").write_text("WEIGHT = 0.1\n")
        (guard/"sitecustomize.py").write_text(GUARD)
        for client in ("npm", "apt-get", "curl", "wget"):
            (folder/"bin"/client).write_text(f"#!/bin/sh\necho {client} was started >> {self.log}\nexit 1\n")
            (folder/"bin"/client).chmod(0o755)
        self.environment = {**os.environ, "PYTHONPATH": str(guard), "GUARD_LOG": str(self.log), "MPLBACKEND": "Agg",
                            "PATH": f"{folder/'bin'}:{os.environ['PATH']}"}
        self.environment.pop("PYTHONSAFEPATH", None)

    def run(self, name, *arguments, codes=(0,)):
        done = subprocess.run([Path(sys.executable).parent/name, *map(str, arguments)], cwd=self.folder, text=True,
                              capture_output=True, timeout=600, env=self.environment)
        assert done.returncode in codes, f"{name} {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not self.log.exists(), f"{name}: {self.log.read_text()}"
        return done

    @property
    def processes(self) -> int: return len((self.log.parent/"log.processes").read_text().splitlines())


@pytest.fixture
def place(tmp_path): return Place(tmp_path)


def test_the_guard_and_the_shadows_would_be_noticed(place):
    "Python as it is usually started does import from the working directory, and connects"
    for program in ("import pandas", "import socket; socket.create_connection(('203.0.113.7', 80), 0.1)"):
        with pytest.raises(AssertionError): place.run("python", "-c", program)
        assert place.log.exists()
        place.log.unlink()
    with socket.create_server(("127.0.0.1", 0)) as server:
        place.run("python", "-c", "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))",
                  server.getsockname()[1])


def test_a_batch_with_its_reports_runs_nothing_of_the_folder_and_asks_nobody(place):
    place.run("cgen-batch", "--profile", "tiny", "--seeds", "0", "--regimes", "mine.py:gentle", "--out", "study")
    assert (place.folder/"study"/"gentle"/"seed-0"/"report.html").exists()
    assert place.processes > 4, "the guard was in no process of the batch but the first"


@pytest.mark.slow
def test_no_other_command_does_either(place):
    place.run("cgen-train", "run", "--profile", "tiny", "--regime", "mine:gentle")
    place.run("cgen-evaluate", "run")
    place.run("cgen-diagnose", "run", codes=(0, 1, 3))
    place.run("cgen-compare", "run", "run", codes=(0, 1, 2, 3))
