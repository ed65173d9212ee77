"""Score networks of tokens, learned samplers as recipes, and rows that count down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import Batch, Network, Outputs, UserError, Variables
from jdistill.diffusion import discrete
from jdistill.diffusion.discrete import NoisyTokens, TokenDraws, TokenScore
from jdistill.methods.diffusion import lsd as learned
from jdistill.methods.diffusion.sedd import lsd, score_fn, sedd
from jdistill.methods.knowledge import StudentInput, predictor, student_method
from jdistill.methods.knowledge.recipe import OwnInputs
from jdistill.methods.optimizers import make_optimizer
from jdistill.methods.roles import Role
from jdistill.tasks import Request
from jdistill.tasks.countdown import countdown, figures
from jdistill.teachers.frozen import committee

LENGTH, TOKENS, SIZE = 3, 3, 6
SMALL = {"dim": 8, "depth": 1, "heads": 2, "features": 8}
NETWORK = models.build("score_transformer", num_classes=TOKENS, image_shape=(LENGTH,), **SMALL)
GRAPH, NOISE = NETWORK.token_score.graph, NETWORK.token_score.noise
RNG = np.random.default_rng(0)
INITIAL, TRANSITION = RNG.dirichlet(np.ones(TOKENS)), RNG.dirichlet(np.full(TOKENS, 0.4), TOKENS)
EXACT = discrete.chain_score(GRAPH, jnp.float32(INITIAL), jnp.float32(TRANSITION))


def exact_network():
  """The true scores of a chain, to the power of a parameter."""

  def apply(params, x, **_):
    logs = jnp.log(jnp.maximum(jnp.nan_to_num(EXACT(x.x, x.sigma), nan=1.0), 1e-30)) * params["power"]
    return Outputs(logs, logs[:, 0], {})

  about = TokenScore(GRAPH, NOISE, LENGTH)
  return Network(lambda key: Variables({"power": jnp.ones(())}), apply, token_score=about)


def batch(x=None):
  x = np.int32((np.arange(SIZE)[:, None] + np.arange(LENGTH)) % TOKENS) if x is None else x
  return Batch(jnp.asarray(x), jnp.zeros(len(x), jnp.int32), jnp.arange(len(x), dtype=jnp.int32))


def seen(network, params, where=None, teacher=None, key=3):
  data = batch()
  where = jnp.ones(SIZE, bool) if where is None else where
  teachers = () if teacher is None else ((network, teacher),)
  return OwnInputs(jax.random.key(key), network, params, data, where, teachers, (), jnp.int32(0), jnp.float32(0), 1.0)


def test_a_score_network_starts_where_all_jumps_are_alike():
  params = NETWORK.init(jax.random.key(0)).params
  x, sigma = jnp.array([[0, TOKENS, 2], [TOKENS] * 3], jnp.int32), jnp.float32([0.3, 2.0])
  score = np.asarray(score_fn(NETWORK, params)(x, sigma))
  want = 1 / np.expm1(np.float64(sigma)) / TOKENS
  np.testing.assert_allclose(score[0, 1, :TOKENS], want[0], rtol=1e-5)
  np.testing.assert_allclose(score[1, 2, :TOKENS], want[1], rtol=1e-5)
  np.testing.assert_array_equal(score[0, 0, 0], 1)
  moved = jax.tree.map(
    lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), params
  )
  ask = jax.jit(lambda x, sigma: NETWORK.apply(moved, NoisyTokens(x, sigma)).logits)
  one = ask(x, sigma)
  assert np.abs(np.asarray(ask(x, sigma.at[0].set(1.0)) - one)[0, 1]).max() > 1e-3  # the noise is seen
  assert np.abs(np.asarray(ask(x.at[0, 2].set(1), sigma) - one)[0, 1]).max() > 1e-4  # and tokens on both sides
  assert np.abs(np.asarray(ask(x.at[0, 0].set(1), sigma) - one)[0, 1]).max() > 1e-4
  np.testing.assert_allclose(ask(x.at[0, 0].set(1), sigma)[1], one[1], rtol=1e-5)


def test_score_entropy_is_learned():
  """The loss of an update beside the sum of its rows, and least at the true scores."""
  network, recipe = exact_network(), sedd()
  where = jnp.arange(SIZE) < SIZE - 2
  update = jax.jit(lambda power: recipe.own.update(seen(network, {"student": {"power": power}}, where)))
  made = update(jnp.float32(0.7))
  logs = lambda x, sigma: network.apply({"power": 0.7}, NoisyTokens(x, sigma)).logits  # noqa: E731
  rows = np.float64(discrete.score_entropy_loss(jax.random.key(3), logs, GRAPH, NOISE, batch().x))
  np.testing.assert_allclose(made.metrics["loss/entropy"], np.mean(rows[:-2]) / LENGTH, rtol=1e-4)
  step = 1e-2
  slope = (
    update(jnp.float32(0.7 + step)).metrics["loss/entropy"] - update(jnp.float32(0.7 - step)).metrics["loss/entropy"]
  )
  np.testing.assert_allclose(made.grads["student"]["power"], slope / (2 * step), rtol=2e-2, atol=1e-3)


def test_learned_samplers_take_the_gradients_of_the_method():
  """The recipe's gradients beside one update of `jdistill.methods.diffusion.lsd.lsd` with the same key."""
  network = exact_network()
  teacher = Variables({"power": jnp.ones(())})
  options = {"sampler_steps": 2, "teacher_steps": 8, "rows": "active", "learn_sizes": True, "relative": True}
  options |= {"size_target": "interval_sum", "t_min": 0.01}
  recipe = lsd(**{"score_rows" if name == "rows" else name: value for name, value in options.items()})
  roles = {"student": teacher.params} | recipe.own.init(jax.random.key(0), network, ((network, teacher),))
  roles["phi"] = jnp.float32([1.0, 0.8])
  made = jax.jit(lambda roles: recipe.own.update(seen(network, roles, teacher=teacher)))(roles)
  method = learned.lsd(score_fn(network, teacher.params), GRAPH, NOISE, phi_lr=1.0, sizes_lr=1.0, **options)
  state = method.init(jax.random.key(0), batch())
  state = state._replace(roles=state.roles | {"phi": Role(roles["phi"], state.roles["phi"].opt_state)})
  after, metrics = jax.jit(method.step)(jax.random.key(3), state, batch())
  for name in ("phi", "sizes"):
    np.testing.assert_allclose(roles[name] - made.grads[name], after.roles[name].params, rtol=1e-5, atol=1e-6)
  assert np.abs(np.asarray(made.grads["phi"])).max() > 1e-3 and made.moves == {"student": False}
  np.testing.assert_allclose(made.metrics["loss/phi"], metrics["loss/phi"], rtol=1e-5)


