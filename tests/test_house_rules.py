"""The rules of the house, held by every notebook and module. They are read from the sources, so a new notebook is under
them at once."""
import ast, importlib, inspect, io, json, re, subprocess, sys, tokenize
from configparser import ConfigParser
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest, yaml
from fastcore.docments import docments
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import curriculum_gen
from tools import readme

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "curriculum_gen"
CELLS, EXPORTED_LINES, LINES_IN_A_CELL, POSITIONAL = 60, 400, 25, 2
# columns; share of exported lines that may be wider; columns of pages for readers
WIDTH, WIDE_SHARE, PAGE_WIDTH = 120, 0.01, 88
WITHOUT_TORCH = {"records", "findings", "curriculum", "statistics", "comparison", "regime_comparison", "sequential",
                 "verdicts", "study", "execution", "sweeps", "plots", "cards", "preregistration"}
ONLY_CALLER = {"papermill": {"execution"}}          # imported package -> the modules that may import it
# module -> modules it must not know: an instrument must not know how the thing it measures was made
STRANGERS = {name: {"training"} for name in ("realism", "student", "evaluation", "gate")}
# explained once in index.ipynb, or by themselves
VOCABULARY = {"images", "labels", "latents", "logits", "step", "seed"} | {"name", "path", "device"}
# the last notebook to be written; what only a finished project can hold is asked from then on
FINISHED = (ROOT/"nbs"/"53_commands.ipynb").exists()


# ---- what a notebook is made of

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

    def code(self, exported=False) -> list[str]:
        "Sources of the code cells, or of the exported ones, without magics"
        sources = [cell["source"] for cell in self.cells if cell["kind"] == "code"
                   and (not exported or re.search(r"^#\|\s*exporti?\b", cell["source"], re.M))]
        return [re.sub(r"^\s*[%!].*$", "", source, flags=re.M) for source in sources]

    @property
    def number(self) -> int: return int(self.path.name[:2])

    @property
    def module(self) -> str:
        named = re.search(r"^#\|\s*default_exp:?\s+(\S+)", "\n".join(self.code()), re.M)
        return named[1] if named else self.path.stem


MODULES = [Notebook(path) for path in sorted((ROOT/"nbs").glob("[0-9][0-9]_*.ipynb"))]
PAGES = [Notebook(path) for pattern in ("index.ipynb", "tutorial.ipynb", "howto/*.ipynb", "concepts/*.ipynb",
                                        "explorations/*.ipynb", "results/*.ipynb")
         for path in sorted((ROOT/"nbs").glob(pattern))]
REPORTS = [Notebook(path) for path in sorted((ROOT/"nbs"/"reports").glob("*.ipynb"))]
NOTEBOOKS = [Notebook(path) for path in sorted((ROOT/"nbs").rglob("*.ipynb"))
             if not any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts)]
NUMBERS = {notebook.module: notebook.number for notebook in MODULES}
PYTHON_FILES = sorted(path for folder in (PACKAGE, "tests", "tools") for path in (ROOT/folder).rglob("*.py"))


def none(found, remedy=""):
    "Fails with every breach on a line of its own"
    lines = [f"{name}: {what}" for name, what in found.items()] if isinstance(found,
                                                                              dict) else [str(one) for one in found]
    if lines: pytest.fail("\n".join([*lines, remedy]).rstrip(), pytrace=False)


def each(notebooks): return pytest.mark.parametrize("notebook", notebooks, ids=lambda notebook: notebook.path.stem)


def imports(source: str) -> set[str]:
    "Full names that a source imports anywhere, functions included; names of this package as `curriculum_gen.x`"
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [PACKAGE if node.level else "", node.module]))
            found |= {f"{PACKAGE}.{alias.name}" for alias in node.names} if module == PACKAGE else {module}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr",
                                                    getattr(node.func, "id", "")) in ("import_module", "__import__"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def from_the_package(source: str) -> set[str]:
    "Modules of this package that a source imports"
    return {name.split(".")[1] for name in imports(source)
            if name.startswith(f"{PACKAGE}.")} & (NUMBERS.keys() | {"commands"})


def code_lines(source: str) -> int:
    """Lines of code: not blank, comment or docstring, nor the lines of a signature or a dataclass that hold one
    documented parameter each"""
    tree, uncounted = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            uncounted |= set(range(node.lineno + 1, node.body[0].lineno))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if ast.get_docstring(node): uncounted |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        if isinstance(node, (ast.Import, ast.ImportFrom)): uncounted |= set(range(node.lineno + 1, node.end_lineno + 1))
        if isinstance(node, ast.ClassDef):
            uncounted |= {line for field in node.body if isinstance(field, ast.AnnAssign)
                          for line in range(field.lineno, field.end_lineno + 1)}
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in ignored]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - uncounted)


