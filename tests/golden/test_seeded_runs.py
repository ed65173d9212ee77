"""A seed gives the numbers that it gave when `seeded_runs.json` was written."""

import json

import make_seeded_runs
import numpy as np


def flat(tree, path=""):
  """Arrays by path."""
  if isinstance(tree, dict):
    return {name: leaf for key, value in tree.items() for name, leaf in flat(value, f"{path}/{key}").items()}
  return {path: np.asarray(tree)}


def test_seeds_mean_what_they_meant():
  want, got = flat(json.loads(make_seeded_runs.FILE.read_text())), flat(make_seeded_runs.compute())
  assert want.keys() == got.keys()
  for name, value in want.items():
    exact = value.dtype.kind == "i"
    # rounding differs between processors and XLA versions, another draw differs by far more
    np.testing.assert_allclose(got[name], value, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-4, err_msg=name)
