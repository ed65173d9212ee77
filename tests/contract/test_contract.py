"""What every method of the catalog promises: pure steps of fixed form, reproducible, resumable, shardable, useful."""

import ast
import functools
import inspect
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jdistill import catalog, experiment_files, schema
from jdistill.training import Checkpoints, Hooks, run_loop

pytestmark = pytest.mark.usefixtures("compiled_once")  # what resumes is the same program again
TOGETHER = "name"
ROOT = Path(__file__).resolve().parents[2]
KEY = jax.random.key(11)
every_method = pytest.mark.parametrize("name", catalog.names())
# Students share one builder, so what is its promise and not a recipe's is held for one recipe of each kind: a plain one
# and those with a memory, an outer update or constants of their own.
KINDS = ("kd", "crd", "tgeo_kd", "kd3", "taid", "gkd", "dmd2", "progressive")
every_trainer = pytest.mark.parametrize(
  "name",
  [
    row.name
    for row in catalog.rows()
    if not row.policy and (row.family not in ("knowledge", "language", "diffusion") or row.name in KINDS)
  ],
)


@functools.lru_cache(maxsize=1)  # tests come method by method, and programs of the last one only take memory
def toy(name):
  return toys.make(name)


@functools.lru_cache(maxsize=1)
def jitted(name):
  return jax.jit(toy(name).method.init), jax.jit(toy(name).method.step)


def after(name, steps, key=KEY):
  """The states of a short run, the first of them `init`'s, and the last metrics."""
  init, step = jitted(name)
  states, metrics = [init(key, toy(name).stream(0))], None
  for number in range(steps):
    state, metrics = step(jax.random.fold_in(key, number), states[-1], toy(name).stream(number))
    states.append(state)
  return states, metrics


def form(tree):
  """Structure, shapes, dtypes and weak types."""
  return jax.tree.structure(tree), [(a.shape, a.dtype, a.weak_type) for a in jax.tree.leaves(tree)]


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
  return any((np.asarray(u) != np.asarray(v)).any() for u, v in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.parametrize("row", catalog.rows(), ids=lambda row: row.name)
def test_every_row_describes_its_toy(row):
  """A row that is a method has an objective, and options that its builder declares."""
  assert row.toy.get("kind", "student") in (*toys.KINDS, "policy")
  assert bool(row.policy) == (row.toy.get("kind") == "policy") and bool(row.policy) != ("objective" in row.toy)
  assert set(toys.options(row)) <= set(schema.fields(row.build()))


@every_method
def test_a_step_keeps_the_form_of_the_state(name):
  states, _ = after(name, 2)
  assert form(states[0]) == form(states[1]) == form(states[2])
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(states[0]))
  assert not any(leaf.weak_type for leaf in jax.tree.leaves(states[0]))
  assert not any(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(states[0]))


@every_method
def test_a_step_is_compiled_once(name):
  after(name, 3)
  assert [function._cache_size() for function in jitted(name)] == [1, 1]


@every_method
def test_metrics_are_a_flat_dict_of_scalars(name):
  _, metrics = after(name, 1)
  assert isinstance(metrics, dict) and toy(name).objective in metrics
  for key, value in metrics.items():
    assert re.fullmatch(r"[a-z_]+/[a-z_]+", key), key
    assert value.shape == () and np.issubdtype(value.dtype, np.floating) and np.isfinite(value), key


def draws(name):
  """Whether the method uses its key at all, in the first state or in a step."""
  (init, step), example = jitted(name), toy(name).stream(0)
  programs = (init.trace(KEY, example), step.trace(KEY, init.eval_shape(KEY, example), example))
  return any(program.jaxpr.invars[0] in eqn.invars for program in programs for eqn in program.jaxpr.eqns)


@every_method
def test_the_key_decides_a_run(name):
  same(after(name, 2)[0][-1], after(name, 2)[0][-1])
  assert differ(after(name, 2)[0][-1], after(name, 2, jax.random.key(12))[0][-1]) == draws(name)


@every_trainer
def test_a_resumed_run_goes_on_to_the_bit(name, tmp_path):
  def run(directory, stop=lambda: False):
    checkpoints = Checkpoints(directory, {"method": name})
    outcome = run_loop(
      toy(name).method, toy(name).stream, key=KEY, steps=6, checkpoints=checkpoints, hooks=Hooks(stop=stop)
    )
    checkpoints.close()
    return outcome

  whole, calls = run(tmp_path / "whole"), itertools.count(1)
  first = run(tmp_path / "parts", lambda: next(calls) == 3)
  assert first.stopped and first.steps == 3 and differ(first.state, whole.state)
  second = run(tmp_path / "parts")
  assert second.steps == whole.steps == 6
  same(second.state, whole.state)