def test_the_measure_of_code_lines():
    source = ('#| export\ndef add(\n    a: int,   # one\n    b: int,   # other\n) -> int:     # sum\n    "The sum"\n'
              '    # why\n\n    total = (a +\n             b)\n    return total\n')
    assert code_lines(source) == 4   # def, two of the sum, return


def wide_lines(source: str, width: int) -> tuple[list[str], list[str]]:
    """Lines wider than so many columns: those outside literals of several lines, which a wrap would change,
    and those inside"""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    literal = {line for token in tokens if token.type == tokenize.STRING and token.start[0] < token.end[0]
               for line in range(token.start[0], token.end[0] + 1)}
    wide = [(number, line) for number, line in enumerate(source.splitlines(), 1)
            if len(line) > width and not line.startswith("#|")]   # a directive is one line
    return ([line for number, line in wide if number not in literal],
            [line for number, line in wide if number in literal])


def begun_within_a_line(source: str) -> list[str]:
    "Statements that do not begin their line: `a; b`, `if x: y`, `def f(): y`"
    lines = source.splitlines()
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    return [ast.unparse(node) for node in statements if lines[node.lineno - 1].encode()[:node.col_offset].strip()]


def test_the_measures_of_lines():
    source = '#| fig-alt: a picture\nif x: y = """\n<style>.a {}</style>"""\nz = "<style>.a {}</style>"\n'
    assert wide_lines(source, 20) == (['z = "<style>.a {}</style>"'], ["<style>.a {}</style>\"\"\""])
    assert begun_within_a_line(source) == ["y = '\\n<style>.a {}</style>'"]
    assert begun_within_a_line("a; b\ndef f(): c\n@d\ndef g():\n    e\nelse_ = lambda: 0\n") == ["b", "c"]


# ---- notebooks

@each(MODULES)
def test_a_notebook_imports_only_lower_numbers(notebook):
    for source in notebook.code():
        higher = {name for name in from_the_package(source) if NUMBERS.get(name, 99) >= notebook.number}
        assert not higher, f"{notebook.path.name} imports {higher}:\n{source}"


@each(MODULES)
def test_a_module_knows_only_whom_it_may_know(notebook):
    code = "\n".join(notebook.code(exported=True))
    strangers = from_the_package(code) & STRANGERS.get(notebook.module, set())
    packages = {name.split(".")[0] for name in imports(code)}
    reserved = {package for package in packages & ONLY_CALLER.keys() if notebook.module not in ONLY_CALLER[package]}
    assert not strangers | reserved, f"{notebook.module} imports {strangers | reserved}"


def test_every_number_and_module_name_is_given_once():
    assert len(NUMBERS) == len({notebook.number for notebook in MODULES}) == len(MODULES)
    for notebook in MODULES: assert notebook.path.stem == f"{notebook.number:02}_{notebook.module}"


@each(NOTEBOOKS)
def test_a_notebook_is_small(notebook):
    count = len(notebook.cells)
    assert count <= CELLS, "it is two nouns"
    sizes = [(code_lines(source), source) for source in notebook.code(exported=True)]
    lines = sum(size for size, _ in sizes)
    assert lines <= EXPORTED_LINES, "it is two nouns"
    for size, source in sizes: assert size <= LINES_IN_A_CELL, f"{size} lines of code in one cell:\n{source}"


def test_exported_code_fits_a_screen():
    "What is wider than a screen is not read"
    sources = {notebook.path.name: notebook.code(exported=True) for notebook in MODULES}
    lines = sum(bool(line.strip()) for cells in sources.values() for source in cells for line in source.splitlines())
    found = [(name, *wide_lines(source, WIDTH)) for name, cells in sources.items() for source in cells]
    assert len(sources) > 50 and lines > 5000, "there is nothing to measure"
    wide = sum(len(plain) + len(literal) for _, plain, literal in found)
    assert wide < WIDE_SHARE*lines, f"{wide} of {lines} lines are wider than {WIDTH} columns"
    none([f"{name}: {line}" for name, plain, _ in found for line in plain], "break them; only literals may be wider")


def test_every_other_cell_and_file_fits_a_screen():
    cells = {f"{n.path.name} cell {i}": source for n in NOTEBOOKS for i, source in enumerate(n.code())}
    files = {path.name: path.read_text() for path in [*PYTHON_FILES, ROOT/"setup.py"] if path.parent.name != PACKAGE}
    assert len(cells) > 1000 and {"test_house_rules.py", "check.py", "setup.py"} <= files.keys()
    none([f"{name}: {line}" for name, source in (cells | files).items() for line in wide_lines(source, WIDTH)[0]])


