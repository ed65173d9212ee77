"""HeLlO's losses against NumPy, its patches against brute force, and its update of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import augment, losses, models
from jdistill.base import Batch, Outputs, TargetSource, UserError, Variables
from jdistill.methods.dataset.hello import (
  encoder_stream,
  hello,
  image_roundtrip_loss,
  patches,
  projector_loss,
  shrunk,
)
from jdistill.methods.knowledge import Recipe, StudentInput, Term, student_method
from jdistill.methods.knowledge.logits import stored_labels
from jdistill.methods.optimizers import make_optimizer
from jdistill.ops import lora as lora_lib
from jdistill.ops.lora import LowRank
from jdistill.synthetic import Budget, Materials, SyntheticSet
from jdistill.synthetic.patches import pad_tiles, patch_crop, tile_grid
from jdistill.teachers.labelled import labelled

RNG = np.random.default_rng(0)
SIDES, CLASSES = (4, 4), 2
RANGE = (np.float32([-6]), np.float32([6]))
WEIGHTS = Variables(jnp.float32(RNG.normal(size=(16, 3))))


def apply(params, x, *, train=False, stats=None, **_):
  """A linear embedding with its squares, so that embeddings are not linear in the pixels."""
  assert not train
  flat = x.reshape(x.shape[0], -1) @ params
  return Outputs(flat, flat + flat**2, {}, {}, stats)


def embed(x):
  return apply(WEIGHTS.params, x).embedding


# -- the projector ----------------------------------------------------------------------------------------------------

DENSE = {"dense": {"kernel": jnp.float32(RNG.normal(size=(4, 3))), "bias": jnp.float32([0.5, 0, -1])}}
LORA = {"dense/kernel": LowRank(jnp.float32(RNG.normal(size=(4, 2))), jnp.float32(RNG.normal(size=(2, 3))))}
ROWS, Y = jnp.float32(RNG.normal(size=(5, 4))), jnp.int32([0, 2, 1, 1, 0])
WEAK = jnp.float32(RNG.normal(size=(2, 5, 3)))


def dense(params, x, *, stats=None, **_):
  return Outputs(x @ params["dense"]["kernel"] + params["dense"]["bias"].reshape(1, -1), x)


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit], ids=["eager", "jitted"])
def test_the_loss_of_the_projector(wrap):
  got = wrap(lambda lora, weak: projector_loss(dense, lora, Variables(DENSE), ROWS, Y, weak, lam=0.3, alpha=0.5))(
    LORA, WEAK
  )
  a, b = (np.float64(part) for part in LORA["dense/kernel"])
  logits = np.float64(ROWS) @ (np.float64(DENSE["dense"]["kernel"]) + 0.5 * a @ b) + np.float64(DENSE["dense"]["bias"])
  cross = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), Y]
  want = np.mean((logits - np.float64(WEAK).mean(0)) ** 2, axis=1) + 0.3 * cross
  np.testing.assert_allclose(got, want, rtol=1e-5)
  gradient = jax.grad(lambda weak: projector_loss(dense, LORA, Variables(DENSE), ROWS, Y, weak).sum())(WEAK)
  assert not np.any(gradient)


def test_the_one_training_loop_minimises_it():
  """A step of the projector's recipe goes along the gradient of the mean of `projector_loss`; factors alone move."""
  base = models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(4,))
  network = lora_lib.with_lora(base, lambda params: dict.fromkeys(lora_lib.kernels(params), 2))
  start = network.init(jax.random.key(0))
  x = jnp.float32(RNG.normal(size=(5, 2, 2, 1)))
  outs = tuple(Outputs(weak, jnp.zeros((5, 0))) for weak in WEAK)
  mean = Outputs(sum(out.logits for out in outs) / 2, jnp.zeros((5, 0)))
  source = labelled(TargetSource(lambda *_: (mean,), (), 0, "fixed", same_pixels=True), 0)
  recipe = stored_labels(1.0, loss="mse", ce_weight=0.3)
  method = student_method(network, recipe, optimizer=make_optimizer("sgd", 0.1, momentum=0.0), targets=source.targets)
  inputs = StudentInput(Batch(x, Y, jnp.arange(5)), jnp.int32(0), jnp.float32(0), start=start)
  state = method.init(jax.random.key(1), inputs)
  after, metrics = jax.jit(method.step)(jax.random.key(2), state, inputs)

  def loss(own):
    whole = Variables(start.stats["params"])
    return jnp.mean(projector_loss(base.apply, own, whole, x, Y, WEAK, lam=0.3))

  value, gradient = jax.value_and_grad(loss)(start.params)
  np.testing.assert_allclose(metrics["loss/mse"] + 0.3 * metrics["loss/ce"], value, rtol=1e-5)
  want = jax.tree.map(lambda p, g: p - 0.1 * g, start.params, gradient)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.roles["student"].params, want)
  jax.tree.map(np.testing.assert_array_equal, after.stats["student"], start.stats)


# -- students ---------------------------------------------------------------------------------------------------------

STUDENT = models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(4,))
IMAGES = jnp.float32(RNG.normal(size=(5, 2, 2, 1)))


