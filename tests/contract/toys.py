"""Every system of the catalog at toy size, as its row's `toy` describes it, so that a new row needs no edit here.

`toy["kind"]` names one of `KINDS` (`"student"` if it is left out), `toy["objective"]` the metric that must fall; all
other keys go to the maker of the kind. Those of a student or of matching are the options of its builder, apart from
`"networks"`: `"mlps"` (if it is left out), `"convs"`, `"deep"` or `"means"`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import augment, bilevel, catalog, federated, language, losses, models, orders, schema
from jdistill.base import Batch, Method, Network, Outputs, PyTree, Variables
from jdistill.methods.dataset.by_class import class_batches
from jdistill.methods.knowledge import StudentInput, student_method
from jdistill.methods.language.grpo import rewarded
from jdistill.methods.optimizers import make_optimizer
from jdistill.synthetic import Materials, SyntheticSet, Verdict
from jdistill.teachers.frozen import ask, committee

NETWORKS = {
  "mlps": ({"name": "mlp", "widths": (8,)}, {"name": "mlp", "widths": (8, 6)}),
  "convs": ({"name": "convnet", "width": 4, "depth": 1, "norm": "none", "act": "leaky_relu", "pooling": "none"},) * 2,
  "deep": ({"name": "convnet", "width": 4, "depth": 2, "norm": "none", "act": "leaky_relu", "pooling": "none"},) * 2,
  "means": tuple({"name": "convnet_bn", "width": width, "depth": 1} for width in (8, 4)),  # heads on a global mean
}


class Toy(NamedTuple):
  """A method that runs in milliseconds.

  Attributes:
    method: built by the row's builder.
    stream: `step -> batch` on the host, a function of the step.
    objective: the metric that must fall, by at least a tenth, when `stream(0)` is given for 30 steps.
  """

  method: Method
  stream: Callable[[int], PyTree]
  objective: str


def make(name: str, **extra) -> Toy:
  """The toy of a method of the catalog; `extra` goes to `student_method`."""
  row = catalog.row(name)
  return KINDS[row.toy.get("kind", "student")](row, **extra)


def options(row: catalog.Row) -> dict:
  """The options that a row's toy gives to its builder."""
  return {key: value for key, value in row.toy.items() if key not in ("kind", "objective", "networks", "first")}


def own_values(row: catalog.Row) -> dict:
  """Where the row's defaults differ from its builder's, for the options that the builder itself has."""
  return {key: value for key, value in row.values.items() if key in schema.fields(row.build())}


def _images(count: int, num_classes: int = 3, shape: tuple[int, ...] = (2, 2, 1)):
  rng = np.random.default_rng(0)
  return jnp.float32(rng.normal(size=(count, *shape))), jnp.asarray(rng.integers(0, num_classes, count), jnp.int32)


def _teachers(x, y) -> tuple[Network, Callable, int]:
  """A flat network, segments of teachers of it that really trained on these examples, and how many epochs they had."""
  network = models.flatten(models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(6,)))
  gradient = jax.jit(jax.grad(lambda theta: jnp.mean(losses.cross_entropy(network.apply(theta, x).logits, y))))

  @functools.lru_cache
  def trajectory(teacher: int) -> list[np.ndarray]:
    points = [jnp.float32(np.random.default_rng(teacher).normal(size=network.size) * 0.5)]
    for _ in range(8):
      points.append(points[-1] - 0.2 * gradient(points[-1]))
    return jax.device_get(points[::4])  # an epoch has four steps

  def segment(teacher: int, epoch: int, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    return trajectory(teacher)[epoch], trajectory(teacher)[epoch + epochs]

  return network, segment, 2


def _trajectory(row: catalog.Row) -> Toy:
  """Eight images of 2x2 pixels and three classes; teachers that really trained, so that there is something to match."""
  x, y = _images(30)
  network, segment, epochs = _teachers(x, y)
  soft = row.fields()["labels"].default == "soft"
  labels = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32) if soft else np.arange(8, dtype=np.int32) % 3
  sizes = {"inner_steps": 4, "batch_size": 4, "image_lr": 0.5, "label_lr": 0.5, "lr_lr": 1e-3}
  initial = SyntheticSet(x[:8], labels, np.float32(0.2))
  unroll = functools.partial(bilevel.unroll, gradient=row.gradient)
  method = row.build()(network.apply, initial, unroll=unroll, **(own_values(row) | sizes | options(row)))
  found = Materials(x, y, 3, 0, network.size, network.shapes, segment, epochs, teachers=6)
  ranges = {"expert_epochs": 2, "max_start_epoch": 1}
  feed = row.build("stream")(**(row.options_of(row.values, "stream") | ranges))
  return Toy(method, feed.stream(found), row.toy["objective"])


