"""No stale name: whatever prose names of this project exists. Prose is the text of notebooks, README.md,
results/README.md,
SOURCES.md, what setup.py and the tools say of themselves, the comments of settings.ini, and the workflows and the
Makefile
as they stand."""
import ast, contextlib, importlib, io, re, subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import pytest

import commands
from notebooks import MODULES, NAMES, NOTEBOOKS, PACKAGE, ROOT, Notebook, none

WINGS = {notebook.wing for notebook in MODULES}
ENDINGS = "py|ipynb|json|jsonl|md|yml|ini|toml|txt|xz|npz|png|html|css|js|safetensors"


# ---- what is read

@dataclass(frozen=True)
class Text:
    "A piece of prose"
    where: str              # file, and cell
    folder: PurePosixPath   # below the top, from which its links lead
    text: str
    code: str = ""          # beside it: what it shows how to write


def documented(path: Path) -> Iterator[str]:
    "Docstrings of a Python file, and its comments"
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            yield ast.get_docstring(node)
    yield from re.findall(r"(?:^|\s)# (.*)", source)


BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.M | re.S)


def texts() -> list[Text]:
    found = []
    for notebook in NOTEBOOKS:
        folder = PurePosixPath("nbs", notebook.page).parent
        code = "\n".join([*notebook.code(), *(block for text in notebook.prose() for block in BLOCK.findall(text))])
        found += [Text(f"nbs/{notebook.page} cell {number}", folder, cell["source"], code)
                  for number, cell in enumerate(notebook.cells) if cell["kind"] == "markdown"]
        found += [Text(f"nbs/{notebook.page} cell {number}", folder, comment, code)
                  for number, cell in enumerate(notebook.cells) if cell["kind"] == "code"
                  for comment in re.findall(r"(?:^|\s)# (.*)", cell["source"])]
    files = ["README.md", "results/README.md", f"{PACKAGE}/embedded/SOURCES.md", "Makefile", ".ci/run",
             *(str(path.relative_to(ROOT)) for path in sorted((ROOT/".github").rglob("*.yml")))]
    for name in files:
        text = (ROOT/name).read_text()
        found.append(Text(name, PurePosixPath(name).parent, text, "\n".join(BLOCK.findall(text))))
    found += [Text(name, PurePosixPath("."), "\n".join(re.findall(r"^#+ (.*)", (ROOT/name).read_text(), re.M)))
              for name in ("settings.ini", "constraints.txt", "_quarto.yml")]
    for path in [ROOT/"setup.py", ROOT/PACKAGE/"__init__.py", *sorted((ROOT/"tools").rglob("*.py"))]:
        found += [Text(str(path.relative_to(ROOT)), PurePosixPath("."), text) for text in documented(path)]
    return found


TEXTS = texts()


def marked(text: str) -> Iterator[str]:
    "What is marked as code: between backticks, and the lines of blocks"
    for block in BLOCK.findall(text): yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


# ---- files

@cache
def files() -> frozenset[str]:
    "Every file of the project and every folder with one in it, below the top"
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split("\n")
    there = [PurePosixPath(name) for name in filter(None, names) if (ROOT/name).exists()]
    return frozenset(map(str, [*there, *(folder for name in there for folder in name.parents)]))


@cache
def made() -> frozenset[str]:
    "What is made here and not kept, as .gitignore lists it"
    return frozenset(line.rstrip("/") for line in (ROOT/".gitignore").read_text().splitlines())


@cache
def written() -> str:
    "All that the package and its reports say in code: a file that they write or read is named there"
    return "\n".join(source for notebook in NOTEBOOKS for source in notebook.code())


PATH = re.compile(rf"(?<![\w/.-])((?:nbs|{PACKAGE}|tests|tools|results|\.github|\.ci)/[\w./*<>-]*)")
FILE = re.compile(rf"(?<![\w<>{{}}/.-])([\w.-]+\.(?:{ENDINGS}))\b(?![\w(])")
NUMBERED = re.compile(r"(?<![\w./-])(?:[\w./-]*/)?(\d\d_[a-z]\w+)")
ONLY_IN_THE_WHEEL = {f"{PACKAGE}/notebooks"}


def stale_paths(text: Text) -> list[str]:
    """Paths below the top that lead nowhere, file names that neither the project has nor its code, notebooks that are
    gone"""
    prose = re.sub(r"\]\([^)]*\)", "]", text.text)   # links are looked at by themselves
    found = [path.rstrip("./") for path in PATH.findall(prose)]
    found = [path for path in found if path and not any(mark in path for mark in "*<>")
             and path not in files() | ONLY_IN_THE_WHEEL | made()]
    basenames = {PurePosixPath(name).name for name in files() | made()}
    found += [name for name in FILE.findall(prose) if name not in basenames and name not in written() + text.code]
    stems = {notebook.path.stem for notebook in NOTEBOOKS}
    return found + [name for name in NUMBERED.findall(prose) if name not in stems]


