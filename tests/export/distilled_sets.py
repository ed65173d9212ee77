"""A small distilled set for the tests of this folder."""

import numpy as np

from jdistill.export import DistilledSet

PROVENANCE = {
  "method": "datm",
  "dataset": "digits",
  "config": {"ipc": 2, "stages": ("experts", "distill"), "note": "a | b"},
  "accuracy": float("nan"),
}


def _preprocessing(kind, shape, rng):
  size = {"none": 0, "standardize": 1, "channel": shape[-1], "zca": int(np.prod(shape))}[kind]
  directions = 3 if kind == "zca" else 0
  inverse = rng.uniform(0.2, 0.4, directions + 1 if kind == "zca" else size)
  vectors = np.linalg.qr(rng.normal(size=(size, directions)))[0] if kind == "zca" else np.zeros((0, 0))
  return {
    "kind": np.array(kind),
    "mean": rng.random(size, np.float32),
    "scale": (1 / inverse).astype(np.float32),
    "inverse": inverse.astype(np.float32),
    "vectors": vectors.astype(np.float32),
  }


def small_set(soft=True, kind="standardize", shape=(4, 4, 1)):
  rng = np.random.default_rng(0)
  classes = np.repeat(np.arange(3, dtype=np.int32), 2)
  return DistilledSet(
    images=rng.normal(size=(6, *shape)).astype(np.float32),
    labels=(np.eye(3)[classes] * 5 + rng.normal(size=(6, 3))).astype(np.float32) if soft else classes,
    learned_lr=0.1,  # not a float32
    preprocessing=_preprocessing(kind, shape, rng),
    class_names=("zero", "eins ü", "two"),
    protocol={"epochs": 300, "augment": None},
    provenance=PROVENANCE,
  )