def _by_class() -> tuple[SyntheticSet, np.ndarray, np.ndarray]:
  """A set of eight images for each of three classes, and 18 real images of 2x2 pixels whose classes differ."""
  y = np.arange(18, dtype=np.int32) % 3
  x = np.random.default_rng(0).normal(size=(18, 2, 2, 1)).astype(np.float32) + 2 * y[:, None, None, None].astype("f4")
  initial = SyntheticSet(
    np.zeros((24, 2, 2, 1), np.float32), np.repeat(np.arange(3, dtype=np.int32), 8), np.float32(0.1)
  )
  return initial, x, y


def _matching(row: catalog.Row) -> Toy:
  """Real images class by class in random networks."""
  initial, x, y = _by_class()
  network = models.build(num_classes=3, image_shape=(2, 2, 1), **NETWORKS[row.toy.get("networks", "mlps")][0])
  draw = class_batches(y, 4, 0, num_classes=3)

  def batch(step: int) -> Batch:
    positions, weight = draw(step)
    return Batch(x[positions], y[positions], positions, weight)

  view = augment.view(row.values.get("view", "none")).view
  return Toy(row.build()(network, initial, view=view, **options(row)), batch, row.toy["objective"])


def _extraction(row: catalog.Row) -> Toy:
  """Real images class by class in networks between the start and the end of teachers."""
  initial, x, y = _by_class()
  network, segment, epochs = _teachers(x, y)
  found = Materials(x, y, 3, 0, network.size, network.shapes, segment, epochs, teachers=6)
  method = row.build()(network.apply, initial, (np.float32([-2.0]), np.float32([6.0])), **options(row))
  return Toy(method, row.build("stream")(batch_real=4).stream(found), row.toy["objective"])


def _regression(row: catalog.Row) -> Toy:
  """Real images of any class, whose labels are predicted from the set's."""
  initial, x, y = _by_class()
  initial = initial._replace(images=np.random.default_rng(1).normal(size=initial.images.shape).astype(np.float32))
  found, teacher = Materials(x, y, 3, 0), models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(6,))
  if row.takes("teacher_apply"):  # targets are its features
    found = found._replace(teacher=teacher.init(jax.random.key(5)))
    embed = lambda x: np.asarray(teacher.apply(found.teacher.params, x).embedding)  # noqa: E731
    pixels = np.concatenate([x, -x])
    initial = row.build("start")().make(pixels, None, ipc=8, num_classes=3, seed=0, embed=embed)
  width = np.shape(initial.labels)[1] if np.ndim(initial.labels) == 2 else 3
  network = models.build("mlp", num_classes=width, image_shape=(2, 2, 1), widths=(8,))
  feed = row.build("stream")(batch_real=12).stream(found)
  smooth = models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(8,), act="softplus")
  given = {"network": network, "smooth_network": smooth, "initial": initial, "teacher_apply": teacher.apply}
  given = {name: value for name, value in given.items() if row.takes(name)}
  return Toy(row.build()(**given, **options(row)), feed, row.toy["objective"])


def _recovery(row: catalog.Row) -> Toy:
  """Images from a random network with batch norm, or from two."""
  initial, _, _ = _by_class()
  network = models.build("convnet_bn", num_classes=3, image_shape=(2, 2, 1), width=4, depth=1, embedding="mean")
  teachers = tuple(jax.device_get(network.init(jax.random.key(seed))) for seed in (5, 6))
  given = {"teacher_apply": network.apply, "teacher_applies": (network.apply,) * 2, "initial": initial}
  given |= {"pixel_range": (np.float32([-2.0]), np.float32([2.0]))}
  given = {name: value for name, value in given.items() if row.takes(name)}
  sizes = {"iterations": 40, "block_size": 3, "jitter": 1}
  sizes = {name: value for name, value in sizes.items() if name in schema.fields(row.build())}
  method = row.build()(**given, **(own_values(row) | sizes | options(row)))
  found = Materials(initial.images, initial.labels, 3, 0, teacher=teachers[0], committee=teachers)
  return Toy(method, row.build("stream")().stream(found), row.toy["objective"])


def _voting(row: catalog.Row) -> Toy:
  """Images from two random networks with batch norm, of which one is worth more."""
  initial, _, _ = _by_class()
  networks = [
    models.build("convnet_bn", num_classes=3, image_shape=(2, 2, 1), width=width, depth=1) for width in (4, 3)
  ]
  members = tuple(jax.device_get(network.init(jax.random.key(5))) for network in networks)
  ends = (np.float32([-2.0]), np.float32([2.0]))
  sizes = {"iterations": 40, "block_size": 3, "jitter": 1, "crop_scale": None, "flip_images": False}
  applies = tuple(network.apply for network in networks)
  method = row.build()(applies, initial, ends, **(own_values(row) | sizes | options(row)))
  return Toy(method, lambda step: (members, np.float32([60, 55])), row.toy["objective"])