LINK = re.compile(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def stale_links(text: Text) -> list[str]:
    "Links that lead nowhere, and those that are called after another module than they lead to"
    found = []
    for words, target, _ in LINK.findall(re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text.text))):
        path = Path(ROOT/text.folder/target).resolve()
        if not path.exists(): found.append(f"[{words}]({target}) leads nowhere")
        elif re.fullmatch(r"[a-z_.]+",
                          words) and path.suffix == ".ipynb" and (notebook := Notebook(path)).module in NAMES:
            parts = notebook.module.split(".")
            if words not in {*parts, notebook.module}: found.append(f"[{words}]({target}) leads to {notebook.module}")
    return found


# ---- names in the package

ELSEWHERE = {"interactive": "a setting of matplotlib"}   # names of others that stand in no code of ours
DOTTED = re.compile(rf"(?<![\w/.-]){PACKAGE}((?:\.[A-Za-z_]\w*)+)")
CALLED = re.compile(r"([A-Za-z_]\w*)((?:\.[A-Za-z_]\w*)*)(?:\(.*\))?")


def leads(name: str) -> bool:
    "Whether a name below the package is a wing, a module or something in one"
    if any(f"{module}.".startswith(f"{name}.") for module in NAMES): return True
    if f'"{PACKAGE}.{name}"' in written() and "." not in name: return True   # a group of entry points
    parts = name.split(".")
    for length in range(len(parts) - 1, -1, -1):
        if length and ".".join(parts[:length]) not in NAMES: continue
        thing = importlib.import_module(".".join([PACKAGE, *parts[:length]]))
        for part in parts[length:]:
            if not hasattr(thing, part) and part not in getattr(thing, "__dataclass_fields__", {}): return False
            thing = getattr(thing, part, None)
        return True
    return False


def stale_names(text: Text) -> list[str]:
    """Names with the package's; names in backticks with a module's, such as `chance.holm`; and names in backticks that
    stand in no code. What is before a dot is a wing or a module of ours, importable, or a name in the code beside it"""
    found = [PACKAGE + name for name in DOTTED.findall(text.text) if not leads(name[1:])]
    modules = {name.split(".")[-1]: name for name in NAMES}
    for token in marked(text.text):
        if not (name := CALLED.fullmatch(token)) or FILE.fullmatch(token) or name[1] == PACKAGE: continue
        first, rest = name[1], name[2]
        if not rest and first in words_in_code() | ELSEWHERE.keys(): continue
        if re.search(rf"\b{first}\b", text.code) or find_spec_of(first): continue
        if first in WINGS and leads(first + rest) or first in modules and leads(modules[first] + rest): continue
        found.append(token)
    return found


@cache
def find_spec_of(name: str) -> bool: return find_spec(name) is not None


@cache
def words_in_code() -> frozenset[str]: return frozenset(re.findall(r"\w+", written()))


# ---- commands

TARGETS = re.compile(r"\bmake (?:--[\w-]+ )*([a-z]+)")


def stale_commands(text: Text) -> list[str]:
    "Commands that are not installed, options they do not have, targets that the Makefile lacks"
    found = [name for name in re.findall(r"\bcgen-\w+", text.text) if name not in commands.POINTS]
    code = text.text.splitlines() if text.where.endswith((".yml", "run")) else [*marked(text.text)]
    found += [f"make {target}" for line in code for target in TARGETS.findall(line.partition("#")[0])
              if target not in targets()]
    for line in code:
        found += [f".venv/bin/{name}" for name in re.findall(r"\.venv/bin/([\w-]+)", line) if name not in tools()]
        for name, rest in re.findall(r"(cgen-\w+)([^`|;&#]*)", line):
            if name in commands.POINTS:
                found += [f"{name} {option}" for option in re.findall(r"(?<!\S)--[\w-]+", rest)
                          if option not in options(name)]
    return found


@cache
def targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z]+):", (ROOT/"Makefile").read_text(), re.M))


@cache
def tools() -> frozenset[str]:
    "What an environment has to start"
    return frozenset({"python", "activate", *(point.name for point in entry_points(group="console_scripts")),
                      *commands.POINTS})


@cache
def options(name: str) -> frozenset[str]:
    "What the help of a command lists"
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        getattr(commands, name.removeprefix("cgen-"))(["--help"])
    return frozenset(re.findall(r"--[\w-]+", said.getvalue()))


# ---- the tests

LOOKED_AT = {"paths": stale_paths, "links": stale_links, "names": stale_names, "commands": stale_commands}


