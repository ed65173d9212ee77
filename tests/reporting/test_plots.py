"""Plots: what is drawn where, without global state, small files."""

import sys

import numpy as np
import pytest
from PIL import Image

from jdistill.base import UserError
from jdistill.reporting import plots


@pytest.fixture
def figures(monkeypatch):
  """The figures that were saved, to ask matplotlib what they show."""
  kept = []
  real = plots._save
  monkeypatch.setattr(plots, "_save", lambda figure, path: (kept.append(figure), real(figure, path)))
  return kept


def _is_small_png(path):
  with Image.open(path) as image:
    image.load()
    assert image.format == "PNG" and image.width > 600
    assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10
  return path.stat().st_size < 100_000


def test_curves(tmp_path, figures):
  rng = np.random.default_rng(0)
  steps = np.arange(2000)
  series = {f"run {i}": (steps, np.exp(-steps / 900) * rng.uniform(0.8, 1.2, 2000) + i) for i in range(3)}
  plots.curves(tmp_path / "c.png", series, "loss", title="a title")
  assert _is_small_png(tmp_path / "c.png")
  (axes,) = figures[0].axes
  assert axes.get_ylabel() == "loss" and axes.get_xlabel() == "step" and axes.get_yscale() == "linear"
  assert [text.get_text() for text in axes.get_legend().get_texts()] == list(series)
  np.testing.assert_array_equal(axes.lines[1].get_ydata(), series["run 1"][1])
  first = (tmp_path / "c.png").read_bytes()
  plots.curves(tmp_path / "c.png", series, "loss", title="a title")
  assert (tmp_path / "c.png").read_bytes() == first


def test_curves_leave_gaps_and_logarithms_stay_possible(tmp_path, figures):
  plots.curves(tmp_path / "a.png", {"x": ([0, 1, 2, 3], [1.0, np.nan, np.inf, 2.0])}, "y")
  plots.curves(tmp_path / "b.png", {"x": ([0, 1, 2], [1.0, 0.0, 10.0])}, "y", logy=True)
  plots.curves(tmp_path / "c.png", {"x": ([0, 1], [0.0, -1.0])}, "y", logy=True)
  lines = [figure.axes[0].lines[0].get_ydata() for figure in figures]
  np.testing.assert_array_equal(lines[0], [1, np.nan, np.nan, 2])
  np.testing.assert_array_equal(lines[1], [1, np.nan, 10])
  assert [figure.axes[0].get_yscale() for figure in figures] == ["linear", "log", "linear"]
  assert figures[0].axes[0].get_legend() is None  # one line needs no legend


def test_grouped_bars(tmp_path, figures):
  series = {"early": ([0.6, 0.8], [0.02, 0.01]), "middle": ([0.5, np.nan], None), "late": ([0.4, 0.9], [0.0, np.nan])}
  controls = {"random": [0.45, 0.7], "full": 0.95}
  plots.grouped_bars(tmp_path / "b.png", ["1", "10"], series, "accuracy", xlabel="ipc", controls=controls, ylim=(0, 1))
  assert _is_small_png(tmp_path / "b.png")
  (axes,) = figures[0].axes
  heights = [[bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
  np.testing.assert_array_equal(heights, [series[name][0] for name in series])
  centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
  np.testing.assert_allclose(
    centres, np.array([[i - 0.8 / 3, 1 + i - 0.8 / 3] for i in np.arange(3) * 0.8 / 3]).ravel()
  )
  drawn = {lines.get_label(): lines for lines in axes.collections if lines.get_label() in controls}
  np.testing.assert_allclose([segment[0, 1] for segment in drawn["random"].get_segments()], [0.45, 0.7])
  full = np.array(drawn["full"].get_segments())
  np.testing.assert_allclose(full[..., 1], 0.95)
  assert (full[0, 0, 0], full[-1, 1, 0]) == (-0.5, 1.5)  # from end to end
  assert axes.get_ylim() == (0, 1) and [text.get_text() for text in axes.get_xticklabels()] == ["1", "10"]
  legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
  assert legend == ["early", "middle", "late", "random", "full"]


def test_refusals(tmp_path):
  path = tmp_path / "x.png"
  with pytest.raises(UserError, match="series is empty"):
    plots.curves(path, {}, "y")
  with pytest.raises(UserError, match="series 'a' has steps"):
    plots.curves(path, {"a": ([1], [1, 2])}, "y")
  with pytest.raises(UserError, match="0 groups and 1 series"):
    plots.grouped_bars(path, [], {"a": ([], [])}, "y")
  for values in ([1.0], [1.0, np.inf]):
    with pytest.raises(UserError, match=r"'a' has values .* each of the 2 groups"):
      plots.grouped_bars(path, ["1", "2"], {"a": (values, None)}, "y")
  assert not path.exists()


def test_pyplot_is_left_alone(tmp_path):
  before = "matplotlib.pyplot" in sys.modules
  plots.curves(tmp_path / "x.png", {"a": ([1], [1])}, "y")
  assert ("matplotlib.pyplot" in sys.modules) == before
