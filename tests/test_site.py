"""The documentation as a site: what stops it, what its pages say, and how they behave in a browser without a network"""
import functools, http.server, os, re, shutil, subprocess, threading
from importlib.util import find_spec
from urllib.parse import unquote, urldefrag

from bs4 import BeautifulSoup
import nbformat, numpy as np, pytest, yaml

from browser import browser   # noqa: F401, a fixture
import commands
from curriculum_gen.site import build as documentation
from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import write_json
from curriculum_gen.figures.plots import checkpoint_viewer
from tools import keep

NARROW, WIDE = 375, 1200
ROWS = [{"step": step, "accuracy": 0.5, "n_per_class": 10, "verdict": "AT-CHANCE"} for step in (0, 1)]
SLIDER = checkpoint_viewer(np.stack([np.full((2, 1, 8, 8), ink, np.uint8) for ink in (0, 255)]), ROWS, phases=[])
HOSTILE = """<script>window.ran = 1</script> <img src=x onerror="window.ran = 1"> ![x](../../../../secret)
[y](javascript:window.ran=1) <http://example.org/z> $\\href{javascript:go()}{q}$ {download}`../../../../secret`

```{include} ../../../../secret
```

:::{literalinclude} ../../../../secret
:::

[r]: http://example.org/r
"""


# ---- what stops a build

def settings(*contents): return {"website": {"title": "t", "sidebar": {"contents": list(contents)}}}


def test_a_side_bar_that_cannot_be_read_is_refused_in_one_line():
    with pytest.raises(InputError, match="section 'Later' lists no pages"):
        documentation.navigation(settings({"section": "Later"}))
    with pytest.raises(InputError, match="neither the path of a notebook"):
        documentation.navigation(settings({"text": "Nowhere"}))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A project with a side bar of our own, which the package takes for its checkout"
    (tmp_path/"curriculum_gen").mkdir()
    (tmp_path/"nbs").mkdir()
    monkeypatch.setattr(documentation.curriculum_gen, "__file__", str(tmp_path/"curriculum_gen"/"__init__.py"))
    def with_pages(*pages):
        (tmp_path/"_quarto.yml").write_text(yaml.safe_dump(settings(*pages)))
        return tmp_path
    return with_pages


def test_a_page_that_is_not_there_is_named(checkout, capsys):
    project = checkout("index.ipynb")
    assert commands.site(["--out", str(project/"site")]) == 2
    assert (capsys.readouterr().err == "cgen-site: _quarto.yml: nbs/index.ipynb is no notebook; write it, "
            "or take it out of the side bar\n")


def test_a_folder_that_holds_something_else_is_left_alone(checkout, capsys):
    project = checkout("index.ipynb")
    assert commands.site(["--out", str(project)]) == 2
    told = capsys.readouterr().err
    assert "which cgen-site did not make" in told and len(told.splitlines()) == 1 and (project/"_quarto.yml").exists()