@every_method
def test_the_result_is_finite_arrays(name):
  states, _ = after(name, 1)
  for state in states:
    leaves = jax.tree.leaves(toy(name).method.result(state))
    assert leaves
    for leaf in leaves:
      assert hasattr(leaf, "dtype") and np.isfinite(np.asarray(leaf)).all()
  assert differ(*(toy(name).method.result(state) for state in states))


@every_method
def test_the_objective_falls(name):
  init, step = jitted(name)
  state, values = init(KEY, toy(name).stream(0)), []
  for number in range(30):
    state, metrics = step(jax.random.fold_in(KEY, number), state, toy(name).stream(0))
    values.append(float(metrics[toy(name).objective]))
  assert np.mean(values[-5:]) < 0.9 * np.mean(values[:3]), values


@every_trainer
@pytest.mark.parametrize("shard", [False, True], ids=["replicated", "batch-sharded"])
def test_sharded_states_give_the_numbers_of_one_device(name, shard):
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

  def place(leaf):
    split = shard and leaf.ndim > 0 and leaf.shape[0] % 8 == 0
    return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("data") if split else PartitionSpec()))

  (before, want), want_metrics = after(name, 1)
  sharded = jax.tree.map(place, before)
  assert len(jax.tree.leaves(sharded)[0].sharding.device_set) == 8
  assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(sharded)) == shard
  batch = jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec())), toy(name).stream(0))
  # a function of its own: `jit` of the same one would share the cache that another test counts
  step = jax.jit(lambda *args: toy(name).method.step(*args))
  got, metrics = step(jax.random.fold_in(KEY, 0), sharded, batch)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, jax.device_get(got), jax.device_get(want))
  jax.tree.map(close, jax.device_get(metrics), jax.device_get(want_metrics))


@every_method
def test_hyper_parameters_are_keywords_with_defaults(name):
  row = catalog.row(name)
  for builder in (row.build(), *(row.build(part) for part in row.parts)):
    parameters = inspect.signature(builder).parameters.values()
    assert all(p.default is not p.empty for p in parameters if p.kind is p.KEYWORD_ONLY)
    assert all(p.default is p.empty for p in parameters if p.kind is not p.KEYWORD_ONLY)  # collaborators must be given
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
  assert row.fields(), "a method without a single hyper-parameter?"
  assert set(row.values) <= set(row.fields())


COLLABORATORS = {"augment", "siamese", "view", "unroll"}  # what `jdistill.stages.build` hands over


@every_method
def test_every_option_is_declared(name):
  """Keyword-only parameters are options or collaborators; one whose annotation is not understood would be neither."""
  builder = catalog.row(name).build()
  parameters = inspect.signature(builder).parameters.values()
  keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
  assert keywords - COLLABORATORS == set(schema.fields(builder))
  assert not COLLABORATORS & set(schema.fields(builder))
  for key, field in catalog.row(name).fields().items():
    assert field.default is not schema.REQUIRED
    assert schema.checked(key, field.default, field) == field.default or isinstance(field.default, tuple), key


@pytest.mark.parametrize(
  "name", [n for n in catalog.names() if any(f.traced for f in catalog.row(n).fields().values())]
)
def test_traced_options_can_be_arguments_of_a_program(name):
  row = catalog.row(name)
  builder, own = row.build(), toys.options(row)
  traced = [key for key, field in schema.fields(builder).items() if field.traced]

  def rebuild(values):
    # those that the toy sets stay as they are in it
    return builder(**(own | values))

  method = toys.make(name, rebuild=rebuild).method
  values = {key: jnp.float32(own.get(key, schema.fields(builder)[key].default)) for key in traced}
  update = toy(name).stream(0)._replace(options=values)
  state = jax.eval_shape(method.init, KEY, update)
  _, metrics = jax.eval_shape(method.step, KEY, state, update)
  assert set(metrics) == set(after(name, 1)[1])


@pytest.mark.parametrize("row", catalog.rows(), ids=lambda row: row.name)
def test_a_row_names_its_paper_its_experiment_and_its_test(row):
  assert bool(row.arxiv) != bool(row.url) and row.title and row.authors
  assert re.fullmatch(r"https://arxiv.org/abs/\d{4}\.\d{4,5}" if row.arxiv else r"https://\S+", row.paper)
  assert re.search(r" (19|20)\d\d$", row.venue)
  assert (ROOT / row.test).is_file()
  config = experiment_files.load(str(ROOT / row.config))
  assert (config.data_policy.name if row.policy else config.method.name) == (row.policy_name or row.name)
  assert (row.arxiv or row.title) in ast.get_docstring(ast.parse((ROOT / row.config).read_text(encoding="utf-8")))
