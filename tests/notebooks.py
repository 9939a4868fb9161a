"""The notebooks as tests see them, in the order of `_quarto.yml`, the one place where an order is written; and the two
ways in which a rule over many of them fails: at a breach, and when it finds nothing to check"""
import ast, json, re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest, yaml

import curriculum_gen

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "curriculum_gen"


@dataclass(frozen=True)
class Notebook:
    "A notebook as the rules see it"
    path: Path

    @cached_property
    def cells(self) -> list[dict]:
        raw = json.loads(self.path.read_text())
        return [{"kind": cell["cell_type"], "source": "".join(cell["source"]), "tags": cell["metadata"].get("tags", [])}
                for cell in raw["cells"]]

    @cached_property
    def kernel(self) -> str: return json.loads(self.path.read_text())["metadata"].get("kernelspec", {}).get("name")

    @property
    def page(self) -> str:
        "Its path below nbs/"
        return self.path.relative_to(ROOT/"nbs").as_posix()

    @property
    def number(self) -> int | None:
        "Its place among the notebooks of its folder; None for what exports no module"
        found = re.match(r"(\d\d)_", self.path.name)
        return int(found[1]) if found else None

    @property
    def module(self) -> str:
        "What it is called in the package, such as `diagnosis.checks.labels`: its folders, and its name without number"
        return self.page.removesuffix(self.path.name).replace("/", ".") + re.sub(r"^\d\d_", "", self.path.stem)

    @property
    def wing(self) -> str: return self.module.split(".")[0]

    def code(self, exported=False) -> list[str]:
        "Sources of the code cells, or of the exported ones, without magics"
        sources = [cell["source"] for cell in self.cells if cell["kind"] == "code"
                   and (not exported or re.search(r"^#\|\s*exporti?\b", cell["source"], re.M))]
        return [re.sub(r"^\s*[%!].*$", "", source, flags=re.M) for source in sources]

    def prose(self) -> list[str]:
        "Sources of the markdown cells"
        return [cell["source"] for cell in self.cells if cell["kind"] == "markdown"]


def listed(entries) -> list[str]:
    "The pages of a side bar, in its order"
    return [page for entry in entries for page in ([entry] if isinstance(entry, str) else [entry["href"]]
                                                   if "href" in entry else listed(entry["contents"]))]


ORDER = listed(yaml.safe_load((ROOT/"_quarto.yml").read_text())["website"]["sidebar"]["contents"])
NOTEBOOKS = sorted((Notebook(path) for path in (ROOT/"nbs").rglob("*.ipynb")
                    if not any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts)),
                   key=lambda notebook: (ORDER.index(notebook.page) if notebook.page in ORDER else len(ORDER),
                                         notebook.page))
MODULES = [notebook for notebook in NOTEBOOKS if notebook.number is not None]
REPORTS = [notebook for notebook in NOTEBOOKS if notebook.wing == "reports"]
PAGES = [notebook for notebook in NOTEBOOKS if notebook not in [*MODULES, *REPORTS]]   # for readers
NAMES = [notebook.module for notebook in MODULES]
ONLY_IN_A_CLONE = ["bench", "site"]   # wings that are not in the wheel


def none(found, *, among, remedy=""):
    "Fails with every breach on a line of its own, and when there was nothing among which to look"
    assert among, "there is nothing to check"
    lines = [f"{name}: {what}" for name, what in found.items()] if isinstance(found, dict) else list(map(str, found))
    if lines: pytest.fail("\n".join([*lines, remedy]).rstrip(), pytrace=False)


def each(things, name="notebook"):
    "One test for each of them; pytest would skip a test that has none"
    assert things, "there is nothing to check"
    return pytest.mark.parametrize(name, things, ids=lambda thing: thing.split(" ")[0] if isinstance(thing, str)
                                   else getattr(thing, "__name__", None) or thing.page.removesuffix(".ipynb"))


def within(wing: str, names: list[str]) -> list[str]:
    "Modules of a wing, of a folder in it, or the module of that name; a wing that does not exist is an error"
    found = [name for name in names if f"{name}.".startswith(f"{wing}.")]
    assert found, f"there is no {wing}: take it out of the rule, or name what it is called now"
    return found


def imports(source: str) -> set[str]:
    """What a source imports anywhere, functions included: `a.b` of `import a.b` and of `from a import b`;
    a text that is
    the name of a module of this package counts, since import_module takes it"""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [PACKAGE if node.level else "", node.module]))
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr",
                                                    getattr(node.func, "id", "")) in ("import_module", "__import__"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
        elif isinstance(node, ast.Constant) and str(node.value).removeprefix(f"{PACKAGE}.") in NAMES:
            found |= {node.value} & {f"{PACKAGE}.{name}" for name in NAMES}
    return found


def from_the_package(source: str) -> set[str]:
    """Modules of this package that a source imports, without its name; of the front door, those it leads to. What is no
    module is given as it stands"""
    found = set()
    for name in imports(source):
        inside = name.removeprefix(f"{PACKAGE}.")
        if inside == name or inside.startswith("__"): continue
        inside = curriculum_gen._FRONT.get(inside, inside)
        module = inside.rpartition(".")[0]
        found.add(module if inside not in NAMES and module in NAMES else inside)
    return found