def test_finished_samplers():
  """Rows depend on their names alone, and come out as `sample_tokens` makes them with the learned numbers."""
  network = exact_network()
  frozen = committee([network], [Variables({"power": jnp.ones(())})])
  recipe = lsd(sampler_steps=2, teacher_steps=4, learn_sizes=True, t_min=0.01)
  method = student_method(
    network, recipe, optimizer=make_optimizer("sgd", 0.1), targets=frozen.targets, teachers=frozen.networks
  )
  trained = method.result(
    method.init(jax.random.key(0), StudentInput(batch(), jnp.int32(0), jnp.float32(0), None, frozen.arrays))
  )
  own = {"phi": Variables(jnp.float32([1.0, 0.6])), "sizes": Variables(jnp.float32([0.0, 1.0]))}
  trained = trained._replace(variables=trained.variables | own)
  names = jnp.array([4, 9, 2, 1000000], jnp.int32)
  ask = jax.jit(lambda names: predictor(network, recipe)(trained, (), TokenDraws(names)))
  found = np.asarray(ask(names))
  assert found.shape == (4, LENGTH) and found.max() < TOKENS
  np.testing.assert_array_equal(np.asarray(ask(names[::-1]))[::-1], found)
  assert len({tuple(row) for row in np.asarray(ask(jnp.arange(4, dtype=jnp.int32) * 7)).tolist()}) > 1
  times = np.array([1.0, 1 - 0.99 / (1 + np.e), 0.01])
  row = discrete.sample_tokens(
    jax.random.fold_in(jax.random.key(20251022), 9), score_fn(network, {"power": 1.0}), GRAPH, NOISE,
    discrete.euler_step(GRAPH, NOISE), jnp.float32(times), (1, LENGTH), phi=jnp.float32([1.0, 0.6]),
  )  # fmt: skip
  np.testing.assert_array_equal(row[0], found[1])


