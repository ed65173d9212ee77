"""The loop: resume, stop, hooks at the right steps, and what happens to numbers that are not finite."""

import functools
import itertools

import jax
import numpy as np
import pytest
import toy_method
from toy_method import KEY, host, stream, toy

from jdistill.base import UserError
from jdistill.training import Checkpoints, Hooks, NotFinite, run_loop, suggest_steps_per_call
from jdistill.training.programs import guarded

IDENTITY = {"config": "abc"}


def run(steps, directory=None, *, bad=None, value=np.nan, **options):
  checkpoints = None if directory is None else Checkpoints(directory, IDENTITY, keep=2)
  try:
    return run_loop(toy(), stream(bad, value), key=KEY, steps=steps, checkpoints=checkpoints, **options)
  finally:
    if checkpoints is not None:
      checkpoints.close()


@functools.lru_cache
def whole(steps):
  """The state of a run that nothing disturbs."""
  return host(run(steps).state)


def restore(directory):
  checkpoints = Checkpoints(directory, IDENTITY)
  found = checkpoints.restore(jax.jit(toy().init)(KEY, stream()(0)))
  checkpoints.close()
  return None if found is None else (found[0], host(found[1]))


def stop_after(count):
  calls = itertools.count(1)
  return Hooks(stop=lambda: next(calls) >= count)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, host(a), host(b))


def test_resumed_and_uninterrupted_runs_are_equal_to_the_bit(tmp_path):
  plain = run(6)
  assert plain.steps == 6 and not plain.stopped and plain.first_step_seconds > 0
  first = run(6, tmp_path / "c", hooks=stop_after(3))
  assert first.stopped and first.steps == 3
  second = run(6, tmp_path / "c")
  assert not second.stopped and second.steps == 6
  same(second.state, plain.state)
  assert int(plain.state["count"]) == 6
  again = run(6, tmp_path / "c")  # nothing is left to do
  assert again.first_step_seconds is None
  same(again.state, plain.state)


def test_stopping_saves_and_stopping_at_the_end_is_no_stop(tmp_path):
  run(6, tmp_path / "c", hooks=stop_after(2), log_every=5)
  step, state = restore(tmp_path / "c")
  assert step == 2
  same(state, whole(2))
  assert not run(2, hooks=stop_after(2)).stopped


def test_hooks_are_called_at_the_right_steps(tmp_path):
  told = []
  hooks = Hooks(
    on_resume=lambda step: told.append(("resume", step)),
    on_metrics=lambda step, metrics: told.append(("metrics", step)),
    on_snapshot=lambda step, result: told.append(("snapshot", step)),
    stop=lambda: ("metrics", 8) in told and ("snapshot", 10) not in told and len(told) < 8,
  )
  run(12, tmp_path / "c", log_every=4, snapshot_every=5, hooks=hooks)
  assert told == [
    ("resume", 0), ("snapshot", 0), ("metrics", 4), ("snapshot", 5), ("metrics", 8), ("metrics", 9),
  ]  # fmt: skip
  told.clear()
  run(12, tmp_path / "c", log_every=4, snapshot_every=5, hooks=hooks._replace(stop=lambda: False))
  assert told == [("resume", 9), ("snapshot", 10), ("metrics", 12), ("snapshot", 12)]


def test_snapshots_are_the_results_and_metrics_are_means_of_their_window():
  shown, logged = {}, {}
  hooks = Hooks(
    on_metrics=lambda step, metrics: logged.update({step: metrics}),
    on_snapshot=lambda step, result: shown.update({step: np.array(result)}),
  )
  run(6, log_every=4, hooks=hooks)
  assert set(shown) == {0, 6} and set(logged) == {4, 6}
  np.testing.assert_array_equal(shown[6], whole(6)["w"])
  single = {}
  run(6, log_every=1, hooks=Hooks(on_metrics=lambda step, metrics: single.update({step: metrics["toy/loss"]})))
  np.testing.assert_allclose(logged[4]["toy/loss"], np.mean([single[s] for s in (1, 2, 3, 4)]), rtol=1e-6)
  np.testing.assert_allclose(logged[6]["toy/loss"], np.mean([single[s] for s in (5, 6)]), rtol=1e-6)
  assert all(type(value) is float for value in logged[4].values())


