"""Panels: the right picture under every name, one frame for all points, and what does not fit into it."""

import numpy as np
import pytest
from PIL import Image

from jdistill.base import UserError
from jdistill.reporting import panels


@pytest.fixture
def figures(monkeypatch):
  """The figures that were saved, to ask matplotlib what they show."""
  kept, real = [], panels.save_figure
  monkeypatch.setattr(panels, "save_figure", lambda figure, path: (kept.append(figure), real(figure, path)))
  return kept


def _titles(figure):
  return [axes.get_title(loc="left") for axes in figure.axes if axes.axison or axes.images]


def test_points_have_one_frame_and_those_outside_are_counted(tmp_path, figures):
  rng = np.random.default_rng(0)
  real = rng.normal(size=(200, 2))
  made = real.copy()
  made[:7], made[7, 1] = 1e6, np.nan
  panels.point_panels(tmp_path / "p.png", {"real data": real, "dmd2": made, "c": real + 0.1}, real)
  found = [axes for axes in figures[0].axes if axes.axison]
  assert [axes.get_title(loc="left") for axes in found] == ["real data", "dmd2 (4% outside)", "c"]
  assert len({(*axes.get_xlim(), *axes.get_ylim()) for axes in found}) == 1
  assert found[0].get_xlim()[0] < real[:, 0].min() and found[0].get_xlim()[1] > real[:, 0].max()
  grey, blue = found[1].collections
  np.testing.assert_array_equal(grey.get_offsets(), real)
  np.testing.assert_array_equal(blue.get_offsets(), made[8:])
  with Image.open(tmp_path / "p.png") as image:
    assert image.format == "PNG" and image.width > image.height > 200


def test_images_are_grids_of_one_size(tmp_path, figures):
  images = np.linspace(0, 1, 8 * 4 * 4).reshape(8, 4, 4, 1)
  panels.image_panels(tmp_path / "i.png", {name: images[::way] for name, way in (("real data", 1), ("edm", -1))}, 4)
  shown = [axes.images[0].get_array() for axes in figures[0].axes]
  assert _titles(figures[0]) == ["real data", "edm"]
  assert shown[0].shape == shown[1].shape == (2 * 33 + 1, 4 * 33 + 1)  # 4 pixels by 8, with lines between
  assert shown[0][1, 1] == 0 and shown[1][1, 1] == round(255 * images[7, 0, 0, 0])
  panels.image_panels(tmp_path / "rgb.png", {"a": np.full((3, 5, 5, 3), np.nan)}, 3)
  assert figures[1].axes[0].images[0].get_array()[1, 1].tolist() == [0, 0, 0]


def test_curves_have_their_own_axes_and_levels(tmp_path, figures):
  steps = np.arange(5)
  series = {"dmd2": (steps, 10.0 ** -np.arange(5)), "gan": (steps, np.ones(5))}
  flat = {"gan": (steps, np.array([0.5, np.nan, 0.6, 0.6, 0.7]))}
  panels.curve_panels(tmp_path / "c.png", {"gap": series, "spread": flat}, {"spread": ("real data", 0.65)})
  gap, spread = figures[0].axes[:2]
  assert (gap.get_yscale(), spread.get_yscale()) == ("log", "linear")
  assert [line.get_label() for line in spread.lines] == ["gan", "real data"]
  assert spread.lines[0].get_color() == gap.lines[1].get_color() != gap.lines[0].get_color()  # an arm has one colour
  assert np.isnan(spread.lines[0].get_ydata()[1])


def test_what_cannot_be_drawn(tmp_path):
  for draw in (lambda path: panels.point_panels(path, {}), lambda path: panels.image_panels(path, {}, 3)):
    with pytest.raises(UserError, match="panels: there are none"):
      draw(tmp_path / "x.png")
  with pytest.raises(UserError, match=r"points of 'a' have shape \(3, 3\)"):
    panels.point_panels(tmp_path / "x.png", {"a": np.zeros((3, 3))})
  with pytest.raises(UserError, match="1 or 3"):
    panels.image_panels(tmp_path / "x.png", {"a": np.zeros((2, 4, 4, 2))}, 3)
