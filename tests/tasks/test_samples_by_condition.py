"""Task `samples`: a judgement by condition."""

import jax
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.evaluation.samples import sliced_wasserstein
from jdistill.tasks import Request
from jdistill.tasks.samples import samples


def request(dataset="ring8"):
  return Request(dataset, None, 64, None, "none", 64, 0)


def test_a_sample_of_another_condition_is_wrong():
  task = samples(request(), draws=64, directions=16, judge="by_condition")
  assert task.metric == "by_condition" and not task.higher
  real, cond = task.test.extra["real"], task.test.x.cond
  right = task.score(lambda x: real, task.test)
  assert right["sliced_wasserstein"] == right["by_condition"] == 0
  # the same points, each under the next mode: as a whole they are right
  moved = np.zeros_like(real)
  for mode in range(8):
    moved[cond == mode] = np.resize(real[cond == (mode + 1) % 8], moved[cond == mode].shape)
  wrong = task.score(lambda x: moved, task.test)
  assert wrong["agreement"] < 0.1 and wrong["by_condition"] > 10 * max(wrong["sliced_wasserstein"], 0.01)
  each = [
    sliced_wasserstein(np.float64(moved[cond == mode]), np.float64(real[cond == mode]), key=jax.random.key(0), p=1,
                       directions=16)
    for mode in range(8)
  ]  # fmt: skip
  np.testing.assert_allclose(wrong["by_condition"], np.mean(each), rtol=1e-6)
  assert samples(request(), draws=64, directions=16).metric == "sliced_wasserstein"


def test_what_has_no_conditions_to_judge_by():
  with pytest.raises(UserError, match=r"task\.judge='by_condition': only points with conditions='labels' have it"):
    samples(request(), conditions="none", judge="by_condition")
