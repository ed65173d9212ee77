"""What a seed means: the numbers of small seeded runs, kept so that a seed gives the same in later versions.

  python tests/golden/make_seeded_runs.py       writes seeded_runs.json anew, after a change that is meant

The inputs are NumPy's (`default_rng`, stable since 1.17). Everything that draws takes part: the order of batches in
expert training, in the inner loop and in evaluation, the augmentation, the initialisation, the choice of experts and
start epochs.
"""

import json
from pathlib import Path

import jax
import numpy as np

from jdistill import evaluation, models, teachers
from jdistill.augment import dsa
from jdistill.base import Batch, Network, Variables
from jdistill.data.policies import shuffle
from jdistill.methods.dataset import Segment, trajectory_method
from jdistill.methods.knowledge import StudentInput, logits, student_method
from jdistill.methods.optimizers import make_optimizer
from jdistill.synthetic import SyntheticSet, random_real
from jdistill.training import Hooks, run_loop
from jdistill.training.policy_stream import policy_stream

FILE = Path(__file__).with_name("seeded_runs.json")


def compute() -> dict:
  """The numbers as nested lists."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(12, 4, 4, 1)).astype(np.float32)
  y = np.arange(12, dtype=np.int32) % 3
  augment = dsa("crop_flip")
  network = models.build("mlp", num_classes=3, image_shape=(4, 4, 1), widths=(5,))
  flat = models.flatten(network)

  expert = _expert(flat, network, x, y, augment)

  picked = random_real(np.random.default_rng(2), y, 1, 3)
  initial = SyntheticSet(x[picked], np.eye(3, dtype=np.float32)[y[picked]], np.float32(0.1))
  method = trajectory_method(flat.apply, initial, inner_steps=3, batch_size=2, threshold=None, augment=augment)
  segments = [Segment(expert[t], expert[t + 2]) for t in (teachers.start_epoch(3, s, 0, 2) for s in range(3))]
  distilled = method.result(run_loop(method, segments.__getitem__, key=jax.random.key(4), steps=3).state)

  protocol = evaluation.Protocol(epochs=3, batch_size=2, augment=augment)
  examples = evaluation.examples_of(distilled.images, distilled.labels)
  trained = evaluation.train_seeds(network, protocol, examples, 0.1, key=jax.random.key(5), seeds=1)
  trained = jax.tree.map(lambda leaf: leaf[0], trained)
  numbers = {
    "expert": expert[:, ::11],
    "picked": picked,
    "experts_and_starts": [[teachers.expert_order(6, s, 4), teachers.start_epoch(6, s, 2, 9)] for s in range(8)],
    "images": np.asarray(distilled.images).reshape(3, 16)[:, ::3],
    "labels": distilled.labels,
    "lr": distilled.lr,
    "logits": evaluation.predict(network, trained, x[:2]),
  }
  return {name: np.asarray(value).tolist() for name, value in numbers.items()}


def _expert(flat, network, x, y, augment) -> np.ndarray:
  """Three epochs as stage `teachers` records them, `[4, P]`."""
  method = student_method(
    Network(lambda key: Variables(flat.ravel(network.init(key).params)), flat.apply),
    logits.ce(),
    optimizer=make_optimizer("sgd", 0.1, momentum=0.0),
    augment=augment,
  )

  def join(data, row):
    batch = jax.tree.map(lambda leaf: leaf[row.index], data)._replace(weight=row.weight)
    return StudentInput(batch, row.step, row.epoch)

  policy, kept = shuffle(len(y), 5, drop_last=False), []
  stream = policy_stream(
    policy,
    jax.random.key(0),
    shared=Batch(x, y, np.arange(len(y), dtype=np.int32)),
    members=np.arange(len(y))[None],
    join=join,
    epochs=3,
    seeds=[0],
    batch_size=5,
  )
  keep = lambda step, trained: kept.append(np.array(trained.variables["student"].params[0]))  # noqa: E731
  run_loop(
    method,
    stream,
    key=jax.random.key(1),
    steps=None,
    seeds=[0],
    snapshot_every=policy.steps,
    hooks=Hooks(on_snapshot=keep),
  )
  return np.stack(kept)


if __name__ == "__main__":
  rounded = {name: np.round(value, 6).tolist() for name, value in compute().items()}
  FILE.write_text("{\n" + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in rounded.items()) + "\n}\n")