def one_step(recipe, source, **options):
  method = student_method(STUDENT, recipe, optimizer=make_optimizer("sgd", 0.1), targets=source.targets, **options)
  inputs = StudentInput(Batch(IMAGES, Y, jnp.arange(5)), jnp.int32(0), jnp.float32(0), targets=source.arrays)
  state = method.init(jax.random.key(1), inputs)
  return method.step(jax.random.key(2), state, inputs)[1], state


def test_what_students_lose_on_mixed_images():
  """The projector sees the pixels that the student sees, and classes are mixed as these are."""
  seen = []

  def targets(arrays, key, batch, record, step):
    seen.append(batch.x)
    return (Outputs(2 * batch.x.reshape(5, -1)[:, :3], jnp.zeros((5, 0))),)

  source = labelled(TargetSource(targets, (), 10, "toy", same_pixels=True), 20)
  assert source.nbytes == 30
  mixup, recipe = augment.mixup(), stored_labels(1.0, loss="mse", ce_weight=0.5)
  metrics, state = one_step(recipe, source, augment=mixup, same_pixels=True)
  key_augment, *_ = jax.random.split(jax.random.split(jax.random.key(2))[0], 5)
  record = mixup.sample(key_augment, IMAGES.shape)
  x, share = mixup.apply(record, IMAGES), float(record.share)
  logits = np.asarray(STUDENT.apply(state.roles["student"].params, x).logits)
  own, pasted = (np.asarray(losses.cross_entropy(logits, y)) for y in (Y, Y[record.partner]))
  np.testing.assert_allclose(metrics["loss/ce"], np.mean(share * own + (1 - share) * pasted), rtol=1e-5)
  np.testing.assert_allclose(seen[-1], x, rtol=1e-6)
  want = np.mean((logits - 2 * np.asarray(x).reshape(5, -1)[:, :3]) ** 2)
  np.testing.assert_allclose(metrics["loss/mse"], want, rtol=1e-5)
  assert recipe is stored_labels(1.0, loss="mse", ce_weight=0.5) and set(stored_labels(4.0).terms) == {"kd"}


def test_other_pixels_for_the_projector_are_refused():
  source = TargetSource(lambda *_: (Outputs(jnp.zeros((5, 3)), jnp.zeros((5, 0))),), (), 0, "toy", same_pixels=True)
  noisy = Recipe(
    {"mse": Term(lambda step: losses.hint_loss(step.student.logits, step.teacher.logits))},
    augmented_inputs=lambda key, batch: (batch.x + jax.random.normal(key, batch.x.shape), batch.x),
  )
  with pytest.raises(UserError, match="the student sees other pixels than those that its targets are of"):
    one_step(noisy, source, same_pixels=source.same_pixels)
  one_step(noisy, source)  # a teacher that is asked about what it likes


# -- images -----------------------------------------------------------------------------------------------------------


def halved(p):
  """`down` of images of 4 x 4 pixels to 2 x 2: the hats of the coarse grid, cut off at the border."""
  weights = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
  return np.einsum("ai,bj,nijc->nabc", weights, weights, np.float64(p))


def doubled(p):
  weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
  return np.einsum("ai,bj,nijc->nabc", weights, weights, p)


def test_the_loss_of_a_round_trip():
  p = RNG.normal(size=(3, *SIDES, 1)).astype(np.float32)
  np.testing.assert_allclose(shrunk(jnp.asarray(p), 2), halved(p), rtol=1e-5, atol=1e-6)
  want = np.mean((np.float64(embed(p)) - np.float64(embed(np.float32(doubled(halved(p)))))) ** 2, axis=1)
  for wrap in (lambda function: function, jax.jit):
    got = wrap(lambda p: image_roundtrip_loss(embed, p, factor=2))(jnp.asarray(p))
    np.testing.assert_allclose(got, want, rtol=1e-4)
  flat = jnp.full((1, *SIDES, 1), 0.7)
  np.testing.assert_allclose(image_roundtrip_loss(embed, flat), 0, atol=1e-9)  # nothing is lost


def test_the_gradient_of_a_round_trip(x64):
  weights = np.random.default_rng(1).normal(size=(16, 3))
  embed = lambda x: jnp.tanh(x.reshape(len(x), -1) @ weights)  # noqa: E731
  p = jnp.asarray(RNG.normal(size=(1, *SIDES, 1)))
  for origin in (None, jnp.asarray(RNG.normal(size=(1, *SIDES, 1)))):
    got = np.asarray(jax.grad(lambda p, origin=origin: image_roundtrip_loss(embed, p, origin=origin).sum())(p))

    def value(q, origin=origin):
      first = np.asarray(embed(q if origin is None else origin))
      again = np.asarray(embed(doubled(halved(q)).astype(np.float64)))
      return np.mean((first - again) ** 2)

    for place in np.ndindex(*SIDES):
      move = np.zeros((1, *SIDES, 1))
      move[(0, *place, 0)] = 1e-6
      want = (value(np.asarray(p) + move) - value(np.asarray(p) - move)) / 2e-6
      np.testing.assert_allclose(got[(0, *place, 0)], want, rtol=1e-5, atol=1e-8)


