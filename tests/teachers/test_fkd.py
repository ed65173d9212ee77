"""Stored soft labels: replay gives the very pixels that the teacher saw, and its logits on them, of these data only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdistill import augment, losses, models
from jdistill.base import Batch, Block, DataPolicy, Outputs, TargetSource, UserError
from jdistill.files import read_npz, write_npz
from jdistill.methods.knowledge import StudentInput, logits, student_method
from jdistill.teachers import fkd

RNG = np.random.default_rng(0)
N, B, SHAPE, EPOCHS, STEPS = 10, 4, (5, 4, 1), 3, 3
EXAMPLES = Batch(
  np.float32(np.float16(RNG.normal(size=(N, *SHAPE)))), np.int32(np.arange(N) % 3), np.int32(RNG.permutation(500)[:N])
)
MOVES = augment.compose(augment.flip_crop(1), augment.cutmix(), augment.flip())
AUGMENT = augment.compose(augment.resized_crop((0.2, 1.0)), augment.flip(), augment.cutmix())
NETWORKS = [models.build("mlp", num_classes=3, image_shape=SHAPE, widths=(6,)) for _ in range(2)]
VARIABLES = tuple(network.init(jax.random.key(i)) for i, network in enumerate(NETWORKS))


def shuffled(size=N, batch_size=B):
  """All examples in random order; the last batch is filled up, and one step of every block does not happen."""
  steps = -(-size // batch_size)

  def next_block(key, state, epoch, look):
    order = jnp.pad(jax.random.permutation(key, size).astype(jnp.int32), (0, (steps + 1) * batch_size - size))
    weight = (jnp.arange((steps + 1) * batch_size) < size).astype(jnp.float32)
    return Block(order.reshape(-1, batch_size), weight.reshape(-1, batch_size)), state

  return DataPolicy(lambda key: (), next_block, steps + 1)


def online(arrays, key, batch, record, step):
  return tuple(n.apply(v.params, batch.x) for n, v in zip(NETWORKS, arrays, strict=True))


TEACHER = TargetSource(online, VARIABLES, 0, "online")
MIRROR = TargetSource(lambda arrays, key, batch, *_: (Outputs(batch.x.reshape(B, -1), batch.x),), (), 0, "pixels")


@functools.lru_cache
def records(teacher=TEACHER, seed=0, aug=AUGMENT):
  return fkd.record(
    teacher, EXAMPLES, shuffled(), jax.random.key(seed), epochs=EPOCHS, augment=aug, data="d", teacher_hash="t"
  )


def batch_of(stored, step):
  index = stored.index[step]
  return jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), EXAMPLES)._replace(weight=jnp.asarray(stored.weight[step]))


@pytest.mark.parametrize("aug, tolerance", [(MOVES, 0.0), (AUGMENT, 2**-10)], ids=["moves", "interpolates"])
def test_replay_gives_the_pixels_that_the_teacher_saw(aug, tolerance, tmp_path):
  """The teacher's logits are its pixels, so what was stored tells them: bit for bit where pixels only move.

  Interpolation is compiled into another program here than in the recording, which may round its sums otherwise; within
  one program it is bit for bit, too.
  """
  stored = records(MIRROR, aug=aug)
  fkd.save(stored, tmp_path / "labels.npz")
  loaded = fkd.load(tmp_path / "labels.npz", aug)
  one, two = fkd.replayed(stored), fkd.replayed(loaded)
  pixels = jax.jit(lambda record, x: aug.apply(record, x))
  for step in range(EPOCHS * STEPS):
    x = batch_of(stored, step).x
    seen = pixels(one.replay(one.arrays, jnp.int32(step)), x)
    saw = np.float32(stored.logits[step, 0])
    np.testing.assert_allclose(np.reshape(seen, (B, -1)), saw, rtol=tolerance, atol=tolerance / 1000)
    np.testing.assert_array_equal(seen, pixels(two.replay(two.arrays, jnp.int32(step)), x))
    assert np.abs(seen - x).max() > 0.1
  # a draw of its own for every step
  assert (
    len({b"".join(leaf[n].tobytes() for leaf in jax.tree.leaves(stored.augment)) for n in range(EPOCHS * STEPS)})
    == EPOCHS * STEPS
  )


def test_targets_are_the_teachers_logits_on_these_pixels():
  stored = records()
  assert stored.logits.shape == (EPOCHS * STEPS, 2, B, 3) and stored.logits.dtype == np.float16
  source = fkd.replayed(stored)
  targets = jax.jit(source.targets)
  for step in range(0, EPOCHS * STEPS, 2):
    batch, number = batch_of(stored, step), jnp.int32(step)
    record = source.replay(source.arrays, number)
    seen = batch._replace(x=AUGMENT.apply(record, batch.x))
    found, wanted = targets(source.arrays, jax.random.key(9), seen, record, number), online(VARIABLES, None, seen, 0, 0)
    assert len(found) == len(wanted) == 2
    for mine, theirs in zip(found, wanted, strict=True):
      assert mine.logits.dtype == jnp.float32
      np.testing.assert_allclose(mine.logits, theirs.logits, rtol=2**-10, atol=1e-4)
  student, soft = jnp.float32(RNG.normal(size=(B, 3))), found[0].logits
  p = [np.exp(np.float64(z) / 20) for z in (student, soft)]
  p = [q / q.sum(1, keepdims=True) for q in p]
  kl = losses.kl_divergence(student, soft, temperature=20.0, scale_t2=False)
  np.testing.assert_allclose(kl, (p[1] * np.log(p[1] / p[0])).sum(1), rtol=1e-3, atol=1e-7)


def test_a_student_learns_from_the_store_what_it_learns_from_the_teacher():
  """Replayed labels against the online teacher on the same draws, through the builder of students."""
  stored, start = records(), NETWORKS[0].init(jax.random.key(7))
  source = fkd.replayed(stored)
  recipe = logits.kd(temperature=20.0, ce_weight=0.0, kd_weight=1.0)
  found = []
  for targets, arrays in ((source.targets, source.arrays), (online, VARIABLES)):
    # both take their draws from the store; what the online teacher reads lies beside it
    both = {"store": source.arrays, "own": arrays}
    method = student_method(
      NETWORKS[0], recipe, optimizer=optax.sgd(0.5), augment=AUGMENT,
      targets=lambda both, *rest, targets=targets: targets(both["own"], *rest),
      replay=lambda both, step: source.replay(both["store"], step),
    )  # fmt: skip
    at = lambda step, both=both: StudentInput(  # noqa: E731
      batch_of(stored, step), jnp.int32(step), jnp.float32(step / STEPS), targets=both, start=start
    )
    state, step = method.init(jax.random.key(0), at(0)), jax.jit(method.step)
    for number in range(STEPS):
      state, metrics = step(jax.random.key(number), state, at(number))
    assert all(np.isfinite(value) for value in metrics.values())
    found.append(method.result(state).variables["student"].params)
  moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (found[0], start.params)), strict=True)]
  assert max(moved) > 0.05
  for mine, theirs in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(mine, theirs, atol=2e-3)  # float16 labels, times 0.5 and T per update


def test_policy_brings_the_stored_batches_of_an_epoch_and_none_after_the_last():
  stored = records()
  policy = fkd.policy(stored)
  assert policy.steps == STEPS and not policy.looks
  draw = jax.jit(lambda epoch: policy.next(jax.random.key(5), policy.init(jax.random.key(6)), epoch, None)[0])
  for epoch in range(EPOCHS):
    block = draw(jnp.int32(epoch))
    rows = slice(epoch * STEPS, (epoch + 1) * STEPS)
    np.testing.assert_array_equal(block.index, stored.index[rows])
    np.testing.assert_array_equal(block.weight, stored.weight[rows])
    kept = np.asarray(block.index)[np.asarray(block.weight) > 0]
    np.testing.assert_array_equal(np.sort(kept), np.arange(N))
  assert (stored.index[:STEPS] != stored.index[STEPS : 2 * STEPS]).any()
  assert not np.asarray(draw(jnp.int32(EPOCHS)).weight).any() and "3 epochs" in policy.hint


def test_other_examples_and_steps_get_no_targets():
  stored = records()
  source = fkd.replayed(stored)
  ask = lambda batch, step: source.targets(source.arrays, None, batch, None, jnp.int32(step))[1].logits  # noqa: E731
  batch = batch_of(stored, 4)
  assert np.isfinite(ask(batch, 4)).all()
  swapped = batch._replace(ids=batch.ids[jnp.array([1, 0, 2, 3])])
  np.testing.assert_array_equal(np.isnan(ask(swapped, 4)).all(1), [True, True, False, False])
  assert np.isnan(ask(batch_of(stored, EPOCHS * STEPS - 1), EPOCHS * STEPS)).all()
  with pytest.raises(UserError, match="batch of 3: the soft labels are those of batches of 4"):
    ask(jax.tree.map(lambda leaf: leaf[:3], batch), 4)


def test_the_key_decides_and_bytes_are_counted():
  stored, other = records(), records(seed=1)
  again = records.__wrapped__()
  jax.tree.map(np.testing.assert_array_equal, stored.augment, again.augment)
  np.testing.assert_array_equal(stored.logits, again.logits)
  assert (other.index != stored.index).any() and (other.logits != stored.logits).any()
  steps = EPOCHS * STEPS
  # logits, index, weight, crop box, flip, partner, share, cutmix box; and the names
  assert stored.nbytes == steps * (2 * B * 3 * 2 + B * 4 + B * 4 + B * 16 + B + B * 4 + 4 + 16) + N * 4
  assert fkd.replayed(stored).nbytes == stored.nbytes


def test_save_and_load(tmp_path):
  stored, path = records(), tmp_path / "labels.npz"
  fkd.save(stored, path)
  loaded = fkd.load(path, AUGMENT)
  assert jax.tree.structure(loaded) == jax.tree.structure(stored)
  jax.tree.map(np.testing.assert_array_equal, loaded[:5], stored[:5])
  assert loaded[5:] == stored[5:] == (EPOCHS, SHAPE, "d", "t", "float16", 3, {})
  with pytest.raises(UserError, match="recorded with another augmentation"):
    fkd.load(path, augment.compose(augment.resized_crop(), augment.flip()))
  arrays = read_npz(path)
  write_npz(tmp_path / "edited.npz", arrays | {"label_logits": arrays["label_logits"] + np.float16(1)})
  with pytest.raises(UserError, match=r"edited.npz: damaged or edited"):
    fkd.load(tmp_path / "edited.npz", AUGMENT)
  write_npz(tmp_path / "other.npz", {"label_logits": arrays["label_logits"]})
  with pytest.raises(UserError, match="holds no stored soft labels"):
    fkd.load(tmp_path / "other.npz", AUGMENT)
  whole = bytearray(path.read_bytes())
  whole[len(whole) // 2] ^= 1
  path.write_bytes(whole)
  with pytest.raises(UserError, match="damaged"):
    fkd.load(path, AUGMENT)


@pytest.mark.parametrize(
  "options, match",
  [
    ({"epochs": EPOCHS + 1}, "epochs=4: soft labels of 3 epochs"),
    ({"batch_size": 8}, "batch_size=8: the soft labels are those of batches of 4"),
    ({"data": "other"}, "made for data d, and this is other"),
    ({"teacher_hash": "other"}, "made for teacher t, and this is other"),
  ],
)
def test_records_of_something_else_are_refused(options, match):
  fkd.replayed(records(), epochs=EPOCHS, batch_size=B, data="d", teacher_hash="t")
  with pytest.raises(UserError, match=match):
    fkd.replayed(records(), **options)


def test_what_cannot_be_recorded():
  plain = {"epochs": 1, "augment": augment.identity(), "data": "d", "teacher_hash": "t"}
  record = lambda teacher=MIRROR, policy=None, **own: fkd.record(  # noqa: E731
    teacher, EXAMPLES, policy or shuffled(), jax.random.key(0), **(plain | own)
  )
  with pytest.raises(UserError, match="epochs=0"):
    record(epochs=0)
  with pytest.raises(UserError, match="looking at networks"):
    record(policy=shuffled()._replace(looks=True))
  huge = TargetSource(lambda *_: (Outputs(jnp.full((B, 3), 1e5), jnp.zeros((B, 0))),), (), 0, "huge")
  with pytest.raises(UserError, match="not all finite in float16"):
    record(huge)

  def shrinking(key, state, epoch, look):
    block, state = shuffled().next(key, state, epoch, look)
    return block._replace(weight=jnp.where(epoch > 0, block.weight.at[1:].set(0.0), block.weight)), state

  with pytest.raises(UserError, match="epoch 1 has 1 steps and epoch 0 has 3"):
    record(policy=shuffled()._replace(next=shrinking), epochs=2)
  assert record().augment == ()