def test_figures_of_rows():
  rows = np.array([[3, 3, 1, 0], [0, 3, 2, 1], [1, 0, 1, 0]])
  found = figures(rows, 4)  # two of three pairs break the rule in the first row; 3 and 1 follow a 0 in the others
  np.testing.assert_allclose(found["error_rate"], 2 / 9)
  np.testing.assert_allclose(found["valid"], 2 / 3)
  np.testing.assert_allclose(found["start_entropy"], np.log(2))
  shares = np.array([4, 4, 1, 3]) / 12
  np.testing.assert_allclose(found["entropy"], -np.sum(shares * np.log(shares)))


def request(**values):
  return Request(
    **(
      {"dataset": "countdown", "data_dir": None, "train_size": 40, "test_size": None}
      | {"preprocessing": "none", "validation_size": 20, "seed": 0}
      | values
    )
  )


def test_the_task_judges_samples():
  task = countdown(request(), tokens=4, length=6, draws=50)
  assert task.data.x.shape == (40, 6) and task.input_shape == (6,) and not task.higher
  assert figures(task.data.x, 4)["error_rate"] == 0 and len(task.validation.y) == 20 and len(task.test.y) == 50
  assert not set(task.validation.x.ids.tolist()) & set(task.test.x.ids.tolist())
  assert task.score(lambda x: np.zeros((len(x.ids), 6), int), task.test) == {
    "error_rate": 0.0,
    "valid": 1.0,
    "start_entropy": 0.0,
    "entropy": 0.0,
  }  # what games the rule shows in the entropies
  assert task.score(lambda x: np.full((len(x.ids), 6), 3), task.test)["error_rate"] == 1.0


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: countdown(request(dataset="digits")), "dataset='digits': task 'countdown' makes its own"),
    (lambda: countdown(request(preprocessing="zca")), "preprocessing='zca': tokens are taken as they are"),
    (lambda: lsd(sampler_steps=5, teacher_steps=32), r"method\.sampler_steps=5: must divide the teacher's 32"),
    (lambda: lsd(sampler_steps=64, teacher_steps=32), r"method\.sampler_steps=64: must be from 1 to the teacher's 32"),
    (lambda: lsd(radius=1.0), r"method\.radius=1\.0: must be at most 0\.999"),
    (lambda: sedd(t_min=0.0), r"method\.t_min=0\.0: must be above 0"),
    (
      lambda: models.build("score_transformer", num_classes=1, image_shape=(3,), graph="uniform"),
      "graph: uniform: tokens must be at least 2",
    ),
    (
      lambda: models.build("score_transformer", num_classes=3, image_shape=(3,), graph="ring"),
      "graph: 'ring' is unknown; choose one of absorb, uniform",
    ),
    (lambda: NETWORK.apply({}, jnp.zeros((1, 3), jnp.int32)), "takes noisy tokens with their noise"),
    (
      lambda: NETWORK.apply({}, NoisyTokens(jnp.zeros((1, 4), jnp.int32), jnp.ones(1))),
      r"rows of \(4,\) tokens given to a score network that was built for 3",
    ),
    (
      lambda: sedd().own.update(seen(models.build("mlp", num_classes=2, image_shape=(1, 1, 2)), {"student": {}})),
      "gives no scores of tokens; choose 'score_transformer'",
    ),
    (
      lambda: lsd().own.init(
        jax.random.key(0), NETWORK,
        ((models.build("score_transformer", num_classes=3, image_shape=(4,), **SMALL), Variables({})),),
      ),
      "student: rows of 3 tokens, and its teacher of 4",
    ),
  ],
)  # fmt: skip
def test_what_is_refused(call, message):
  with pytest.raises(UserError, match=message):
    call()
