"""The rules of the house, held by every notebook and module. They are read from the sources, so a new notebook is under
them at once, and a rule that finds nothing to check fails."""
import ast, importlib, inspect, io, re, subprocess, sys, tokenize
from configparser import ConfigParser
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import packages_distributions
from itertools import groupby

import pytest
from fastcore.docments import docments
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import curriculum_gen
from notebooks import (MODULES, NAMES, NOTEBOOKS, ONLY_IN_A_CLONE, ORDER, PACKAGE, PAGES, REPORTS, ROOT, each,
                       from_the_package, imports, none, within)
from tools import readme

CELLS, EXPORTED_LINES, LINES_IN_A_CELL, POSITIONAL, WORDS = 60, 400, 25, 2, 110
# columns; share of exported lines that may be wider; columns of pages for readers
WIDTH, WIDE_SHARE, PAGE_WIDTH = 120, 0.01, 88
# imported package -> the wings or modules that may import it
ONLY_CALLER = {"papermill": ["reporting.jobs"]}
# wing or module -> what it must not know: an instrument must not know how the thing it measures was made
STRANGERS = {"evaluation": ["training"], "studies.gate": ["training"]}
# what importing a wing or a module must not load, but for some of its modules, which do
NOT_LOADED = {
    "torch": (["core", "statistics", "curriculum", "figures", "diagnosis.findings", "studies", "reporting", "sweeps",
               "commands", "bench.command", "site"], ["studies.gate", "studies.ready_made"]),
    f"{PACKAGE}.training": (["evaluation", "studies.gate"], []),
}
# the bench's programs stand for somebody else's code
NOT_OURS = ["bench.programs"]
# what has three parts that everybody names in this order: (name, image_shape, classes), (state, latents, labels)
THREE = ["core.task.Task", "core.displays.Display", "training.program.Program.sample",
         "training.learner.NetworkProgram.sample"]
# explained once in index.ipynb, or by themselves
VOCABULARY = {"images", "labels", "latents", "step", "seed"} | {"name", "path", "device"}
RULES = []   # of many notebooks or modules at once
PYTHON_FILES = sorted(path for folder in (PACKAGE, "tests", "tools") for path in (ROOT/folder).rglob("*.py"))


def rule(test):
    RULES.append(test)
    return test


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


def paragraphs(source: str) -> list[str]:
    """Prose of a markdown cell: neither headings, lists, tables, code and formulas on lines of their own, nor tags. A
    formula within a line is a word"""
    source = re.sub(r"^(```|:::).*?^\1.*?$|\$\$.*?\$\$|<svg.*?</svg>|<!--.*?-->", "\n\n", source, flags=re.M | re.S)
    source = re.sub(r"\$[^$\n]+\$", "formula", source)
    found = []
    for block in re.split(r"\n\s*\n", source):
        lines = []
        for line in block.strip().splitlines():
            if re.match(r"\s*([-*+]|\d+\.)\s", line): break   # a list goes on to the end of its block
            if not re.match(r"#|\||\s*<", line): lines.append(line.removeprefix("> "))
        found.append(" ".join(lines).strip())
    return [text for text in found if text]


def test_the_measure_of_paragraphs():
    source = ("# title\n\nOne two\nthree $a + b = c$.\n\n- a list\n  goes on\n\n| a | table |\n|---|---|\n\n"
              "```sh\ncode is\n\nnot prose\n```\n\n$$x = \\\\\n y$$\n\n> said\n> before\n- a list\n\n    1. another")
    assert paragraphs(source) == ["One two three formula.", "said before"]


# ---- the order of notebooks

@rule
def test_the_side_bar_lists_every_notebook_once():
    listed, existing = sorted(ORDER), sorted(notebook.page for notebook in NOTEBOOKS)
    none(sorted(set(existing) - set(listed)), among=existing, remedy="add it to _quarto.yml, then `make readme`")
    none(sorted(set(listed) - set(existing)), among=listed, remedy="_quarto.yml lists what is no notebook")
    assert len(listed) == len(set(listed))


@rule
def test_the_side_bar_keeps_a_wing_together_and_its_numbers_in_order():
    wings = [wing for wing, _ in groupby(notebook.wing for notebook in MODULES)]
    none([wing for wing in set(wings) if wings.count(wing) > 1], among=wings, remedy="its notebooks are apart")
    folders = {}
    for notebook in MODULES: folders.setdefault(notebook.path.parent, []).append(notebook.number)
    none({folder.name: numbers for folder, numbers in folders.items() if numbers != sorted(set(numbers))},
         among=folders, remedy="numbers rise within a folder, and each is given once")


