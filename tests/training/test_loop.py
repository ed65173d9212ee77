"""The loop: resume, stop, hooks at the right steps, and what happens to numbers that are not finite."""

import functools
import itertools

import jax
import numpy as np
import pytest
import toy_method
from toy_method import KEY, host, stream, toy

from jdistill.base import UserError
from jdistill.training import Checkpoints, Hooks, run_loop
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
