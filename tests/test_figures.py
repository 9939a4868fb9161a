"""Figures in a real kernel, and pages that show every figure they make"""
import ast, json, re

import nbformat
from nbclient import NotebookClient

from notebooks import NOTEBOOKS, PAGES, none


# ---- a figure never costs the user theirs

OURS = ("from curriculum_gen.figures.style import printed\nimport matplotlib as mpl\nimport matplotlib.pyplot as plt",
        "mpl.rcParams['lines.linewidth'] = 7.0\nbefore, backend = dict(mpl.rcParams), mpl.get_backend()",
        "@printed\ndef ours():\n    figure, ax = plt.subplots()\n    ax.plot([1, 2])\n    return figure\nours()")
THEIRS = ("plt.plot([1, 2, 3]);",
          "kept = {name for name in before if before[name] != mpl.rcParams[name]}\n"
          "print(mpl.get_backend() == backend, sorted(kept), mpl.rcParams['lines.linewidth'])")


def outputs_of(*sources, folder):
    "Outputs of cells run one after the other in a fresh ipykernel"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    return [cell.outputs for cell in notebook.cells]


def pictures(outputs): return sum("image/png" in output.get("data", {}) for output in outputs)


def test_after_a_figure_of_ours_a_plain_one_of_the_user_is_shown(root, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)   # the kernel chooses its own, as it does for a user
    *_, ours, theirs, told = outputs_of(*OURS, *THEIRS, folder=root)
    assert (pictures(ours), pictures(theirs)) == (1, 1)
    # any figure of matplotlib turns "interactive" on where figures are shown in the notebook; nothing else may change
    assert told[0].text == "True ['interactive'] 7.0\n"


def test_a_backend_of_the_users_own_is_kept(root, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "svg")
    *_, told = outputs_of(*OURS, THEIRS[1], folder=root)
    assert told[0].text == "True [] 7.0\n"


# ---- every cell that makes a figure shows one

DRAWING = {"figure", "subplots", "subplot_mosaic", "plot", "imshow", "hist", "bar", "scatter", "matshow"}   # of pyplot


def top_level(tree):
    "Nodes of a cell that run with it: not the bodies of what it defines"
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)): continue
        yield node
        yield from top_level(node)


def makes_a_figure(source):
    "Whether a cell calls pyplot to draw, or one of our own plot functions"
    if re.search(r"^#\|\s*(eval: false|slow|cuda|notest|raises)", source, re.M): return False
    tree = ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.M))
    calls = [node.func for node in top_level(tree) if isinstance(node, ast.Call)]
    names = [call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls]
    pyplot = [call.attr for call in calls if isinstance(call, ast.Attribute) and getattr(call.value, "id", "") == "plt"]
    return (any(name.startswith("plot_") or name in ("draw_curriculum", "checkpoint_viewer") for name in names)
            or bool(DRAWING & set(pyplot)))


def shows_a_figure(cell):
    data = [output.get("data", {}) for output in cell["outputs"]]
    return any(kind.startswith("image/") or kind == "text/html" and "<img" in "".join(made[kind])
               for made in data for kind in made)


def figure_cells(notebook):
    "Cells of a notebook that make a figure; none where no outputs are stored"
    cells = [cell for cell in json.loads(notebook.path.read_text())["cells"] if cell["cell_type"] == "code"]
    if not any(cell["outputs"] for cell in cells): return []
    return [cell for cell in cells if makes_a_figure("".join(cell["source"]))]


def test_what_counts_as_making_a_figure():
    assert all(map(makes_a_figure, ("plots.plot_null(rows)", "figure, ax = plt.subplots()", "plt.plot([1]);",
                                    "for r in runs:\n    display(plot_card(r))",
                                    "%matplotlib inline\nHTML(checkpoint_viewer(s))")))
    assert not any(map(makes_a_figure, ("def plot_it():\n    plt.subplots()", "plt.rcParams['lines.linewidth']",
                                        "#| slow\nplt.plot([1])", "plot_null", "ax.set(title='plot_')")))


def test_every_cell_that_makes_a_figure_shows_one():
    made = {notebook.page: figure_cells(notebook) for notebook in NOTEBOOKS}
    on_pages = {notebook.path.stem for notebook in PAGES if made[notebook.page]}
    assert {"index", "tutorial", "my_regime", "phases", "judges", "chance", "gaming", "step_10000"} <= on_pages
    none({f"{page}, cell {cell['id']}": "".join(cell["source"]).splitlines()[-1]
          for page, cells in made.items() for cell in cells if not shows_a_figure(cell)},
         among=[cell for cells in made.values() for cell in cells],
         remedy="no picture is stored; run nbdev-test --save")


def test_every_picture_of_a_page_is_described():
    "By a line `fig-alt`, or by the figure itself: its words are the text of the output"
    described = re.compile(r"^#\|\s*fig-alt: \S", re.M)
    def words(cell): return ["".join(output.get("data", {}).get("text/plain", "<")) for output in cell["outputs"]]
    cells = {f"{page.page}, cell {cell['id']}": cell for page in PAGES for cell in figure_cells(page)}
    none([name for name, cell in cells.items() if not described.search("".join(cell["source"]))
          and all(text.startswith("<") for text in words(cell))], among=cells)
