"""A seed gives the numbers that it gave when `seeded_runs.json` was written."""

import json

import make_seeded_runs
import numpy as np


def test_seeds_mean_what_they_meant():
  want, got = json.loads(make_seeded_runs.FILE.read_text()), make_seeded_runs.compute()
  assert want.keys() == got.keys()
  for name, value in want.items():
    exact = np.asarray(value).dtype.kind == "i"
    # rounding differs between processors and XLA versions, another draw differs by far more
    np.testing.assert_allclose(got[name], value, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-4, err_msg=name)