@each(PAGES)
def test_a_page_for_readers_is_narrow_and_has_one_statement_a_line(notebook):
    sources = notebook.code()
    assert sources, "there is nothing to measure"
    wide = [line for source in sources for kind in wide_lines(source, PAGE_WIDTH) for line in kind]
    within = [statement for source in sources for statement in begun_within_a_line(source)]
    none([f"wider than {PAGE_WIDTH} columns: {line}" for line in wide]
         + [f"not on a line of its own: {statement}" for statement in within])


def test_the_pages_for_readers_are_found():
    assert {"index", "tutorial", "my_regime", "chance", "step_10000", "verdicts"} <= {page.path.stem for page in PAGES}


@each(NOTEBOOKS)
def test_a_notebook_opens_with_its_title_and_what_it_is_for(notebook):
    first = notebook.cells[0]
    assert first["kind"] == "markdown" and re.fullmatch(
        r"# \S.*\n+> \S.*", first["source"].strip()), "the first cell is `# title` and a `> subtitle`, nothing else"
    paragraph = notebook.cells[1]
    assert paragraph["kind"] == "markdown" and not paragraph["source"].startswith(
        "#"), "the second cell says why it exists, what it takes and what it gives"


def only_imports(source): return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)


@each(MODULES)
def test_a_module_opens_with_its_name_and_its_imports(notebook):
    name, exported, examples = notebook.code()[:3]
    assert name.strip() == f"#| default_exp {notebook.module}"
    assert exported.startswith("#| export\n") and only_imports(exported)
    assert not examples.startswith("#| export") and only_imports(examples) and ast.parse(examples).body


@each(NOTEBOOKS)
def test_no_cell_mixes_imports_with_other_code(notebook):
    "The site executes every cell that does, to find what it imports"
    for source in notebook.code():
        mixed = any(isinstance(node, (ast.Import, ast.ImportFrom))
                    for node in ast.parse(source).body) and not only_imports(source)
        assert not mixed, f"imports go into a cell of their own:\n{source}"


def test_no_star_imports():
    sources = {str(path): path.read_text() for path in PYTHON_FILES} | {f"{n.path} cell {i}": source for n in NOTEBOOKS
                                                                        for i, source in enumerate(n.code())}
    stars = [where for where, source in sources.items() for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)]
    none(stars)


def test_exported_code_and_notebooks_are_in_sync_and_clean(project_copy, command):
    for path in (project_copy/PACKAGE).glob("*.py"):
        if path.name != "__init__.py": path.unlink()   # a module whose notebook is gone is then missed
    for name in ("nbdev-export", "nbdev-clean"):
        done = command(name, folder=project_copy)
        assert done.returncode == 0, done.stderr
    def content(top):
        return {str(path.relative_to(top)): path.read_text() for path in [
            *(top/PACKAGE).glob("*.py"), *(n.path if top == ROOT else top/n.path.relative_to(ROOT) for n in NOTEBOOKS)]}
    committed, made = content(ROOT), content(project_copy)
    none(sorted(name for name in committed.keys() | made.keys() if committed.get(name) != made.get(name)),
         "run nbdev-export and nbdev-clean, then commit")


# ---- reports

@each(REPORTS)
def test_a_report_has_one_parameters_cell_and_a_kernel(notebook):
    assert sum("parameters" in cell["tags"] for cell in notebook.cells) == 1
    assert notebook.kernel == "python3", "papermill starts the kernel that is named here"


@each(REPORTS)
def test_a_report_defines_nothing(notebook):
    for source in notebook.code():
        assert not any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                       for node in ast.walk(ast.parse(source))), f"this belongs into a module:\n{source}"


# ---- copies

def test_copies_are_in_sync():
    "README.md of index.ipynb, nbs/_quarto.yml of _quarto.yml"
    none([name for name, content in readme.copies(ROOT).items() if not (ROOT/name).exists()
          or (ROOT/name).read_bytes() != content], "run `make readme` and commit")


def test_the_navigation_lists_every_notebook_in_order():
    def pages(entries):
        return [page for entry in entries for page in ([entry] if isinstance(entry, str) else [entry["href"]]
                                                       if "href" in entry else pages(entry["contents"]))]
    listed = pages(yaml.safe_load((ROOT/"_quarto.yml").read_text())["website"]["sidebar"]["contents"])
    existing = [str(n.path.relative_to(ROOT/"nbs")) for n in NOTEBOOKS]
    assert set(existing) <= set(listed), "add it to _quarto.yml, then `make readme`"
    numbered = [page for page in listed if page[0].isdigit()]
    assert numbered == sorted(numbered)
    if FINISHED: assert set(listed) == set(existing)


# ---- what is exported