def test_the_checkout_of_a_branch_keeps_what_is_not_of_the_site(tmp_path):
    "And a file of somebody's own that is in the way stops the build before anything is written"
    out = tmp_path/"pages"
    subprocess.run(["git", "init", "-q", out], check=True)
    (out/"CNAME").write_text("example.org")
    def site(*names):
        made = tmp_path/f"made-{len(names)}-{names[-1].replace('/', '-')}"
        for name in (".nojekyll", *names):
            (made/name).parent.mkdir(parents=True, exist_ok=True)
            (made/name).write_text(f"{made.name} {name}")
        return made
    documentation.publish(site("index.html", "old/one.html", "old/two.html"), out)
    (out/"old"/"notes.txt").write_text("mine")
    documentation.publish(site("index.html", "new/one.html"), out)
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and ".git/" not in str(path)}
    assert there == {documentation.MARK, ".nojekyll", "CNAME", "index.html", "new/one.html", "old/notes.txt"}
    assert subprocess.run(["git", "-C", out, "status"], capture_output=True).returncode == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="did not make it"): documentation.publish(site("old/notes.txt"), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_list_of_files_that_leads_out_of_the_folder_deletes_nothing_there(tmp_path):
    (tmp_path/"mine").write_text("mine")
    (out := tmp_path/"out").mkdir()
    (out/documentation.MARK).write_text(f"../mine\n{tmp_path/'mine'}\ngone/away.html\n")
    (tmp_path/"made").mkdir()
    (tmp_path/"made"/"index.html").write_text("new")
    documentation.publish(tmp_path/"made", out)
    assert (tmp_path/"mine").read_text() == "mine" and (out/"index.html").read_text() == "new"


def test_a_build_that_is_broken_off_can_be_started_again(tmp_path, monkeypatch):
    for name in ("a.html", "b.html"): (tmp_path/name).write_text("new")
    (made := tmp_path/"made").mkdir()
    for name in ("a.html", "b.html"): shutil.copy(tmp_path/name, made)
    written = documentation.write_atomic
    def dies(path, content):
        if path.name == "b.html": raise KeyboardInterrupt
        return written(path, content)
    monkeypatch.setattr(documentation, "write_atomic", dies)
    with pytest.raises(KeyboardInterrupt): documentation.publish(made, tmp_path/"out")
    monkeypatch.undo()
    documentation.publish(made, tmp_path/"out")
    assert (tmp_path/"out"/"b.html").read_text() == "new"


def test_an_installed_package_says_that_it_has_no_notebooks(checkout, capsys):
    (project := checkout("index.ipynb"))/"_quarto.yml"
    (project/"_quarto.yml").unlink()
    assert commands.site(["--out", str(project/"site")]) == 2
    assert "clone the project" in capsys.readouterr().err


def test_nbdev_renders_the_pages_where_quarto_is(checkout, monkeypatch):
    project, ran = checkout("index.ipynb"), []
    (project/"nbs"/"index.ipynb").touch()
    (project/"results").mkdir()
    def nbdev_docs(command, **_):
        ran.append(command)
        (project/"_docs").mkdir()
        (project/"_docs"/"index.html").write_text("made by Quarto")
    monkeypatch.setattr(documentation, "_run", nbdev_docs)
    monkeypatch.setattr(documentation.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert documentation.build_site(project/"site").read_text() == "made by Quarto" and ran == [["nbdev-docs"]]
    with pytest.raises(InputError, match="--with sphinx"):
        documentation.build_site(project/"other", runs=project/"results")


def test_without_npm_there_is_no_mathjax(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert documentation.mathjax(tmp_path) is None
    with pytest.raises(InputError, match="npm did not give MathJax"): documentation.mathjax(tmp_path, fetch=True)


def test_the_settings_are_what_quarto_knows(root):
    "Quarto refuses names it does not know; its schema is in no registry, so what we use of it stands here"
    found = yaml.safe_load((root/"_quarto.yml").read_text())
    assert found.keys() == {"project", "website", "format",
                            "metadata-files"} and found["project"] == {"type": "website"}
    assert (found["website"].keys() <= {"title", "sidebar", "description"}
            and found["website"]["sidebar"].keys() <= {"style", "collapse-level", "contents"})
    assert found["format"].keys() == {"html"} and found["format"]["html"].keys() <= {"theme", "toc"}
    for section in found["website"]["sidebar"]["contents"]:
        assert section.keys() in ({"text", "href"}, {"section", "contents"})
        for page in section.get("contents", []): assert isinstance(page, str) or page.keys() == {"text", "href"}


# ---- workflows

BUILT_IN = [("vendor.github-workflows", ".github/workflows/*.yml"),
            ("vendor.github-actions", ".github/actions/*/action.yml"), ("vendor.github-actions", "action.yml")]


@pytest.fixture
def checked(command, root):
    "Checks files against a schema that comes with check-jsonschema, without a network"
    if not find_spec("check_jsonschema"):
        pytest.skip("check-jsonschema is not installed: pip install 'curriculum_gen[dev]'")
    return lambda schema, *files: command("check-jsonschema", "--builtin-schema", schema, *map(str, files), folder=root)


@pytest.mark.parametrize("schema, pattern", BUILT_IN)
def test_workflows_are_what_github_reads(root, checked, schema, pattern):
    files = sorted(root.glob(pattern))
    done = checked(schema, *files)
    assert files and done.returncode == 0, done.stdout + done.stderr


def test_a_workflow_that_is_wrong_is_found(tmp_path, checked):
    (tmp_path/"wrong.yml").write_text("on: push\njobs: {gate: {runs-on: ubuntu-24.04, stepps: []}}\n")
    assert checked("vendor.github-workflows", tmp_path/"wrong.yml").returncode == 1


def test_workflows_to_copy_are_what_github_reads(root, tmp_path, checked):
    "Those that pages show"
    files = []
    for page in sorted((root/"nbs").rglob("*.ipynb")):
        text = "\n\n".join(cell.source for cell in nbformat.read(page, as_version=4).cells
                           if cell.cell_type == "markdown")
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S):
            if not re.search("^jobs:", block, re.M): continue
            files.append(tmp_path/f"{page.stem}-{len(files)}.yml")
            files[-1].write_text(block)
    assert any("cgen-gate" in file.read_text()
               for file in files), "no page shows how a repository of one's own is gated"
    done = checked("vendor.github-workflows", *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("last, code", [("WORSE", 0), ("GAMED", 1)])
def test_the_action_for_others_gates_and_tells(root, tmp_path, last, code):
    "Its step in a real shell; the commands are stand-ins that say how they were called"
    steps = yaml.safe_load((root/"action.yml").read_text())["runs"]["steps"]
    step = next(step for step in steps if step.get("name") == "gate and compare")
    for name in ("cgen-gate", "cgen-compare"):
        ends = code if "gate" in name else 1
        (tmp_path/name).write_text(f"#!/bin/sh\necho {name} \"$@\"\necho {last}\nexit {ends}\n")
        (tmp_path/name).chmod(0o755)
    given = {"RUNS": "runs/a runs/b", "BASELINE": "last week", "REQUIRE": "LEARNED", "STRICT": "true",
             "RUNNER_TEMP": str(tmp_path), "GITHUB_STEP_SUMMARY": str(tmp_path/"summary.md"),
             "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert set(step["env"]) == {"RUNS", "BASELINE", "REQUIRE", "STRICT"}
    shell = ["bash", "-e", "-o", "pipefail", "-c", step["run"]]
    done = subprocess.run(shell, env=given, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    told = (tmp_path/"summary.md").read_text()
    assert told == (tmp_path/"curriculum_gen.md").read_text() and told.count(last) == 3
    assert "cgen-gate runs/a runs/b --require LEARNED --baseline last week --strict" in told
    assert "cgen-compare last week runs/b" in told


def test_what_workflows_start_is_there(root, capsys):
    "Every command of the environment and every target of make that a workflow names"
    ours = re.findall(r"^ +(cgen-\w+) =", (root/"settings.ini").read_text(), re.M)
    targets = set(re.findall(r"^([a-z]+):", (root/"Makefile").read_text(), re.M))
    text = "\n".join(file.read_text() for _, pattern in BUILT_IN for file in root.glob(pattern))
    started = set(re.findall(r"\.venv/bin/([\w-]+)", text))
    assert {"cgen-data", "cgen-bench", "nbdev-test"} <= started <= {*ours, "nbdev-test", "pytest"}
    assert {"environment", "reproduce", "test"} <= set(re.findall(r"\bmake (\w+)", text)) <= targets
    benches = yaml.safe_load((root/".github"/"workflows"/"nightly.yml").read_text())["jobs"]["benches"]["strategy"]
    with pytest.raises(SystemExit): commands.bench(["--help"])
    assert set(benches["matrix"]["bench"]) <= set(re.findall(r"\w+", capsys.readouterr().out))


# ---- what is kept of a study

def test_a_study_is_kept_without_the_places_it_was_made_in(tmp_path):
    "Its table, its own report and that of each regime's first seed"
    study, target = tmp_path/"runs", tmp_path/"results"/"mine"
    for name in ("phase1_only/seed-10", "phase1_only/seed-9", "full_curriculum/seed-9"):
        executed_report(study/name, name)
    executed_report(study, "seed table", notebook="seed_table.ipynb", parameters={"out": str(study)})
    (study/"seed_table.json").write_text("{}")
    keep.main([str(study), str(target)])
    assert ({str(path.relative_to(target)) for path in target.rglob("*.ipynb")}
            == {"seed_table.ipynb", "phase1_only/seed-9/report.ipynb", "full_curriculum/seed-9/report.ipynb"})
    assert target.with_suffix(".json").read_text() == "{}" and documentation.executed_reports(target)
    assert nbformat.read(target/"seed_table.ipynb", as_version=4).metadata.papermill.parameters == {"out": "runs"}
    assert not [path for path in target.rglob("*") if path.is_file() and str(tmp_path) in path.read_text()]


def test_what_is_no_study_is_not_kept(tmp_path, capsys):
    with pytest.raises(SystemExit): keep.main([str(tmp_path), str(tmp_path/"mine")])
    assert "no seed_table.json there" in capsys.readouterr().err


# ---- the site itself

def executed_report(folder, name, status="ok", notebook="report.ipynb", parameters={"seed": 3, "run_folder": "r"*90}):
    "A report as papermill leaves it, with a slider, a wide table and a formula in it"
    tagged = {"parameters": "seed = 7", "injected-parameters": "seed = 3"}
    cells = [nbformat.v4.new_markdown_cell("# One run\n\n> What came of it"),
             *(nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}) for tag, source in tagged.items())]
    wide = f"<table><tr>{''.join(f'<td>column_{n}</td>' for n in range(30))}</tr></table>"
    outputs = [nbformat.v4.new_output("execute_result", {"text/html": html}) for html in (SLIDER, wide)]
    cells += [nbformat.v4.new_code_cell("show()", outputs=outputs),
              nbformat.v4.new_markdown_cell("A long_name_" + "x"*80 + " and $e^x$.")]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(
        cells=cells, metadata={"papermill": {"parameters": parameters, "output_path": str(folder)}}), folder/notebook)
    write_json(folder/"run.json", {"status": status, "job": name, "seconds": 41.6,
                                   "notebook": "regime.ipynb" if notebook == "report.ipynb" else notebook,
                                   "error": "" if status == "ok" else "ValueError: no", "commit": None,
                                   "versions": {"curriculum_gen": "0.1.0"}})


def hostile_report(folder):
    "One whose text, outputs and record try what they can"
    executed_report(folder, f"<script>{HOSTILE}", status="failed")
    notebook = nbformat.read(folder/"report.ipynb", as_version=4)
    shown = [nbformat.v4.new_output("display_data", data) for data in (
        {"text/markdown": HOSTILE}, {"text/html": HOSTILE}, {"application/javascript": "window.ran = 1"},
        {"image/svg+xml": "<svg onload='window.ran = 1'/>"}, {"text/html": "<style>body { display: none }</style>"})]
    notebook.cells += [nbformat.v4.new_markdown_cell(HOSTILE), nbformat.v4.new_code_cell("show_doc(x)", outputs=shown)]
    nbformat.write(notebook, folder/"report.ipynb")


def made_parent(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_report_of_somebody_else_runs_includes_and_links_nothing(tmp_path, root):
    "Whatever its text, its outputs and its record hold; the site is one of two pages"
    if not all(map(find_spec, ("sphinx", "myst_nb", "furo"))): pytest.skip("pip install 'curriculum_gen[docs]'")
    project, out = tmp_path/"project", tmp_path/"out"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Start\n\n> here")]),
                   made_parent(project/"_proc"/"index.ipynb"))
    shutil.copytree(root/"tools"/"site", project/"tools"/"site")
    (tmp_path/"secret").write_text("a secret of this machine")
    hostile_report(tmp_path/"runs"/"<b>`x`](y)"/"seed-3")
    sections = documentation.navigation(settings("index.ipynb"))
    documentation.stage(project, tmp_path/"source", sections=sections,
                        reports=documentation.executed_reports(tmp_path/"runs"))
    (tmp_path/"source"/"_static"/"mathjax.js").write_bytes(b"")
    documentation.sphinx(tmp_path/"source", out, title="t")
    [page] = out.rglob("report.html")
    article = BeautifulSoup(page.read_text(), "html.parser").find("article")
    assert not article.find_all("script") and not article.find_all("svg", onload=True)
    assert not [style for style in article.find_all("style") if "body" in style.text]
    assert all(image.get("src", "data:").startswith("data:") or "_images" in image["src"]
               for image in article.find_all("img"))
    assert not [link["href"] for link in article.find_all("a", href=True) if not link["href"].startswith("#")]
    assert not [tag for tag in article.find_all(True) for name in tag.attrs
                if name.startswith("on") and tag.name != "input"]
    assert "a secret of this machine" not in page.read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory, root):
    "The whole site with the reports that are kept and two made up, and what the build said"
    missing = [name for name in ("sphinx", "myst_nb", "furo", "sphinx_copybutton") if not find_spec(name)]
    if missing: pytest.skip(f"{', '.join(missing)} not installed: pip install 'curriculum_gen[docs]'")
    folder, said = tmp_path_factory.mktemp("site"), []
    shutil.copytree(root/"results"/"quick", folder/"runs"/"quick")
    executed_report(folder/"runs"/"phase1_only"/"seed-3", "phase1_only seed 3")
    executed_report(folder/"runs"/"full_curriculum"/"seed-3", "full_curriculum seed 3", status="failed")
    documentation.build_site(folder/"site", runs=folder/"runs", program="sphinx", say=said.append)
    return folder/"site", said


@pytest.fixture(scope="module")
def site(built): return built[0]


@pytest.fixture(scope="module")
def address(site):
    "The site on loopback"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def visits(browser, site, address):
    "Every page, opened once: what happened, and by how much it is too wide for a telephone"
    found = {}
    for page in sorted(site.rglob("*.html")):
        browser.window(WIDE)
        visit = browser.visit(address + page.relative_to(site).as_posix())
        browser.window(NARROW)
        found[page.relative_to(site).as_posix()] = (visit,
                                                    browser.value("document.documentElement.scrollWidth - innerWidth"))
    browser.window(WIDE)
    return found


def none(found): assert not found, "\n".join(f"{page}: {what}" for page, what in found.items())


def test_every_notebook_of_the_side_bar_has_a_page(site, root):
    for page in documentation.notebooks_of(documentation.navigation(yaml.safe_load((root/"_quarto.yml").read_text()))):
        assert (site/f"{documentation.site_path(page)}.html").exists()


def test_no_page_says_anything_in_red_or_misses_anything(visits):
    none({page: visit.errors + visit.failed + visit.broken for page, (visit, _) in visits.items() if visit.errors
          or visit.failed or visit.broken})


def test_no_page_asks_for_anything_elsewhere(visits, address):
    none({page: outside for page, (visit, _) in visits.items()
          if (outside := [url for url in visit.requests if not url.startswith((address, "about:", "blob:"))])})


def test_every_link_leads_somewhere(visits, address, site):
    def leads(link):
        if not link.startswith(address): return link.startswith(("https://", "mailto:"))
        page, anchor = urldefrag(link.removeprefix(address))
        page = unquote(page.split("?")[0]) or "index.html"
        if page not in visits: return (site/page).is_file()   # a figure in its full size
        return not anchor or unquote(anchor) in visits[page][0].ids
    none({page: dead for page, (visit, _) in visits.items()
          if (dead := sorted({link for link in visit.links if not leads(link)}))})


def test_no_page_is_wider_than_a_telephone(visits):
    none({page: f"{too_wide} pixels" for page, (_, too_wide) in visits.items() if too_wide > 0})


def test_an_executed_report_tells_how_it_ended_and_with_which_parameters(visits):
    fine, failed = (" ".join(visits[f"executed/{regime}/seed-3/report.html"][0].text.split())
                    for regime in ("phase1_only", "full_curriculum"))
    assert "Executed from regime.ipynb in 42 s, by curriculum_gen 0.1.0." in fine
    assert "full_curriculum seed 3 ended with failed ValueError: no. Executed from regime.ipynb" in failed
    assert "seed = " not in fine and "seed = " not in failed


def test_a_report_begins_with_its_answer(visits):
    "Then comes the figure, and what the report is about only after it"
    text, (answer, about) = (visits["executed/quick/seed_table.html"][0].text,
                             ("As reported, it is not the regime", "A lab report measured four checkpoints"))
    assert 0 < text.index(answer) < text.index(about)


def test_every_picture_of_a_report_says_what_it_shows(visits):
    none({page: visit.undescribed for page, (visit, _) in visits.items() if page.startswith("executed/")
          and visit.undescribed})
    assert not visits["index.html"][0].undescribed


def test_the_side_bar_leads_to_every_section(browser, address, visits):
    browser.visit(address + "index.html")
    browser.value("[...document.querySelectorAll('.sidebar-tree a')].find(a => "
                  "a.href.endsWith('/findings.html')).click()")
    assert browser.wait_for("location.pathname == '/diagnosis/findings.html' && document.readyState == 'complete' "
                            "&& document.title")
    box = browser.wait_for("(r => r.top > 0 && r.bottom < innerHeight && [r.top, "
                           "r.bottom])(document.querySelector('.sidebar-tree .current-page').getBoundingClientRect())")
    assert box, "the page one is on is in sight in the side bar"


def test_the_side_bar_folds_all_sections_but_the_one_with_this_page(browser, address, visits):
    opened = "[...document.querySelectorAll('.sidebar-tree details[open] summary')].map(s => s.textContent)"
    height = "document.querySelector('.sidebar-tree').scrollHeight"
    browser.visit(address + "index.html")
    assert browser.value(opened) == ["How to", "Concepts", "Results"]
    browser.visit(address + "statistics/chance.html")
    assert browser.value(opened) == ["What numbers can tell"] and browser.value(height) < 2000
    browser.value("[...document.querySelectorAll('.sidebar-tree summary')].find(s => s.textContent == "
                  "'Judges').click()")
    assert browser.value(opened) == ["What numbers can tell", "Judges"]
    assert browser.value("[...document.querySelectorAll('.sidebar-tree a')].every(a => a.closest('details') || "
                         "a.closest('ul').parentElement.className == 'sidebar-tree')")


def test_the_side_bar_opens_on_a_telephone(browser, address):
    browser.window(NARROW)
    browser.visit(address + "index.html")
    edge = "document.querySelector('.sidebar-drawer').getBoundingClientRect().right"
    assert browser.value(edge) <= 0
    browser.value("document.querySelector('.mobile-header label[for=__navigation]').click()")
    assert browser.wait_for(f"{edge} > 200")
    browser.window(WIDE)


@pytest.mark.parametrize("opened", ["served", "as a file"])
def test_search_finds_pages(browser, site, address, opened):
    visit = browser.visit((address if opened == "served" else site.as_uri() + "/") + "search.html?q=wilson")
    assert "statistics/intervals.html" in browser.wait_for("[...document.querySelectorAll('#search-results "
                                                           "li a')].map(a => " "a.href).join(' ')")
    browser.wait_for("/found \\d+ page/.test(document.querySelector('#search-results').textContent)")
    assert not visit.errors + visit.failed


def test_the_theme_can_be_switched(browser, address):
    browser.visit(address + "statistics/chance.html")
    seen = set()
    for _ in range(3):
        seen.add((browser.value("document.body.dataset.theme"),
                  browser.value("getComputedStyle(document.body).backgroundColor")))
        browser.value("[...document.querySelectorAll('.theme-toggle')].find(b => b.offsetParent).click()")
    themes, backgrounds = map(set, zip(*seen))
    assert {"light", "dark"} <= themes and len(backgrounds) == 2
    chosen = browser.value("document.body.dataset.theme")
    browser.visit(address + "core/records.html")
    assert browser.value("document.body.dataset.theme") == chosen, "the choice holds on the next page"


def test_no_formula_is_left_as_text(site):
    marked = re.compile(r"<(pre|code|script|style|td|title)\b.*?</\1>|<(span|div) class=\"math[^>]*>.*?</\2>", re.S)
    pages = {page.relative_to(site).as_posix(): page.read_text() for page in site.rglob("*.html")}
    assert sum("class=\"math" in text for text in pages.values()) > 5
    none({page: found for page, text in pages.items()
          if (found := re.findall(r".{0,30}(?:\\[a-z]{2,}|\$\$).{0,30}", marked.sub("", text)))})


def test_formulas_are_drawn(browser, built, address):
    _, said = built
    if said: pytest.skip(said[0])
    browser.visit(address + "statistics/chance.html")
    formulas = browser.value("document.querySelectorAll('.math').length")
    browser.wait_for(f"document.querySelectorAll('.math mjx-container svg').length >= {formulas}")
    assert formulas > 3 and not browser.value("document.querySelectorAll('[data-mjx-error]').length")


def test_a_slider_moves_what_it_is_beside(browser, address, visits):
    "Whatever page has one: the window looks different after it was moved"
    pages = [page for page, (visit, _) in visits.items() if visit.sliders]
    assert {"executed/phase1_only/seed-3/report.html", "figures/plots.html"} <= set(pages)
    for page in pages:
        browser.visit(address + page)
        browser.value("document.querySelector('input[type=range]').scrollIntoView({block: 'center', "
                      "behavior: 'instant'})")
        before = browser.picture("article")
        browser.value("(s => { s.value = s.value == s.max ? s.min : "
                      "s.max; for (const kind of ['input', 'change']) s.dispatchEvent(new Event(kind, {bubbles: "
                      "true})) })(document.querySelector('input[type=range]'))")
        assert browser.picture("article") != before, page

