"""Mixtures of Gaussians: where modes are, how far apart, and draws that miss none."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data import points

SIZES = {
  "grid25": (25, 0.35, 0.03),
  "ring8": (8, 2 * np.sin(np.pi / 8), 0.05),
  "ring16": (16, 2 * np.sin(np.pi / 16), 0.04),
}


@pytest.mark.parametrize("name", points.mixtures())
def test_neighbouring_modes_are_far_apart(name):
  """As many modes as the name says around the origin, and the nearest two at least nine deviations apart."""
  known = points.mixture(name)
  modes, nearest, sd = SIZES[name]
  assert known.centres.shape == (modes, 2) and known.sd == sd
  np.testing.assert_allclose(known.centres.mean(0), 0, atol=1e-12)
  away = np.linalg.norm(known.centres[:, None] - known.centres[None], axis=-1)
  np.testing.assert_allclose((away + 9 * np.eye(modes)).min(1), nearest, rtol=1e-12)
  assert nearest > 9 * sd


@pytest.mark.parametrize("name", points.mixtures())
def test_draws_have_the_mixtures_moments(name):
  known = points.mixture(name)
  x, modes = known.draw(np.random.default_rng(0), 800 * len(known.centres))
  assert np.bincount(modes).tolist() == [800] * len(known.centres)  # none is missing, none comes more often
  rest = x - known.centres[modes]
  assert abs(rest.mean()) < 4 * known.sd / np.sqrt(rest.size)
  np.testing.assert_allclose(rest.std(0), known.sd, rtol=0.03)
  assert abs(np.corrcoef(rest.T)[0, 1]) < 4 / np.sqrt(len(rest))
  assert np.corrcoef(modes[:-1], modes[1:])[0, 1] < 0.05  # and in no order


def test_draws_follow_the_generator():
  known = points.mixture("ring8")
  first, again, other = (known.draw(np.random.default_rng(seed), 30) for seed in (1, 1, 2))
  np.testing.assert_array_equal(first[0], again[0])
  np.testing.assert_array_equal(first[1], again[1])
  assert not np.isclose(first[0], other[0]).any()
  assert set(known.draw(np.random.default_rng(0), 3)[1]) <= set(range(8))


def test_an_unknown_mixture_is_refused():
  with pytest.raises(UserError, match="dataset='ring9': is no mixture; choose one of grid25, ring8, ring16"):
    points.mixture("ring9")