def _crops(row: catalog.Row) -> Toy:
  """Crops of eight images of every class, of 4x4 pixels, that a random network judges; forty of each image."""
  x, y = jax.device_get(_images(24, shape=(4, 4, 1))[0]), np.arange(24, dtype=np.int32) % 3
  initial = SyntheticSet(x[:6], np.repeat(np.arange(3, dtype=np.int32), 2), np.float32(0.1))
  network = models.build("mlp", num_classes=3, image_shape=(4, 4, 1), widths=(8,))
  teacher = jax.device_get(network.init(jax.random.key(5)))
  sizes = {"mipc": 8, "num_crop": 40, "factor": 1}
  method = row.build()(network.apply, initial, **(sizes | options(row)))
  return Toy(method, row.build("stream")(**sizes).stream(Materials(x, y, 3, 0, teacher=teacher)), row.toy["objective"])


def _combined(row: catalog.Row) -> Toy:
  """Four tiles of the only image, of 4x4 pixels, of each of eight classes."""
  x, y = jax.device_get(_images(32, shape=(4, 4, 1))[0]), np.repeat(np.arange(8, dtype=np.int32), 4)
  initial = row.build("start")().make(x, y, ipc=1, num_classes=8)
  stream = row.build("stream")().stream(Materials(x, y, 8, 0))
  return Toy(row.build()(initial, **options(row)), stream, row.toy["objective"])


def _patches(row: catalog.Row) -> Toy:
  """Eight random patches of every class, of 4x4 pixels, that a random network looks at before and after."""
  x = jax.device_get(_images(24, shape=(4, 4, 1))[0])
  initial = SyntheticSet(x, np.repeat(np.arange(3, dtype=np.int32), 8), np.float32(0.1))
  network = models.build("mlp", num_classes=3, image_shape=(4, 4, 1), widths=(8,))
  encoder = jax.device_get(network.init(jax.random.key(5)))
  method = row.build()(network.apply, initial, (np.float32([-3.0]), np.float32([3.0])), **options(row))
  return Toy(method, lambda step: encoder, row.toy["objective"])


def _updates(data: Batch, **given) -> Callable[[int], StudentInput]:
  """Two updates per epoch, on six examples each."""

  def update(step: int) -> StudentInput:
    rows = jnp.arange(6, dtype=jnp.int32) + 6 * (step % 2)
    batch = jax.tree.map(lambda leaf: leaf[rows], data)
    return StudentInput(batch, jnp.int32(step), jnp.float32(step / 2), rows, **given)

  return update


def _taught(row: catalog.Row, network: Network, teacher: Network, data: Batch, lr: float, **extra) -> Toy:
  """A student that a fixed random network teaches."""
  recipe = row.build()(**options(row))
  frozen = committee([teacher], [teacher.init(jax.random.key(5))])
  method = student_method(
    network,
    recipe,
    optimizer=make_optimizer("sgd", lr),
    targets=frozen.targets,
    num_examples=12,
    teachers=frozen.networks,
    **extra,
  )
  constants = ()
  if recipe.prepare is not None:
    constants = recipe.prepare(ask(frozen, data.x, data.ids), data.y, frozen.arrays)
  held_out = data if recipe.outer is not None or "held_out" in recipe.needs else None
  given = {"targets": frozen.arrays, "constants": constants, "held_out": held_out}
  return Toy(method, _updates(data, **given), row.toy["objective"])


def _student(row: catalog.Row, **extra) -> Toy:
  """Twelve images of 2x2 pixels and three classes."""
  kinds = NETWORKS[row.toy.get("networks", "mlps")]
  network, teacher = (models.build(num_classes=3, image_shape=(2, 2, 1), **one) for one in kinds)
  data = Batch(*_images(12), jnp.arange(12, dtype=jnp.int32))
  return _taught(row, network, teacher, data, 0.2, **extra)


def _masked(row: catalog.Row, **extra) -> Toy:
  """Twelve images of one colour each, so that a patch tells of the others, and a network that decodes."""
  sizes = {"dim": 4, "depth": 1, "heads": 1, "decoder_dim": 4, "decoder_depth": 1, "decoder_heads": 1}
  network = models.build("mae", num_classes=3, image_shape=(2, 2, 1), patch=1, **sizes)
  x, y = _images(12)
  data = Batch(jnp.broadcast_to(x[:, :1, :1], x.shape), y, jnp.arange(12, dtype=jnp.int32))
  return _taught(row, network, network, data, 0.05, **extra)