@pytest.mark.parametrize(
  ("bad", "value", "log_every"), [(5, np.nan, 1), (5, np.nan, 3), (5, np.nan, 100), (7, np.inf, 100)]
)
def test_a_metric_that_is_not_finite_stops_and_saves_the_last_good_state(tmp_path, bad, value, log_every):
  """Metrics are only looked at now and then, but no step after the bad one may have changed what is saved."""
  with pytest.raises(UserError, match=rf"step {bad}: toy/loss is not finite; the last good state is saved") as caught:
    run(20, tmp_path / "c", bad=bad, value=value, log_every=log_every, checkpoint_seconds=0.0)
  assert "\n" not in str(caught.value)
  step, state = restore(tmp_path / "c")
  assert step == bad
  same(state, whole(bad))
  with pytest.raises(UserError, match=f"step {bad}: toy/loss"):  # the same run again meets the same step
    run(20, tmp_path / "c", bad=bad, value=value, log_every=log_every)
  same(run(20, tmp_path / "c").state, whole(20))  # and a cured one goes on from it


def test_a_first_step_that_is_not_finite_claims_no_checkpoint(tmp_path):
  for directory in (tmp_path / "c", None):
    with pytest.raises(UserError, match=r"step 0: toy/loss is not finite; lower the learning rates"):
      run(20, directory, bad=0)
  assert restore(tmp_path / "c") is None


def test_a_bad_step_before_a_stop_is_reported_and_not_saved(tmp_path):
  with pytest.raises(UserError, match="step 2: "):
    run(20, tmp_path / "c", bad=2, hooks=stop_after(4), log_every=100)
  assert restore(tmp_path / "c")[0] == 2


def test_a_guarded_step_keeps_the_state_from_the_first_bad_step_on():
  method = toy()
  step, state, alive = jax.jit(guarded(method.step)), method.init(KEY, stream()(0)), np.bool_(True)
  before = host(state)
  for number, expected in ((0, True), (1, False), (2, False)):
    state, metrics, alive = step(KEY, state, alive, stream(bad=1)(number))
    assert bool(alive) == expected
    if number == 0:
      assert (state["w"] != before["w"]).any()
      before = host(state)
  same(state, before)
  assert np.isfinite(metrics["toy/loss"])  # later metrics are those of a step that was not taken


def test_saves_keep_their_distance_in_time(tmp_path, monkeypatch):
  saved, now = [], [0.0]
  monkeypatch.setattr(Checkpoints, "save", lambda self, step, state: saved.append(step))

  def slow(step):
    now[0] += 1.0  # a second per step
    return stream()(step)

  for seconds, want in ((5.0, [6, 12, 18, 20]), (0.0, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]), (1e9, [20])):
    saved.clear()
    checkpoints = Checkpoints(tmp_path / "c", IDENTITY)
    run_loop(
      toy(), slow, key=KEY, steps=20, checkpoints=checkpoints, checkpoint_seconds=seconds, log_every=2,
      clock=lambda: now[0],
    )  # fmt: skip
    checkpoints.close()
    assert saved == want


def test_the_step_is_traced_once_and_sees_the_key_and_batch_of_its_number():
  traces, method = [], toy()

  def step(key, state, batch):
    traces.append(batch)
    return method.step(key, state, batch)

  outcome = run_loop(method._replace(step=step), stream(), key=KEY, steps=5)
  assert len(traces) == 1
  key_init, key = jax.random.split(KEY)
  state = jax.jit(method.init)(key_init, stream()(0))
  for number in range(5):
    state, _ = jax.jit(method.step)(jax.random.fold_in(key, number), state, stream()(number))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), outcome.state, state)
  assert toy_method.host(state)["count"] == 5


# -- several steps per call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 5, 64])
def test_calls_of_several_steps_compute_what_single_steps_do(k):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), host(run(9, steps_per_call=k).state), whole(9))


