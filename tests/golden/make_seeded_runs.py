"""What a seed means: the numbers of a small seeded run, kept so that a seed gives the same in later versions.

  python tests/golden/make_seeded_runs.py       writes seeded_runs.json anew, after a change that is meant

The inputs are NumPy's (`default_rng`, stable since 1.17). Everything that draws takes part: initialisations, the order
of batches and the augmentation of teachers, inner loops and evaluation networks, the choice of teachers, of start
epochs and of real images, and the data policies.
"""

import io
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import catalog, run, stages
from jdistill.files import read_npz, read_record
from jdistill.jobs import trajectories
from jdistill.methods.dataset.segments import expert_order, start_epoch

FILE = Path(__file__).with_name("seeded_runs.json")
STAGES = ("teachers", "distill", "evaluate")


def experiment(directory: Path):
  """DATM on twelve images of 4x4 pixels with three classes, three teachers, three steps and two evaluation networks."""
  rng, y = np.random.default_rng(0), np.arange(12) % 3
  arrays = {"test_images": rng.random((6, 4, 4, 1), np.float32), "test_labels": np.arange(6) % 3}
  np.savez(directory / "set.npz", train_images=rng.random((12, 4, 4, 1), np.float32), train_labels=y, **arrays)
  config = stages.template("datm")
  config.update({"name": "golden", "dataset": str(directory / "set.npz"), "preprocessing": "standardize", "ipc": 1})
  config.update({"steps": 3, "stages": STAGES})
  config.model.name = "mlp"
  config.model.widths = (5,)
  config.teachers.count = 3
  config.teacher_train.update({"epochs": 3, "batch_size": 5, "lr": 0.1, "optimizer": "sgd", "augment": "crop_flip"})
  config.method.update({"inner_steps": 3, "batch_size": 2, "threshold": None, "max_start_epoch": 2, "initial": "real"})
  config.method.update({"augment": "crop_flip", "image_lr": 1.0, "label_lr": 1.0, "lr_init": 0.1})
  config.eval.update({"epochs": 3, "batch_size": 2, "seeds": 2, "augment": "crop_flip", "models": ("mlp",)})
  config.eval.update({"sets": ("distilled", "random_hard"), "control_lrs": (0.1,), "full_epochs": 1, "full_lr": 0.1})
  return config


def policies() -> dict:
  """What the second epoch of a few policies sees."""
  found = {}
  for name in ("shuffle", "static_subset", "rs2"):
    policy = catalog.policy(name)(20, 4)
    state, key = policy.init(jax.random.key(6)), jax.random.key(7)
    for epoch in range(2):
      block, state = policy.next(jax.random.fold_in(key, epoch), state, jnp.int32(epoch), None)
    found[name] = block.index
  return found


def compute() -> dict:
  """The numbers as nested lists."""
  with tempfile.TemporaryDirectory() as directory:
    root = Path(directory)
    one = run.make_run(experiment(root), root / "work", root / "artefacts", io.StringIO())
    stages.run_stages(one)
    buffer = trajectories.open_buffer(one)
    initial, distilled = (read_npz(root / "work" / "stages" / f"{name}.npz") for name in ("initial", "distilled"))
    cells = read_record(root / "work" / "stages" / "evaluations.json")
    numbers = {
      "teachers": [[buffer.snapshot(index, epoch)[::11] for epoch in range(4)] for index in range(3)],
      "teachers_and_starts": [[expert_order(6, s, 4), start_epoch(6, s, 2, 9)] for s in range(8)],
      "initial": initial["images"].reshape(3, 16)[:, ::3],
      "images": distilled["images"].reshape(3, 16)[:, ::3],
      "labels": distilled["labels"],
      "lr": distilled["lr"],
      "accuracies": {name: cell["scores"]["accuracy"] for name, cell in cells.items()},
      "policies": policies(),
    }
  return jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), numbers)


if __name__ == "__main__":
  rounded = jax.tree.map(lambda value: np.round(value, 6).tolist(), compute())
  FILE.write_text("{\n" + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in rounded.items()) + "\n}\n")