def test_what_an_import_names():
    assert imports("def f():\n    from a.b import c as d\n    import e.f\n    import_module('g')") == {"a.b.c", "e.f",
                                                                                                       "g"}
    assert (from_the_package(f"from {PACKAGE}.core.errors import InputError\nfrom {PACKAGE}.core import records\n"
                             f"from {PACKAGE} import watch, __version__\nimport torch, {PACKAGE}\n"
                             f"PROGRAM = '{PACKAGE}.models.layers'\nfrom {PACKAGE}.gone import old")
            == {"core.errors", "core.records", "diagnosis.watching.watch", "models.layers", "gone.old"})


@each(NOTEBOOKS)
def test_a_notebook_imports_only_what_there_is(notebook):
    folders = {name.rpartition(".")[0] for name in NAMES}
    none({name: source for source in notebook.code() for name in from_the_package(source) - {*NAMES} - folders},
         among=NAMES)


@each(MODULES)
def test_a_notebook_imports_only_earlier_ones(notebook):
    earlier = set(NAMES[:NAMES.index(notebook.module)])
    none({name: source for source in notebook.code() for name in from_the_package(source) & {*NAMES} - earlier},
         among=NAMES, remedy=f"{notebook.module} comes before it in _quarto.yml")


@rule
def test_there_are_imports_to_look_at():
    inside = {name for notebook in MODULES for source in notebook.code(exported=True)
              for name in from_the_package(source)}
    assert len(inside) > len(NAMES)/2, inside


# ---- who may know whom

@rule
def test_a_module_knows_only_whom_it_may_know():
    code = {notebook.module: "\n".join(notebook.code(exported=True)) for notebook in MODULES}
    known = [(name, other) for wing, strangers in STRANGERS.items() for name in within(wing, NAMES)
             for other in from_the_package(code[name]) if any(other in within(wing, NAMES) for wing in strangers)]
    callers = {package: {name for name in NAMES if package in {full.split(".")[0] for full in imports(code[name])}}
               for package in ONLY_CALLER}
    none([f"{name} imports {other}" for name, other in known], among=STRANGERS)
    none([f"{name} imports {package}" for package, names in callers.items()
          for name in names - {one for wing in ONLY_CALLER[package] for one in within(wing, NAMES)}], among=callers)
    assert all(callers.values()), f"nobody imports one of {[*callers]}: take it out of the rule"


def loaded(modules: list[str], package: str) -> list[str]:
    "What an interpreter that has imported these modules has of a package"
    assert modules, "there is nothing to check"
    program = (f"import sys, {', '.join(f'{PACKAGE}.{name}' for name in modules)}\n"
               f"print(*(name for name in sys.modules if f'{{name}}.'.startswith({package + '.'!r})))")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@rule
@each(NOT_LOADED, "package")
def test_a_wing_does_without(package):
    wings, but = NOT_LOADED[package]
    modules = [name for wing in wings for name in within(wing, NAMES)]
    assert set(but) <= set(modules), f"{set(but) - set(modules)} are no exceptions from {wings}"
    found = loaded([name for name in modules if name not in but], package)
    assert not found, f"{wings} load {found[:3]}; find out who with python -X importtime"
    for name in but: assert loaded([name], package), f"{name} does without {package}, too: it is no exception any more"


# ---- notebooks

@each(NOTEBOOKS)
def test_a_notebook_is_small(notebook):
    count = len(notebook.cells)
    assert count <= CELLS, "it is two nouns"
    sizes = [(code_lines(source), source) for source in notebook.code(exported=True)]
    lines = sum(size for size, _ in sizes)
    assert lines <= EXPORTED_LINES, "it is two nouns"
    for size, source in sizes:
        assert size <= LINES_IN_A_CELL or only_imports(source), f"{size} lines of code in one cell:\n{source}"


@each(NOTEBOOKS)
def test_paragraphs_are_short(notebook):
    "What is longer is a list, a formula, or two paragraphs"
    found = [text for source in notebook.prose() for text in paragraphs(source)]
    none([f"{len(text.split())} words: {text}" for text in found if len(text.split()) > WORDS], among=found,
         remedy=f"a paragraph has at most {WORDS} words")


@rule
def test_exported_code_fits_a_screen():
    "What is wider than a screen is not read"
    sources = {notebook.page: notebook.code(exported=True) for notebook in MODULES}
    lines = sum(bool(line.strip()) for cells in sources.values() for source in cells for line in source.splitlines())
    found = [(name, *wide_lines(source, WIDTH)) for name, cells in sources.items() for source in cells]
    assert len(sources) > 50 and lines > 5000, "there is nothing to measure"
    wide = sum(len(plain) + len(literal) for _, plain, literal in found)
    assert wide < WIDE_SHARE*lines, f"{wide} of {lines} lines are wider than {WIDTH} columns"
    none([f"{name}: {line}" for name, plain, _ in found for line in plain], among=found,
         remedy="break them; only literals may be wider")


