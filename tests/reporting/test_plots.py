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
  real = plots.save_figure
  monkeypatch.setattr(plots, "save_figure", lambda figure, path: (kept.append(figure), real(figure, path)))
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
  plots.curves(tmp_path / "c.png", series, "loss")
  assert _is_small_png(tmp_path / "c.png")
  (axes,) = figures[0].axes
  assert axes.get_ylabel() == "loss" and axes.get_xlabel() == "step"
  assert [text.get_text() for text in axes.get_legend().get_texts()] == list(series)
  np.testing.assert_array_equal(axes.lines[1].get_ydata(), series["run 1"][1])
  first = (tmp_path / "c.png").read_bytes()
  plots.curves(tmp_path / "c.png", series, "loss")
  assert (tmp_path / "c.png").read_bytes() == first


def test_curves_leave_gaps(tmp_path, figures):
  plots.curves(tmp_path / "a.png", {"x": ([0, 1, 2, 3], [1.0, np.nan, np.inf, 2.0])}, "y")
  (axes,) = figures[0].axes
  np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1, np.nan, np.nan, 2])
  assert axes.get_legend() is None  # one line needs no legend


def test_grouped_bars(tmp_path, figures):
  series = {
    "early": ([0.6, 0.8], [0.02, 0.01]),
    "middle": ([0.5, np.nan], [0.0, 0.0]),
    "late": ([0.4, 0.9], [0.0, np.nan]),
  }
  plots.grouped_bars(tmp_path / "b.png", ["1", "10"], series, "accuracy", ylim=(0, 1))
  assert _is_small_png(tmp_path / "b.png")
  (axes,) = figures[0].axes
  heights = [[bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
  np.testing.assert_array_equal(heights, [series[name][0] for name in series])
  centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
  np.testing.assert_allclose(
    centres, np.array([[i - 0.8 / 3, 1 + i - 0.8 / 3] for i in np.arange(3) * 0.8 / 3]).ravel()
  )
  assert axes.get_ylim() == (0, 1) and [text.get_text() for text in axes.get_xticklabels()] == ["1", "10"]
  legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
  assert legend == list(series)


def test_refusals(tmp_path):
  path = tmp_path / "x.png"
  with pytest.raises(UserError, match="series is empty"):
    plots.curves(path, {}, "y")
  with pytest.raises(UserError, match="series 'a' has steps"):
    plots.curves(path, {"a": ([1], [1, 2])}, "y")
  with pytest.raises(UserError, match="0 groups and 1 series"):
    plots.grouped_bars(path, [], {"a": ([], [])}, "y", ylim=(0, 1))
  for values in ([1.0], [1.0, np.inf]):
    with pytest.raises(UserError, match=r"'a' has values .* each of the 2 groups"):
      plots.grouped_bars(path, ["1", "2"], {"a": (values, [0.0, 0.0])}, "y", ylim=(0, 1))
  assert not path.exists()


def test_pyplot_is_left_alone(tmp_path):
  before = "matplotlib.pyplot" in sys.modules
  plots.curves(tmp_path / "x.png", {"a": ([1], [1])}, "y")
  assert ("matplotlib.pyplot" in sys.modules) == before
