"""DistiLLM: where a batch comes from, against plain Python; the buffer, the held-out loss, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_decoders import END, NETWORK, STUDENT, batch, log_probs, sampling
from token_step import COUNTED, TARGETS, cross_entropy, reduced, step

from jdistill.base import UserError
from jdistill.methods.knowledge import StudentInput, student_method
from jdistill.methods.language import distillm as module
from jdistill.methods.language.distillm import DATA, REPLAY, distillm
from jdistill.methods.language.distillm import STUDENT as OWN
from jdistill.methods.language.divergences import skew_kl, skew_rkl
from jdistill.methods.language.responses import respond, with_data
from jdistill.methods.optimizers import make_optimizer
from jdistill.ops.ring import empty_ring, push
from jdistill.teachers.frozen import committee

OPTIONS = {"max_new": 6, "end_token": END, "capacity": 6, "validate_every": 2}


def plain_schedule(losses, rise, by, start):
  """The card's rule, look by look."""
  threshold, before, out = start, None, []
  for loss in losses:
    if before is None:
      before = loss
    elif loss >= before + rise:
      threshold, before = min(threshold + by, 1.0), loss
    out.append((threshold, before))
  return np.array(out)


def test_the_threshold_rises_with_the_held_out_loss_and_moves_its_mark_only_then():
  rng = np.random.default_rng(1)
  losses = 2 + np.linspace(0, 0.6, 60) + 0.1 * rng.normal(size=60)
  want = plain_schedule(losses, 0.1, 0.3, 0.2)

  @jax.jit
  def run(losses):
    def one(state, given):
      loss, look = given
      state = module.adaptive_source_update(state, loss, look, loss_rise=0.1, threshold_step=0.3)
      return state, (state.threshold, state.before)

    looks = jnp.tile(jnp.array([True, False]), len(losses))  # between two looks stands a loss that nobody sees
    given = jnp.stack([losses, losses + 50], 1).ravel(), looks
    return jnp.stack(jax.lax.scan(one, module.begin(0.2), given)[1], 1)

  found = np.asarray(run(jnp.float32(losses)))
  np.testing.assert_allclose(found[::2], want, rtol=1e-5)
  np.testing.assert_array_equal(found[::2], found[1::2])
  assert want[-1, 0] == 1.0 and want[3, 0] < 1.0 and np.any(np.diff(losses) < 0)


@pytest.mark.parametrize("replay", ["decreasing", "constant", "increasing"])
@pytest.mark.parametrize("full", [True, False])
def test_shares_of_the_sources(replay, full):
  ring = push(empty_ring({"a": jnp.zeros(4)}, 4), {"a": jnp.zeros(4 if full else 3)})
  draw = jax.jit(lambda keys: jax.vmap(lambda k: module.draw_source(k, 0.6, jnp.float32(0.3), ring, replay))(keys))
  found = np.bincount(draw(jax.random.split(jax.random.key(0), 4000)), minlength=3) / 4000
  share = {"decreasing": 0.7, "constant": 0.5, "increasing": 0.3}[replay]
  own = 0.6 * share if full else 0.6
  np.testing.assert_allclose(found[[DATA, OWN, REPLAY]], [0.4, own, 0.6 - own], atol=0.03)  # 4 standard deviations


@functools.cache
def program(**options):
  recipe = distillm(**(OPTIONS | options))
  return recipe, jax.jit(lambda key, memory, data, epoch: recipe.sampled_batch(
    key, sampling(memory, held_out=batch(4), epoch=epoch, data=data)
  ))  # fmt: skip


def test_batches_are_written_pushed_and_replayed():
  recipe, sample = program(start_threshold=1.0, replay="decreasing")
  memory, held, generated = recipe.memory.init(jax.random.key(0), 9, batch()), [], 0
  seen = {OWN: 0, REPLAY: 0}
  for n in range(8):
    key = jax.random.key(n)
    # the rate of writing is 1 in the first half and 0 in the second, where the buffer is full
    new, memory = sample(key, memory, batch(), 0.0 if n < 4 else 4.0)
    source = int(new.extra["source"][0])
    assert source == (OWN if n < 4 else REPLAY)
    seen[source] += 1
    rows = np.asarray(new.x.tokens)
    if source == OWN:
      key_write, _ = jax.random.split(jax.random.split(key)[1])
      options = {"prompt": 0, "max_new": 6, "temperature": 1.0, "end_token": END}
      want, _ = respond(key_write, NETWORK.language, STUDENT, batch(), **options)
      np.testing.assert_array_equal(rows, want.x.tokens)
      held = [*held, *map(tuple, rows[[0, 1, 3]])][-6:]  # the third is padding
      generated += 1
    else:
      assert set(map(tuple, rows)) <= set(held)
    assert np.asarray(new.extra["mask"]).any(1).all()
    assert int(memory["adaptive"].generated) == generated and int(memory["adaptive"].n) == n + 1
  assert seen == {OWN: 4, REPLAY: 4}