@rule
def test_every_other_cell_and_file_fits_a_screen():
    cells = {f"{n.page} cell {i}": source for n in NOTEBOOKS for i, source in enumerate(n.code())}
    files = {str(path.relative_to(ROOT)): path.read_text() for path in [
        *PYTHON_FILES, ROOT/"setup.py"] if path.parent == ROOT or not path.is_relative_to(ROOT/PACKAGE)}
    files[f"{PACKAGE}/__init__.py"] = (ROOT/PACKAGE/"__init__.py").read_text()   # the only one that people write
    assert len(cells) > 1000 and {"tests/test_house_rules.py", "tools/check.py", "setup.py"} <= files.keys()
    none([f"{name}: {line}" for name, source in (cells | files).items() for line in wide_lines(source, WIDTH)[0]],
         among=files)


@each(PAGES)
def test_a_page_for_readers_is_narrow_and_has_one_statement_a_line(notebook):
    sources = notebook.code()
    wide = [line for source in sources for kind in wide_lines(source, PAGE_WIDTH) for line in kind]
    inside = [statement for source in sources for statement in begun_within_a_line(source)]
    none([f"wider than {PAGE_WIDTH} columns: {line}" for line in wide]
         + [f"not on a line of its own: {statement}" for statement in inside], among=sources)


@rule
def test_the_pages_for_readers_are_found():
    assert {"index", "tutorial", "my_regime", "chance", "step_10000", "verdicts"} <= {page.path.stem for page in PAGES}
    assert not {"reports", *(notebook.wing for notebook in MODULES)} & {page.wing for page in PAGES}


@each(NOTEBOOKS)
def test_a_notebook_opens_with_its_title_and_what_it_is_for(notebook):
    first = notebook.cells[0]
    assert first["kind"] == "markdown" and re.fullmatch(
        r"# \S.*\n+> \S.*", first["source"].strip()), "the first cell is `# title` and a `> subtitle`, nothing else"
    paragraph = notebook.cells[1]
    assert paragraph["kind"] == "markdown" and paragraphs(paragraph["source"]) and not paragraph["source"].startswith(
        "#"), "the second cell says why it exists, what it takes and what it gives"


@each(NOTEBOOKS)
def test_headings_skip_no_level(notebook):
    "Sphinx would stop at one that does"
    prose = re.sub(r"^```.*?^```", "", "\n".join(notebook.prose()), flags=re.M | re.S)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.M)]
    assert levels and levels[0] == 1 and levels.count(1) == 1, "one title, and it comes first"
    none([f"{'#'*high} under {'#'*low}" for low, high in zip(levels, levels[1:]) if high > low + 1], among=levels)


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
    sources = notebook.code()
    assert sources, "there is nothing to check"
    for source in sources:
        mixed = any(isinstance(node, (ast.Import, ast.ImportFrom))
                    for node in ast.parse(source).body) and not only_imports(source)
        assert not mixed, f"imports go into a cell of their own:\n{source}"


@rule
def test_no_star_imports():
    files = {str(path.relative_to(ROOT)): path.read_text() for path in PYTHON_FILES}
    cells = {f"{n.page} cell {i}": source for n in NOTEBOOKS for i, source in enumerate(n.code())}
    assert files and cells, "there is nothing to check"
    sources = files | cells
    stars = [where for where, source in sources.items() for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)]
    none(stars, among=sources)


def test_exported_code_and_notebooks_are_in_sync_and_clean(project_copy, command):
    front_door = project_copy/PACKAGE/"__init__.py"
    for path in (project_copy/PACKAGE).rglob("*.py"):
        if path != front_door: path.unlink()   # a module whose notebook is gone is then missed
    for name in ("nbdev-export", "nbdev-clean"):
        done = command(name, folder=project_copy)
        assert done.returncode == 0, done.stderr
    def content(top):
        return {str(path.relative_to(top)): path.read_text() for path in [
            *(top/PACKAGE).rglob("*.py"), *(top/n.path.relative_to(ROOT) for n in NOTEBOOKS)]}
    committed, made = content(ROOT), content(project_copy)
    none(sorted(name for name in committed.keys() | made.keys() if committed.get(name) != made.get(name)),
         among=NAMES, remedy="run nbdev-export and nbdev-clean, then commit")
    assert {f"{PACKAGE}/{name.replace('.', '/')}.py" for name in NAMES} <= made.keys()


# ---- reports

@each(REPORTS)
def test_a_report_has_one_parameters_cell_and_a_kernel(notebook):
    assert sum("parameters" in cell["tags"] for cell in notebook.cells) == 1
    assert notebook.kernel == "python3", "papermill starts the kernel that is named here"