def _maps(row: catalog.Row, **extra) -> Toy:
  """Twelve images of 3x3 pixels with three classes per pixel and an empty label channel; networks see single pixels."""

  def init(key):
    return Variables({"w": jax.random.normal(key, (3, 3)), "b": jnp.zeros(3)})

  def apply(params, x, **_):
    return Outputs(x @ params["w"] + jnp.broadcast_to(params["b"], (*x.shape[:-1], 3)), x.mean((1, 2)))

  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(12, 3, 3, 3)), jnp.asarray(rng.integers(-1, 3, (12, 3, 3)), jnp.int32)
  x[..., -1] = 0
  data = Batch(jnp.float32(x), y, jnp.arange(12, dtype=jnp.int32), extra={"present": jnp.ones((12, 3), bool)})
  network = Network(init, apply)
  return _taught(row, network, network, data, 0.2, **extra)


def _tokens(row: catalog.Row, **extra) -> Toy:
  """Twelve sequences that count up to five, one position of each private."""
  network, teacher = (models.build("gru", num_classes=5, image_shape=(4,), width=width) for width in (6, 8))
  x = (np.arange(12)[:, None] + np.arange(4)) % 5
  marks = {"private": jnp.float32(np.eye(4)[np.arange(12) % 4]), "mask": jnp.ones((12, 4), bool).at[3, 2:].set(False)}
  data = Batch(jnp.int32(x), jnp.int32((x + 1) % 5), jnp.arange(12, dtype=jnp.int32), extra=marks)
  return _taught(row, network, teacher, data, 0.5, **extra)


def _rows(row: catalog.Row, **extra) -> Toy:
  """Twelve rows of two documents that count up to five, with padding; a prompt of one token is not learned."""
  sizes = {"depth": 1, "heads": 1, "context": 8}
  network, teacher = (models.build("decoder", num_classes=5, image_shape=(6,), width=w, **sizes) for w in (8, 12))
  documents = [(np.arange(length) + i) % 5 for i in range(12) for length in (2 + i % 2, 3)]
  prompts = [np.arange(len(one)) > 0 for one in documents]
  packed = [language.pack(documents[i : i + 2], 6, counted=prompts[i : i + 2]) for i in range(0, 24, 2)]
  rows = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *(one.rows for one in packed))
  targets, mask = language.next_tokens(rows, np.concatenate([one.counted for one in packed]))
  data = Batch(rows, targets, jnp.arange(12, dtype=jnp.int32), extra={"mask": mask})
  return _taught(row, network, teacher, data, 0.5, **extra)


def _asking(row: catalog.Row, network: Network, frozen, data: Batch, lr: float, **extra) -> Toy:
  """A recipe that asks its teacher itself."""
  method = student_method(
    network, row.build()(**(own_values(row) | options(row))), optimizer=make_optimizer("adam", lr),
    targets=frozen.targets, teachers=frozen.networks, epochs=30.0, **extra,
  )  # fmt: skip

  def update(step: int) -> StudentInput:
    number = jnp.int32(row.toy.get("first", 0) + step)  # where a method only looks at first, it is shown as it learns
    return StudentInput(data, number, jnp.float32(step), data.ids, frozen.arrays)

  return Toy(method, update, row.toy["objective"])


def _score(row: catalog.Row, **extra) -> Toy:
  """Rows of four tokens of three, which rise, and a teacher whose scores depend on time and neighbours at random."""
  network = models.build("score_transformer", num_classes=3, image_shape=(4,), dim=8, depth=1, heads=2, features=8)
  params = dict(network.init(jax.random.key(5)).params)
  keys = iter(jax.random.split(jax.random.key(6), len(params)))
  for name in [name for name in params if name.endswith("_zero")]:
    kernel = params[name]["kernel"]
    params[name] = params[name] | {"kernel": kernel + jax.random.normal(next(keys), kernel.shape)}
  frozen = committee([network], [Variables(params)])
  x = np.int32((np.arange(48)[:, None] + np.arange(4)[None]) % 3)
  data = Batch(jnp.asarray(x), jnp.zeros(48, jnp.int32), jnp.arange(48, dtype=jnp.int32))
  return _asking(row, network, frozen, data, 0.02, **extra)


