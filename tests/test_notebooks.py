"""The notebooks are committed without outputs, and run from top to bottom."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BADGE = "https://colab.research.google.com/github/jdistill/jdistill/blob/main/notebooks/"

# what each shows: pictures, words of its output, and a file that its run leaves
SHOWS = {
  "datm": (4, ("DATM, 1 per class", "random real images: "), "runs/notebook_ipc1/report.html"),
  "diffusion": (2, ("dmd2: ", "of the samples lie in one"), "runs/notebook_diffusion/report.html"),
  "knowledge": (2, ("teacher: 0.", "labels alone: ", "against ce (95%)"), "runs/notebook_knowledge/report.html"),
  "language": (1, ("SmolLM2 is not there", "against sft", "--- fkl: The ..."), "runs/notebook_language/report.html"),
}

nbformat = pytest.importorskip("nbformat", reason="needs jdistill[notebook]")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
  return request.param


def read(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  return notebook


def test_there_is_a_notebook():
  assert [path.stem for path in NOTEBOOKS] == list(SHOWS)


def test_committed_without_outputs(path):
  notebook = read(path)
  assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert cells and not any(cell.outputs for cell in cells)
  assert {cell.execution_count for cell in cells} == {None}
  assert "widgets" not in notebook.metadata


def test_badge_opens_this_file(path):
  assert f"({BADGE}{path.name})" in read(path).cells[0].source


@pytest.mark.slow
def test_runs(path, tmp_path, monkeypatch):
  nbclient = pytest.importorskip("nbclient", reason="needs jdistill[notebook]")
  pytest.importorskip("ipykernel", reason="needs jdistill[notebook]")
  monkeypatch.setenv("JDISTILL_TINY", "1")
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
  monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
  notebook = read(path)
  client = nbclient.NotebookClient(
    notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
  )
  client.execute()
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell.outputs]
  pictures, words, left = SHOWS[path.stem]
  assert sum("image/png" in output.get("data", {}) for output in outputs) == pictures
  text = "".join(output.text for output in outputs if output.output_type == "stream")
  assert all(word in text for word in words)
  assert "Warning" not in text
  assert (tmp_path / left).is_file()