@each(REPORTS)
def test_a_report_defines_nothing(notebook):
    sources = notebook.code()
    assert sources, "there is nothing to check"
    for source in sources:
        assert not any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                       for node in ast.walk(ast.parse(source))), f"this belongs into a module:\n{source}"


# ---- copies

@rule
def test_copies_are_in_sync():
    "README.md of index.ipynb, nbs/_quarto.yml of _quarto.yml"
    copies = readme.copies(ROOT)
    assert {"README.md", "nbs/_quarto.yml"} <= copies.keys()
    none([name for name, content in copies.items() if not (ROOT/name).exists()
          or (ROOT/name).read_bytes() != content], among=copies, remedy="run `make readme` and commit")


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


@rule
def test_everything_public_has_a_docstring():
    none([name for name, value in exported().items() if not vars(value).get("__doc__", value.__doc__)],
         among=exported())


@rule
def test_no_more_than_two_positional_arguments():
    def positional(function):
        return [p.name for p in parameters(function) if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    theirs = [name for wing in NOT_OURS for name in within(wing, NAMES)]
    found = {name: positional(value) for name, value in functions().items() if value.__module__.removeprefix(
        f"{PACKAGE}.") not in theirs}
    assert found and dataclasses(), "there is nothing to check"
    found |= {name: [field.name for field in fields(value) if field.init and not field.kw_only]
              for name, value in dataclasses().items()}
    assert {*THREE} <= {name for name, names in found.items() if len(names) == 3}, "these are no exceptions any more"
    none({name: names for name, names in found.items() if len(names) > POSITIONAL and name not in THREE}, among=found,
         remedy="make the rest keyword-only with *, or kw_only=True")


@rule
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
    used = {p.name for value in functions().values() for p in parameters(value)}
    assert VOCABULARY <= used, f"nothing is called {VOCABULARY - used}: take it out of the vocabulary"
    none({name: names for name, names in found.items() if names}, among=found,
         remedy="add what it means: unit, shape, range, what happens at the edge")


@rule
def test_dataclasses_are_frozen():
    none([name for name, value in dataclasses().items() if not value.__dataclass_params__.frozen], among=dataclasses())


def settings() -> dict[str, list[str]]:
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT/"settings.ini")
    return {name: value.split("\n")[1:] for name, value in parser["DEFAULT"].items()}


@rule
def test_every_package_that_is_imported_is_required():
    "What is only in a clone may ask for an extra"
    homes = packages_distributions()
    def found(wings, extras):
        required = {canonicalize_name(Requirement(line).name) for name in ["requirements", *extras]
                    for line in settings()[name]}
        top = {name.split(".")[0] for notebook in MODULES if notebook.module in wings
               for source in notebook.code(exported=True) for name in imports(source)}
        assert top, "there is nothing to check"
        return [name for name in top - {PACKAGE} - sys.stdlib_module_names
                if not {canonicalize_name(home) for home in homes.get(name, [])} & required]
    clone = [name for wing in ONLY_IN_A_CLONE for name in within(wing, NAMES)]
    trainers = {*within("integrations", NAMES)}
    none([*found(set(NAMES) - {*clone} - trainers, ["cluster_requirements", "torchvision_requirements"]),
          *found({*clone}, ["docs_requirements"]),
          *found(trainers, ["lightning_requirements", "transformers_requirements", "accelerate_requirements"])],
         among=NAMES, remedy="add it to settings.ini and constraints.txt")


@each(settings()["console_scripts"], "line")
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
    found, listed = {}, [*filter(None, listed)]
    for name in listed:
        if not (root/name).is_file() or (root/name).suffix in (".gz", ".xz", ".npz", ".png", ".pt"): continue
        hits = place.findall((root/name).read_bytes().decode(errors="replace"))
        if hits: found[name] = hits[:3]
    none(found, among=listed)


# ---- the rules themselves

def test_a_rule_for_each_notebook_needs_a_notebook():
    with pytest.raises(AssertionError, match="nothing to check"): each([])


@each(RULES, "rule")
def test_a_rule_that_finds_nothing_fails(rule, monkeypatch):
    for name in ("MODULES", "NAMES", "NOTEBOOKS", "ORDER", "PAGES", "REPORTS", "PYTHON_FILES"):
        monkeypatch.setattr(sys.modules[__name__], name, [])
    monkeypatch.setattr(sys.modules[__name__], "exported", dict)
    monkeypatch.setattr(readme, "copies", lambda root: {})
    given = {"package": "torch"} if "package" in inspect.signature(rule).parameters else {}
    with pytest.raises((AssertionError, pytest.fail.Exception)): rule(**given)
