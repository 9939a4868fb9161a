"""The worked cases, which take too long for every test run"""
import nbformat, pytest
from nbclient import NotebookClient


@pytest.mark.slow
def test_the_worked_case_runs_from_its_first_cell_to_its_last(root):
    folder = root/"nbs"/"explorations"
    notebook = nbformat.read(folder/"step_10000.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3",
                   resources={"metadata": {"path": str(folder)}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())