def built(ipc=2, factor=2, **options):
  count = CLASSES * ipc * factor**2
  labels = np.repeat(np.arange(CLASSES, dtype=np.int32), ipc * factor**2)
  initial = SyntheticSet(RNG.normal(size=(count, *SIDES, 1)).astype(np.float32), labels, np.float32(0.1))
  return initial, hello(apply, initial, RANGE, factor=factor, **options)


def ran(method, batch, steps=None):
  state, step = method.init(jax.random.key(0), batch), jax.jit(method.step)
  rows = []
  for number in range(steps or method.steps):
    state, metrics = step(jax.random.key(number), state, batch)
    rows.append(metrics)
  return method.result(state), rows


def test_patches_that_are_left_alone_become_tiles():
  initial, method = built(image_steps=0)
  assert method.steps == 1
  found, _ = ran(method, ())
  want = []
  for c in range(CLASSES):
    tiles = np.asarray(shrunk(jnp.asarray(initial.images[initial.labels == c]), 2))
    want += [tile_grid(jnp.asarray(tiles), 2)]
  np.testing.assert_allclose(found.images, np.concatenate(want), rtol=1e-6)
  np.testing.assert_array_equal(found.labels, np.repeat(np.arange(CLASSES), 2))
  assert found.images.shape == (4, *SIDES, 1)


@pytest.mark.parametrize("target", ["patch", "origin"])
def test_patches_learn_to_be_made_smaller(target):
  _, method = built(image_steps=30, image_lr=0.05, block_size=8, target=target)
  assert method.steps == 2 * 30
  _, rows = ran(method, WEIGHTS)
  values = np.array([float(row["images/roundtrip"]) for row in rows])
  for block in (values[:30], values[30:]):
    assert block[-1] < 0.6 * block[0]


def test_options_that_do_not_go_together():
  with pytest.raises(UserError, match=r"method\.image_steps=3: with factor=1 patches are not made smaller"):
    built(factor=1, image_steps=3)
  with pytest.raises(UserError, match="images of 4 x 4 pixels cannot be made of 3 x 3 equal tiles"):
    built(factor=3)
  labels = np.zeros(6, np.int32)
  with pytest.raises(ValueError, match="6 patches of a class make no whole images of 4 tiles"):
    hello(apply, SyntheticSet(np.zeros((6, *SIDES, 1)), labels, np.float32(0.1)), RANGE)
  with pytest.raises(ValueError, match="has soft labels"):
    hello(apply, SyntheticSet(np.zeros((6, *SIDES, 1)), np.zeros((6, 2)), np.float32(0.1)), RANGE)


def test_the_stream_asks_for_the_encoder_only_where_images_move():
  found = Materials(np.zeros(1), np.zeros(1), 2, 0, encoder=lambda: pytest.fail("the projector was made"))
  assert encoder_stream(image_steps=0).stream(found)(0) == ()
  found = found._replace(encoder=lambda: WEIGHTS)
  feed = encoder_stream(image_steps=1)
  assert feed.stream(found)(5) is WEIGHTS and feed.example(found) is WEIGHTS


def test_the_patches_are_the_windows_that_teachers_are_surest_of():
  x, y = RNG.normal(size=(16, *SIDES, 1)).astype(np.float32), (np.arange(16) % CLASSES).astype(np.int32)
  options = {"mipc": 6, "num_crop": 3, "factor": 2, "patch_scale": 0.3}
  own, sums = patches(**options), RNG.normal(size=(2, 16, CLASSES))
  assert own.budget(2, CLASSES, 1) == Budget(8, 2)
  with pytest.raises(UserError, match="need 8 candidates"):
    own.candidates(y, 2, CLASSES)

  def logits(images):
    return np.stack([np.float64(images).reshape(len(images), -1) @ one for one in sums]).astype(np.float32)

  made = own.make(x, y, ipc=4, num_classes=CLASSES, seed=3, teacher_logits=logits)
  small, large = patch_crop(SIDES, 2, 0.3), patch_crop(SIDES, 1, 0.3)
  rng, want = np.random.default_rng((3, 2)), []
  for c in range(CLASSES):
    picked = np.repeat(x[rng.permutation(np.flatnonzero(y == c))[:6]], 3, 0)
    record = small.sample(jax.random.fold_in(jax.random.key(3), c), picked.shape)
    tiles = pad_tiles(small.apply(record, jnp.asarray(picked)), SIDES)
    found = np.float64(logits(np.asarray(tiles)))
    cross = np.mean(np.log(np.exp(found).sum(-1)) - found[..., c], axis=0)
    best = [3 * i + int(np.argmin(cross[3 * i : 3 * i + 3])) for i in range(6)]
    best = sorted(best, key=lambda row: cross[row])[:4]
    want.append(np.asarray(large.apply(record, jnp.asarray(picked)))[best])
  np.testing.assert_allclose(made.images, np.concatenate(want), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(made.labels, np.repeat(np.arange(CLASSES), 4))