@cache
def exported() -> dict[str, object]:
    "Every public function and class, and every public method that is not the override of a library's, by its name"
    found = {}
    for notebook in MODULES:
        module = importlib.import_module(f"{PACKAGE}.{notebook.module}")
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__: continue
            if inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value)):
                found[f"{notebook.module}.{name}"] = inspect.unwrap(value)
            for method, function in (vars(value) if inspect.isclass(value) else {}).items():
                function = getattr(function, "__func__", function)
                inherited = any(hasattr(base, method) for base in value.__mro__[1:])
                if inspect.isfunction(function) and not method.startswith("_") and not inherited:
                    found[f"{notebook.module}.{name}.{method}"] = function
    return found


def functions(): return {name: value for name, value in exported().items() if not inspect.isclass(value)}
def dataclasses(): return {name: value for name, value in exported().items() if is_dataclass(value)}


def parameters(function) -> list[inspect.Parameter]:
    "A function's parameters without the one that Python fills in"
    return [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]


def test_everything_public_has_a_docstring():
    none(name for name, value in exported().items() if not vars(value).get("__doc__", value.__doc__))


def test_no_more_than_two_positional_arguments():
    def positional(function):
        return [p.name for p in parameters(function) if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    # the bench's programs stand for somebody else's
    found = {name: positional(value) for name, value in functions().items()
             if not name.split(".")[0].endswith("_program")}
    found |= {name: [field.name for field in fields(value) if field.init and not field.kw_only]
              for name, value in dataclasses().items()}
    none({name: names for name, names in found.items() if len(names) > POSITIONAL},
         "make the rest keyword-only with *, or kw_only=True")


def test_parameters_are_documented():
    """A comment says what the name and the type do not. None is needed for words of the vocabulary,
    types of this package, and one or two parameters on one line"""
    def bare(value, annotations):
        return [name for name, annotation in annotations.items() if not docments(value).get(name)
                and name not in VOCABULARY and PACKAGE not in repr(annotation)]
    found = {}
    for name, value in functions().items():
        named = {p.name: p.annotation for p in parameters(value) if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        one_line = (inspect.getsource(value).split("def ", 1)[1].split("\n")[0].rstrip().endswith((":", "..."))
                    or len(inspect.getsource(value).splitlines()) == 1)
        if not (one_line and len(named) <= 2): found[name] = bare(value, named)
    for name, value in dataclasses().items():
        found[name] = bare(value, {field: annotation for field, annotation in vars(value).get("__annotations__", {})
                                   .items() if not field.startswith("_")})
    none({name: names for name, names in found.items() if names},
         "add what it means: unit, shape, range, what happens at the edge")


def test_dataclasses_are_frozen():
    none(name for name, value in dataclasses().items() if not value.__dataclass_params__.frozen)


def test_torch_stays_out_of_what_only_reads_records():
    modules = [f"{PACKAGE}.{name}" for name in sorted(WITHOUT_TORCH & NUMBERS.keys())]
    program = (f"import sys, {', '.join(modules)}; print([name for name in ('torch', "
               "'torchvision') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def settings() -> dict[str, list[str]]:
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT/"settings.ini")
    return {name: value.split("\n")[1:] for name, value in parser["DEFAULT"].items()}


def test_every_package_that_is_imported_is_required():
    top = {name.split(".")[0] for notebook in MODULES for source in notebook.code(exported=True)
           for name in imports(source)} - {PACKAGE} - sys.stdlib_module_names
    required = {canonicalize_name(Requirement(line).name)
                for line in settings()["requirements"] + settings()["cluster_requirements"]}
    homes = packages_distributions()
    none((name for name in top if not {canonicalize_name(home) for home in homes.get(name, [])} & required),
         "add it to settings.ini and constraints.txt")


@pytest.mark.skipif(not FINISHED, reason="nbs/53_commands.ipynb is not written yet")
@pytest.mark.parametrize("line", settings()["console_scripts"], ids=lambda line: line.split(" ")[0])
def test_a_command_tells_the_version(line):
    name, value = line.split(" = ")
    program = (f"import sys; from importlib.metadata import EntryPoint; sys.argv[0] = {name!r}; "
               f"sys.exit(EntryPoint({name!r}, {value!r}, 'console_scripts').load()())")
    done = subprocess.run([sys.executable, "-c", program, "--version"], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and done.stdout.split()[-1:] == [curriculum_gen.__version__], done.stdout + done.stderr


# ---- files

def test_no_file_names_a_place_on_one_machine(root):
    "Outputs of notebooks are where such names creep in"
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                            capture_output=True, text=True, check=True).stdout.split("\0")
    place = re.compile(
        r"(?<![\w.:/~-])/(?:home|Users|root|work|tmp|farm|opt|private|var/folders)/\w[^\s\"']*|\.\./shared\b")
    found = {}
    for name in filter(None, listed):
        if not (root/name).is_file() or (root/name).suffix in (".gz", ".xz", ".npz", ".png", ".pt"): continue
        hits = place.findall((root/name).read_bytes().decode(errors="replace"))
        if hits: found[name] = hits[:3]
    none(found)
