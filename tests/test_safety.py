"""Nothing of the user's is run by accident, nothing is asked of the network, and what files say is text: every command, in
a folder full of files with the names of libraries, under a guard that stops connections in all its processes"""
import base64, os, socket, subprocess, sys
from pathlib import Path
from urllib.parse import unquote

from bs4 import BeautifulSoup
import nbformat, numpy as np, pandas as pd, pytest

from curriculum_gen.figures.plots import MOVE, checkpoint_viewer
from curriculum_gen.reporting.pages import clean_html, write_page

SHADOWS = """pandas numpy torch torchvision scipy sklearn matplotlib seaborn joblib papermill psutil tqdm msgspec
IPython ipykernel ipykernel_launcher jupyter_client nbformat nbconvert nbclient yaml filelock safetensors triton cupy
tensorflow jax logging json random statistics multiprocessing pickle typing usercustomize curriculum_gen""".split()
SHADOW = ("open({log!r}, 'a').write(__name__ + ' was imported from the working directory\\n')\n"
          "raise ImportError(__name__)\n")
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
named = "<img src=x onerror=go()>"
gentle = Regime(name=named, description="<script>go()</script> ![x](mine.py) [y](https://example.org) <style>body {}</style>",
                stages=(Stage(name="![x](mine.py) $a <b>", weights={"grounding": beside.WEIGHT}),))
"""
NAMED = "<img src=x onerror=go()>"


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
    assert place.processes > 4, "the guard was in no process of the batch but the first"
    pages = [place.folder/"study"/NAMED/"seed-0"/"report.html", *(place.folder/"study").glob("*.html")]
    assert len(pages) == 3
    for page in pages: says_only(page, *([NAMED] if page.stem in ("index", "report") else []))


def says_only(page, *names):
    "A page shows names as they are, and runs, loads, links and styles nothing of what they say"
    found = BeautifulSoup(page.read_text(), "html.parser")
    assert not found.find_all(["script", "iframe", "object", "embed", "form", "link", "base", "svg"]), page.name
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.find_all("img")), page.name
    assert not [tag.name for tag in found.find_all(True) for name in tag.attrs
                if name.startswith("on") and (tag.name, tag[name]) != ("input", MOVE)], page.name
    links = [link["href"] for link in found.find_all("a", href=True)]
    assert all(link.startswith("#") or (page.parent/unquote(link)).is_file() for link in links), links
    assert not [style for style in found.find_all("style")[1:] if "body" in style.text], page.name
    for name in names: assert name in found.text, f"{page.name} does not show {name}"


HOSTILE = """<script>go()</script> <img src=x onerror=go()> ![x]({secret}) [y](javascript:go()) <b onclick=go()>z</b>
<style>body {{ display: none }}</style> <iframe src=//example.org></iframe> <a href={secret}>w</a>"""


def test_an_output_is_shown_as_the_text_it_is(tmp_path):
    "In every form that an output can have; a picture of a file of this machine does not get into the page"
    (tmp_path/"secret.png").write_bytes(b"\x89PNG a secret")
    said = HOSTILE.format(secret=tmp_path/"secret.png")
    styled = pd.DataFrame({said: [said]}).style.set_properties(**{"text-align": "left"}).to_html()
    forms = [{"text/markdown": said}, {"text/html": said}, {"text/html": styled}, {"text/plain": said},
             {"image/svg+xml": f"<svg>{said}</svg>", "text/plain": "a drawing"}, {"application/javascript": "go()"},
             {"text/latex": said}]
    outputs = [*(nbformat.v4.new_output("display_data", form) for form in forms),
               nbformat.v4.new_output("stream", text=said)]
    cells = [nbformat.v4.new_markdown_cell("# A report"), nbformat.v4.new_code_cell("show()", outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path/"report.ipynb")
    write_page(tmp_path/"report.ipynb", tmp_path/"report.html", title="<script>go()</script>")
    says_only(tmp_path/"report.html", "<script>go()</script>", "onclick", "iframe", "a drawing")
    text = (tmp_path/"report.html").read_text()
    assert base64.b64encode(b"\x89PNG a secret").decode() not in text and f'="{tmp_path}' not in text


def test_the_slider_and_the_tables_stay_as_they_are():
    samples, phases = np.zeros((2, 10, 2, 8, 8), np.uint8), []
    rows = [{"step": step, "accuracy": 0.1, "n_per_class": 5, "verdict": "AT-CHANCE"} for step in (0, 10)]
    viewer = checkpoint_viewer(samples, rows, phases=phases, classes=["<b>"]*10)
    table = pd.DataFrame({"a": [1]}).style.set_properties(**{"text-align": "left"}).to_html()
    for before in (viewer, table):
        found, kept = (BeautifulSoup(text, "html.parser") for text in (before, clean_html(before)))
        tags = [(tag.name, {k: v for k, v in tag.attrs.items() if k != "style"}) for tag in found.find_all(True)]
        assert [(tag.name, {k: v for k, v in tag.attrs.items() if k != "style"}) for tag in kept.find_all(True)
                if tag.name != "style"] == [one for one in tags if one[0] != "style"]
        assert len(kept.find_all("style")) == len(found.find_all("style")) and kept.text.split() == found.text.split()
    before, after = (BeautifulSoup(text, "html.parser").find("figure")["style"]
                     for text in (viewer, clean_html(viewer)))
    assert "--shown" in before and before == after.rstrip(";")


@pytest.mark.slow
def test_no_other_command_does_either(place):
    place.run("cgen-train", "run", "--profile", "tiny", "--regime", "mine:gentle")
    place.run("cgen-evaluate", "run")
    place.run("cgen-diagnose", "run", codes=(0, 1, 3))
    place.run("cgen-compare", "run", "run", codes=(0, 1, 2, 3))
