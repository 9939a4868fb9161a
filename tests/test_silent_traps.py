"""Faults of the tools that give wrong results without an error. Each is shown to happen first, so that the test that it does not happen here can fail."""
import re

import nbformat, papermill, pytest

PARAMETERS = nbformat.v4.new_code_cell('regime = "phase1_only"\nseed = 0', metadata={"tags": ["parameters"], "collapsed": True})


def kept_parameters(folder, command, setting):
    "Names of the parameters that papermill still sees after nbdev-clean, with this line in the project's configuration"
    text = (folder/"pyproject.toml").read_text()
    text, replaced = re.subn(r"^allowed_cell_metadata_keys = .*\n", setting, text, flags=re.MULTILINE)
    assert replaced == 1
    (folder/"pyproject.toml").write_text(text)
    path = folder/"nbs"/"trap.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[PARAMETERS], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nbformat.write(notebook, path)
    cleaned = command("nbdev-clean", "--fname", "nbs/trap.ipynb", folder=folder)
    assert cleaned.returncode == 0, cleaned.stderr
    cell = nbformat.read(path, as_version=4).cells[0]
    assert "collapsed" not in cell.metadata, "nbdev-clean did not clean, so this shows nothing"
    return set(papermill.inspect_notebook(path))


@pytest.mark.parametrize("setting", ["", 'allowed_cell_metadata_keys = "tags"\n'], ids=["no setting", "a string instead of a list"])
def test_clean_strips_the_parameters_tag_without_our_setting(project_copy, command, setting):
    assert kept_parameters(project_copy, command, setting) == set()


def test_clean_keeps_the_parameters_tag_with_our_setting(root, project_copy, command):
    ours = re.search(r"^allowed_cell_metadata_keys = .*\n", (root/"pyproject.toml").read_text(), flags=re.MULTILINE)[0]
    assert kept_parameters(project_copy, command, ours) == {"regime", "seed"}


def test_clean_keeps_the_parameters_of_every_report(root, project_copy, command):
    reports = sorted((project_copy/"nbs"/"reports").glob("*.ipynb"))
    if not reports: pytest.skip("no report notebook yet")
    before = {path: set(papermill.inspect_notebook(path)) for path in reports}
    assert all(before.values())
    assert command("nbdev-clean", folder=project_copy).returncode == 0
    assert {path: set(papermill.inspect_notebook(path)) for path in reports} == before