def test_any_division_into_calls_gives_the_same_bits(tmp_path):
  """Runs that stop after every call, have snapshots and scores between, or none of these."""
  plain = host(run(11, steps_per_call=4).state)
  told = []
  hooks = Hooks(
    on_snapshot=lambda step, result: told.append(("snapshot", step)),
    on_score=lambda step, seconds, result: told.append(("score", step)),
  )
  same(run(11, steps_per_call=4, snapshot_every=3, score_every=5, hooks=hooks).state, plain)
  assert told == [
    ("snapshot", 0), ("snapshot", 3), ("score", 5), ("snapshot", 6), ("snapshot", 9), ("score", 10), ("snapshot", 11),
    ("score", 11),
  ]  # fmt: skip
  for snapshot_every in (1, 3):
    while (outcome := run(
      11, tmp_path / str(snapshot_every), steps_per_call=4, snapshot_every=snapshot_every, hooks=stop_after(1)
    )).stopped:  # fmt: skip
      pass
    same(outcome.state, plain)


def test_metrics_of_calls_are_means_over_all_their_steps():
  single, logged = {}, {}
  run(10, log_every=1, hooks=Hooks(on_metrics=lambda step, metrics: single.update({step: metrics["toy/loss"]})))
  run(
    10, log_every=5, steps_per_call=4,
    hooks=Hooks(on_metrics=lambda step, metrics: logged.update({step: metrics["toy/loss"]})),
  )  # fmt: skip
  assert set(logged) == {8, 10}  # the first call that reaches a multiple of five, and the end
  np.testing.assert_allclose(logged[8], np.mean([single[s] for s in range(1, 9)]), rtol=1e-6)
  np.testing.assert_allclose(logged[10], np.mean([single[9], single[10]]), rtol=1e-6)


def test_a_bad_step_within_a_call_is_named_and_the_state_before_the_call_is_kept(tmp_path):
  with pytest.raises(
    NotFinite, match="step 6: toy/loss is not finite; the last good state of step 4 is saved"
  ) as caught:
    run(20, tmp_path / "c", bad=6, steps_per_call=4, log_every=100)
  assert (caught.value.step, caught.value.kept, caught.value.metric) == (6, 4, "toy/loss")
  step, state = restore(tmp_path / "c")
  assert step == 4
  same(state, run(4, steps_per_call=4).state)
  assert np.isnan(run(8, bad=6, steps_per_call=4, guard=False).state["w"]).any()


def test_the_same_method_is_compiled_once_for_all_runs():
  traces, method = [], toy()

  def step(key, state, batch):
    traces.append(batch)
    return method.step(key, state, batch)

  counted = method._replace(step=step)
  for seed, steps in ((0, 7), (1, 3), (2, 12)):
    run_loop(counted, stream(), key=jax.random.key(seed), steps=steps, steps_per_call=4)
  assert len(traces) == 1
  run_loop(counted, stream(), key=KEY, steps=4, steps_per_call=2)
  assert len(traces) == 2


def test_seconds_are_those_of_steps_alone():
  """Ten seconds of every score and snapshot do not count; a second of every step does."""
  now, scored = [0.0], []

  def slow(step):
    now[0] += 1.0
    return stream()(step)

  def wait(*_):
    now[0] += 10.0

  hooks = Hooks(on_snapshot=wait, on_score=lambda step, seconds, result: (scored.append((step, seconds)), wait()))
  outcome = run_loop(toy(), slow, key=KEY, steps=6, snapshot_every=3, score_every=2, hooks=hooks, clock=lambda: now[0])
  assert scored == [(2, 1.0), (4, 3.0), (6, 5.0)]  # the batch of the first step was made before it was compiled
  assert outcome.seconds == 5.0 and outcome.step_seconds == 1.0


@pytest.mark.parametrize(
  ("steps", "epochs", "want"), [(1, 401, 58), (21, 41, 62), (64, 3, 64), (390, 10, 56), (5, 2, 10), (3, 0, 1)]
)
def test_suggested_calls_are_about_as_long_as_allowed(steps, epochs, want):
  found = suggest_steps_per_call(steps, epochs)
  assert found == want <= 64