def _denoiser(row: catalog.Row, **extra) -> Toy:
  """Forty-eight points near one of two places each, and the best denoiser of a Gaussian, which a new network is.

  BOOT's teacher predicts `x_0` itself, where a new network gives zeros: it is drawn at random in its last layer, too,
  and so is the one whose predictions are the target.
  """
  kinds = {"boot": "x0", "consistency": "consistency"}
  sizes = {"num_classes": 2, "image_shape": (1, 1, 2), "widths": (16,), "features": 8, "t_min": 0.05, "t_max": 5.0}
  network = models.build("denoising_mlp", prediction=kinds.get(row.name, "edm"), **sizes)
  teacher = network if row.name != "consistency" else models.build("denoising_mlp", **sizes)
  params = dict(teacher.init(jax.random.key(5)).params)
  if row.name in ("boot", "tsm"):
    last = params["head_zero"]["kernel"]
    params["head_zero"] = params["head_zero"] | {"kernel": 0.3 * jax.random.normal(jax.random.key(6), last.shape)}
  frozen = committee([teacher], [Variables(params)])
  y = np.arange(48, dtype=np.int32) % 2
  x = np.float32(
    np.random.default_rng(0).normal(size=(48, 1, 1, 2)) * 0.05 + np.where(y, 0.5, -0.5)[:, None, None, None]
  )
  data = Batch(jnp.asarray(x), jnp.asarray(y), jnp.arange(48, dtype=jnp.int32))
  return _asking(row, network, frozen, data, 0.01, **extra)


def _checked(row: catalog.Row) -> Toy:
  """Twelve prompts of one token; a response is right whose tokens are all 3, up to the end, 4."""
  network = models.build("decoder", num_classes=5, image_shape=(6,), width=8, depth=1, heads=1, context=8)
  documents, counted = language.join([[i % 3] for i in range(12)], [[3]] * 12, end_token=4)
  packed = language.pad(documents, counted=counted)
  targets, mask = language.next_tokens(packed.rows, packed.counted)
  data = Batch(jax.tree.map(jnp.asarray, packed.rows), targets, jnp.arange(12, dtype=jnp.int32), extra={"mask": mask})

  def check(tokens, where, response):
    right = jnp.all(~(response & where) | (tokens >= 3), axis=1)
    return Verdict(right, right)

  recipe = rewarded(check, **options(row))  # a checker that five tokens can please
  assert set(recipe.terms) == set(row.build()(**options(row)).terms)
  method = student_method(network, recipe, optimizer=make_optimizer("sgd", 1.0), num_examples=12)
  return Toy(method, _updates(data), row.toy["objective"])


def _federated(row: catalog.Row) -> Toy:
  """Two clients with nine images of 2x2 pixels each; one sees them at half the contrast."""
  _, x, y = _by_class()
  network = models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(8,))
  data = federated.stacked_batches([(x[:9], y[:9]), (0.5 * x[9:], y[9:])])
  given = {"network": network, "num_classes": 3, "image_shape": (2, 2, 1)}
  given = {name: value for name, value in given.items() if row.takes(name)}
  federation = row.build()(**given, **(own_values(row) | options(row)))
  return Toy(federated.joint_method(federation, 2), lambda step: data, row.toy["objective"])


def _orders(row: catalog.Row) -> Toy:
  """A reference training of forty updates on twelve images of 2x2 pixels, with all that the estimator keeps of it."""
  x, y = _images(12)
  flat = models.flatten(models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(6,)))
  optimizer, own = make_optimizer("sgd", 0.2), row.build()(**(own_values(row) | options(row)))
  assert own.nbytes(40, flat.size, ()) > 4 * 40 * flat.size

  def init(key):
    theta = flat.ravel(models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(6,)).init(key).params)
    return theta, optimizer.init(theta)

  def loss(theta, batch):
    return jnp.mean(losses.cross_entropy(flat.apply(theta, batch[0]).logits, batch[1]))

  def update(gradient, state, theta, position):
    return optimizer.update(gradient, state, theta, epoch=position)

  def stream(step):
    return x[6 * (step % 2) :][:6], y[6 * (step % 2) :][:6]

  return Toy(orders.recording(init, loss, update, 40), stream, row.toy["objective"])


# Data policies have contract tests of their own, in `test_policies.py`.
KINDS = {
  "student": _student,
  "masked": _masked,
  "maps": _maps,
  "tokens": _tokens,
  "rows": _rows,
  "denoiser": _denoiser,
  "score": _score,
  "checked": _checked,
  "trajectory": _trajectory,
  "matching": _matching,
  "extraction": _extraction,
  "recovery": _recovery,
  "committee": _voting,
  "crops": _crops,
  "combined": _combined,
  "patches": _patches,
  "regression": _regression,
  "federated": _federated,
  "orders": _orders,
}