@pytest.mark.parametrize("kind", LOOKED_AT)
def test_what_prose_names_is_there(kind):
    none([f"{text.where}: {name}" for text in TEXTS for name in dict.fromkeys(LOOKED_AT[kind](text))], among=TEXTS,
         remedy="mend the name, or take it out")


def test_prose_is_found_everywhere_and_names_something():
    "A text that is not read has no stale names"
    read = {text.where.split(" ")[0] for text in TEXTS}
    assert {notebook.page for notebook in NOTEBOOKS} == {name.removeprefix("nbs/") for name in read if "nbs/" in name}
    assert read >= {"README.md", "results/README.md", f"{PACKAGE}/embedded/SOURCES.md", "Makefile", "setup.py",
                    ".github/workflows/nightly.yml", "tools/environment.py", "settings.ini", ".ci/run"}
    everything = "\n".join(text.text for text in TEXTS)
    assert all(f"`{name}`" in everything for name in ELSEWHERE), "take it out of the list"
    marks = "\n".join(mark for text in TEXTS for mark in marked(text.text))
    for least, found in ((30, PATH.findall(everything)),
                         (50, FILE.findall(everything)), (3, DOTTED.findall(everything)),
                         (50, LINK.findall(everything)), (20, re.findall(r"\bcgen-\w+ ", marks)),
                         (10, TARGETS.findall(marks)), (300, [*map(CALLED.fullmatch, marks.splitlines())])):
        assert len(found) > least, found


def test_every_kept_result_says_how_it_is_made():
    "By a command that writes it, or by a cell that names it"
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in (ROOT/"results"/"README.md").read_text().splitlines() if line.startswith("| `")]
    named = {name.rstrip("/"): made for names, _, made in rows for name in re.findall(r"`([^`]+)`", names)}
    assert named.keys() == {path.name for path in (ROOT/"results").iterdir()} - {"README.md"}
    code = {f"nbs/{notebook.page}": "\n".join(notebook.code()) for notebook in NOTEBOOKS}
    makes = {name: [made, *(code[page] for page in re.findall(r"nbs/[\w/]+\.ipynb", made))]
             for name, made in named.items()}
    none([name
          for name, texts in makes.items() if not any(f"results/{PurePosixPath(name).stem}" in text for text in texts)],
         among=named, remedy="neither the command nor the cell writes it")


STALE = {
    "paths": ["a cell of `nbs/32_controls.ipynb`", "of `nbs/47_peers`", "as nbs/03_data.ipynb says",
              "see 48_fault_bench",
              "`tools/kept.py`", "in `nothing_writes_this.json`", ".github/workflows/gone.yml"],
    "links": ["[data](03_data.ipynb)", "[data](nbs/03_data.ipynb)", "[meters](nbs/diagnosis/checks/01_scoring.ipynb)"],
    "names": [f"{PACKAGE}.meters", f"`{PACKAGE}.statistics.chance.holmes`", "`fault_catalogue.planted`",
              "`chance.holmes(p)`", "`compare_pears(progress=True)`"],
    "commands": ["cgen-walk", "`make fame`", "```sh\nmake fame\n```", "`cgen-batch --sedes 0:3`",
                 "`.venv/bin/nothing`"],
}
FINE = {
    "paths": ["nbs/index.ipynb", "`nbs/`", "tests/test_names.py", "`results/*.json`", "`run.json`", "`runs/index.html`",
              "~/.cache/curriculum_gen/environments", f"`{PACKAGE}/statistics/chance.py`"],
    "links": ["[chance](nbs/statistics/03_chance.ipynb#a)", "[exact tests](nbs/statistics/03_chance.ipynb)", "[a](#b)",
              "[statistics](nbs/statistics/03_chance.ipynb)", "[web](https://example.com/x.ipynb)", "`[a](b.ipynb)`"],
    "names": [f"{PACKAGE}.statistics.chance", f"`{PACKAGE}.statistics.chance.holm`", "`chance.holm(p)`",
              "`torch.compile`",
              "`statistics.chance.holm`", f"{PACKAGE}.__version__", f"{PACKAGE} 0.1.0"],
    "commands": ["cgen-batch", "`make test`", "make a picture", "`cgen-batch --seeds 0:3`", "`.venv/bin/pytest`"],
}


@pytest.mark.parametrize("kind, text", [(kind, text) for kind, texts in STALE.items() for text in texts])
def test_a_stale_name_is_seen(kind, text):
    assert LOOKED_AT[kind](Text("here", PurePosixPath("."), text))


@pytest.mark.parametrize("kind, text", [(kind, text) for kind, texts in FINE.items() for text in texts])
def test_a_name_that_is_there_is_left_alone(kind, text):
    assert not LOOKED_AT[kind](Text("here", PurePosixPath("."), text))