def test_without_a_threshold_the_data_comes_and_the_held_out_loss_is_measured():
  recipe, sample = program()
  start = recipe.memory.init(jax.random.key(0), 9, batch())
  new, memory = sample(jax.random.key(0), start, batch(), 0.0)
  jax.tree.map(np.testing.assert_array_equal, new.x, batch().x)
  np.testing.assert_array_equal(new.extra["mask"], batch().extra["mask"])
  held_out = batch(4)
  mask = np.asarray(held_out.extra["mask"])
  want = -log_probs(STUDENT, held_out.x, held_out.y)[mask].mean()
  assert float(memory["held_out"]) == pytest.approx(want, rel=1e-5)
  assert float(memory["adaptive"].before) == pytest.approx(want, rel=1e-5)
  other = memory | {"held_out": jnp.float32(7.0)}
  assert float(sample(jax.random.key(1), other, batch(), 0.0)[1]["held_out"]) == 7.0  # every second update looks


@pytest.mark.parametrize(("divergence", "other"), [("skew_kl", skew_kl), ("skew_reverse_kl", skew_rkl)])
def test_its_loss_is_that_of_the_divergence(divergence, other):
  own, plain = distillm(divergence=divergence, skew=0.3), other(skew=0.3)
  (name,) = set(plain.terms) - {"ce"}
  assert float(own.terms["distillm"].value(step())) == pytest.approx(float(plain.terms[name].value(step())), rel=1e-6)


def test_the_loss_of_the_data_is_beside_it():
  both = with_data(batch()._replace(extra={"mask": batch().extra["mask"], "source": jnp.ones(4)}), batch(4))
  assert both.y.shape[0] == 8 and both.extra["source"].tolist() == [1] * 4 + [0] * 4
  np.testing.assert_array_equal(both.extra["mask"], np.concatenate([batch().extra["mask"], np.zeros((4, 12), bool)]))
  np.testing.assert_array_equal(both.extra["data_mask"][4:], batch(4).extra["mask"])
  assert not both.extra["data_mask"][:4].any()
  term = distillm(lm_weight=0.5).terms["lm"]
  found = term.value(step(extra={"mask": jnp.zeros((3, 4), bool), "data_mask": jnp.asarray(COUNTED)}))
  assert term.weight == 0.5 and float(found) == pytest.approx(reduced(cross_entropy()), rel=1e-5)
  assert TARGETS.shape == (3, 4)


def inputs(targets, held_out):
  return StudentInput(batch(), jnp.int32(0), jnp.float32(0), targets=targets, held_out=held_out)


def built(recipe, epochs=4.0):
  frozen = committee([NETWORK], [NETWORK.init(jax.random.key(1))])
  method = student_method(
    NETWORK, recipe, optimizer=make_optimizer("sgd", 0.1), targets=frozen.targets, teachers=frozen.language,
    epochs=epochs,
  )  # fmt: skip
  return method, frozen.arrays


def test_an_update_carries_the_buffer_and_reports_it():
  method, arrays = built(distillm(start_threshold=1.0, lm_weight=1.0, **OPTIONS))
  state = method.init(jax.random.key(0), inputs(arrays, batch(4)))
  update = jax.jit(method.step)
  for n in range(3):
    state, metrics = update(jax.random.key(n), state, inputs(arrays, batch(4)))
  assert float(metrics["method/generated"]) == 3 and float(metrics["method/threshold"]) == 1
  assert int(state.memory["buffer"].size) == 6 and float(metrics["loss/lm"]) > 0 and float(metrics["loss/distillm"]) > 0


def test_what_it_refuses():
  method, arrays = built(distillm(**(OPTIONS | {"capacity": 3})))
  state = jax.eval_shape(method.init, jax.random.key(0), inputs(arrays, batch(4)))
  with pytest.raises(ValueError, match="4 rows at once into a ring of 3; raise its capacity"):
    jax.eval_shape(method.step, jax.random.key(0), state, inputs(arrays, batch(4)))
  method, arrays = built(distillm(**OPTIONS))
  state = jax.eval_shape(method.init, jax.random.key(0), inputs(arrays, None))
  with pytest.raises(ValueError, match="no held-out examples to score"):
    jax.eval_shape(method.step, jax.random.key(0), state, inputs(arrays, None))
  method, arrays = built(distillm(**OPTIONS), epochs=None)
  with pytest.raises(ValueError, match=r"distillm: how many updates there are in all is not known; set method\.steps"):
    jax.eval_shape(method.step, jax.random.key(0), state, inputs(arrays, batch(4)))
  for value in (0.0, 1.0):  # both give degenerate losses
    with pytest.raises(UserError, match=rf"method\.skew={value}"):
      distillm(skew=value)
