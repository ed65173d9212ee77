"""The one training loop: any `Method`, any stream, resumable at every step.

Resume order: the newest finished checkpoint of this directory and configuration, else `method.init`. Step `n` always
sees the same key and the stream's row `n`, and one program serves calls of any number of steps, so an interrupted run
and an uninterrupted one compute the same numbers.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jdistill.base import Diverged, Key, Method, PyTree
from jdistill.training import distributed
from jdistill.training.checkpoints import Checkpoints
from jdistill.training.programs import Plan, Programs, build, program_bytes
from jdistill.training.stream import Stream, as_stream, fill_rows

_STREAM = "stream of this state"  # in checkpoints


class Hooks(NamedTuple):
  """What the loop tells the outside; all optional. Steps are updates.

  Attributes:
    on_resume: `(step)` once, with the number of steps already done (0 for a new run), before the first one.
    on_metrics: `(steps done, metrics as floats)` about every `log_every` steps and after the last.
    on_snapshot: `(steps done, result of the method)` every `snapshot_every` steps, at step 0 of a new run and the last.
    on_score: `(steps done, seconds, result of the method)` every `score_every` steps and after the last; `seconds` are
      those of `Outcome.seconds` until then.
    stop: asked after every call of the program; true on any process saves and ends the loop.
  """

  on_resume: Callable[[int], None] = lambda step: None
  on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
  on_snapshot: Callable[[int, PyTree], None] = lambda step, result: None
  on_score: Callable[[int, float, PyTree], None] = lambda step, seconds, result: None
  stop: Callable[[], bool] = lambda: False


class Outcome(NamedTuple):
  """How a loop ended.

  Attributes:
    state: the last state.
    steps: how many steps are done.
    stopped: whether it was stopped before the last one.
    result: what the method makes of the state, with a leading axis of seeds where there are seeds.
    first_step_seconds: from the start to the end of the first call, compilation included; `None` if there was none.
    step_seconds: mean per step of the other calls, with what happened between them; `None` if there was none.
    seconds: of this call in steps, without compilation, scores, snapshots and checkpoints.
    step_bytes: what the compiled call holds on a device: its arguments and the program's scratch memory; `None` where
      no step was run or the compiler does not say.
  """

  state: PyTree
  steps: int
  stopped: bool
  result: PyTree
  first_step_seconds: float | None
  step_seconds: float | None
  seconds: float = 0.0
  step_bytes: int | None = None


class NotFinite(Diverged):
  """A metric or the state became NaN or infinite.

  Attributes:
    step: the first step whose numbers were not finite.
    metric: which number it was.
    kept: the step of the last good state.
    saved: whether that state is in a checkpoint.
  """

  def __init__(self, step: int, metric: str, kept: int, saved: bool):
    self.step, self.metric, self.kept, self.saved = step, metric, kept, saved
    super().__init__(f"{self.finding}; lower the learning rates of config.method or change the seed")

  @property
  def finding(self) -> str:
    """The message without its cure."""
    kept = "" if self.kept == self.step else f" of step {self.kept}"
    return f"step {self.step}: {self.metric} is not finite" + (
      f"; the last good state{kept} is saved" if self.saved else ""
    )


class Every(NamedTuple):
  """How often something happens, in steps; `None` only at the end."""

  log: int = 10
  snapshot: int | None = None
  score: int | None = None


def run_loop(
  method: Method,
  stream: Stream | Callable[[int], PyTree],
  *,
  key: Key,
  steps: int | None,
  steps_per_call: int = 1,
  checkpoints: Checkpoints | None = None,
  checkpoint_seconds: float = 60.0,
  log_every: int = 10,
  snapshot_every: int | None = None,
  score_every: int | None = None,
  hooks: Hooks = Hooks(),  # noqa: B008  (immutable)
  clock: Callable[[], float] = time.monotonic,
  mesh: Mesh | None = None,
  route: str = "shard_map",
  seeds: Sequence[int] | None = None,
  at_once: bool = True,
  pool_mesh: Mesh | None = None,
  guard: bool = True,
) -> Outcome:
  """Runs a method for `steps` updates, or what is left of them.

  The program is compiled once, and not again if the same method (the same object) runs once more on arrays of the same
  shapes. Snapshots and scores are taken at exactly their steps. Metrics are reported at the end of the first call that
  reaches a multiple of `log_every`, so that frequent reports do not make calls short.

  Args:
    method: what to run.
    stream: see `Stream`; or `(step) -> batch`, host arrays of one shape, a function of the step alone.
    key: the root key; every step folds its number into a part of it.
    steps: how many steps the whole run has; `None` where `Stream.done` tells.
    steps_per_call: the most steps that one call of the program runs; see `suggest_steps_per_call`.
    checkpoints: where states go; `None` keeps none.
    checkpoint_seconds: least time between two saves; the last state is always saved.
    log_every: metrics are fetched (and checked) about this often.
    snapshot_every: how often `on_snapshot` is called; `None` only at the ends.
    score_every: how often `on_score` is called; `None` only at the end.
    hooks: what to tell the outside.
    clock: monotonic seconds.
    mesh, route, at_once, pool_mesh, guard: see `jdistill.training.programs.Plan`. Process 0 alone writes checkpoints,
      and the others read them.
    seeds: numbers of runs that go side by side: states, rows and results have an axis of seeds, and seed `s` computes
      what it would alone, with the key `fold_in(key, s)`. `None` for one run without that axis.

  Returns:
    `Outcome`; its state is that of one device.

  Raises:
    NotFinite: a metric or the state became NaN or infinite. The state from before that call has been saved.
  """
  stream = as_stream(stream)
  plan = Plan(steps_per_call, mesh, route, None if seeds is None else len(seeds), at_once, pool_mesh, guard)
  programs, begin = build(method, stream.join, plan), clock()
  shared = programs.place(jax.device_put(stream.shared))
  key_init, key = (_of_seeds(part, seeds) for part in jax.random.split(key))
  state, alive = programs.init(*programs.place((key_init, shared, stream.example())))
  every = Every(log_every, snapshot_every, score_every)
  loop = _Loop(programs, stream, hooks, every, clock, steps, steps_per_call, key, shared, state, alive, begin)
  loop.open(checkpoints, checkpoint_seconds)
  return loop.run()


@dataclasses.dataclass
class _Loop:
  """The state of one `run_loop`."""

  programs: Programs
  stream: Stream
  hooks: Hooks
  every: Every
  clock: Callable[[], float]
  steps: int | None
  most: int  # steps of a call
  key: Key
  shared: PyTree
  state: PyTree
  alive: jax.Array
  begin: float
  done: int = 0
  saved_step: int = 0
  saved_at: float = 0.0
  started: float | None = None  # when the first call began to run, compiled
  paused: float = 0.0  # seconds of scores, snapshots and checkpoints since then
  first: tuple[int, float] | None = None  # (steps, seconds since `started` without pauses) at the end of the first call
  first_seconds: float | None = None
  bytes: int | None = None
  pending: list = dataclasses.field(default_factory=list)

  def open(self, checkpoints: Checkpoints | None, seconds: float) -> None:
    """Goes on from the newest checkpoint, if there is one."""
    self.checkpoints, self.checkpoint_seconds, self.saved_at = checkpoints, seconds, self.clock()
    newest = None if checkpoints is None else distributed.on_first(checkpoints.newest)
    if newest is not None:
      self.done, found = checkpoints.restore(self._kept(self.programs.whole(self.state)), newest)
      if isinstance(found, dict) and found.keys() == {"state", _STREAM}:
        self.stream.restore(jax.tree.map(np.asarray, found[_STREAM]))
        found = found["state"]
      self.state = self.programs.spread(found, self.state)
      self.saved_step = self.done
    self.hooks.on_resume(self.done)
    if self.done == 0:
      self.hooks.on_snapshot(0, self._result())

  def run(self) -> Outcome:
    """All calls."""
    stopped = False
    while not self._over() and not stopped:
      before = self.done
      self._call()
      stopped = distributed.stop_requested(self.hooks.stop())
      over = self._over()
      logs = over or stopped or self.done // self.every.log > before // self.every.log
      if logs:
        self._report()
      # before the save: a run killed between the two draws the snapshot again, where the other order would lose it
      self._look(over)
      if stopped or (logs and self._due()):
        self._save()
    self._save()
    others = 0 if self.first is None else self.done - self.first[0]
    mean = (self._seconds() - self.first[1]) / others if others else None
    stopped = stopped and not self._over()
    state = self.programs.whole(self.state)
    seconds = self._seconds()
    return Outcome(state, self.done, stopped, self._result(), self.first_seconds, mean, seconds, self.bytes)

  def _over(self) -> bool:
    return (self.steps is not None and self.done >= self.steps) or self.stream.done(self.done)

  def _count(self) -> int:
    """How many steps the next call runs: up to the end, the stream's next boundary, or the next snapshot or score."""
    count = min(self.most, self.stream.boundary(self.done))
    if self.steps is not None:
      count = min(count, self.steps - self.done)
    for every in (self.every.snapshot, self.every.score):
      count = min(count, every - self.done % every) if every else count
    return count

  def _call(self) -> None:
    self.stream.prepare(self.done, self.state, self.shared)
    count = self._count()
    rows = fill_rows(self.stream.rows(self.done, count), self.most)
    numbers = (np.int32(self.done), np.int32(count))
    arguments = self.programs.place((self.key, self.state, self.alive, self.shared, rows, *numbers))
    new = self.started is None
    if new:
      self.bytes = program_bytes(self.programs.call, arguments)  # compiles, so that time in steps is without that
      self.started = self.clock()
    self.state, metrics, self.alive = self.programs.call(*arguments)
    self.pending.append((self.done, count, metrics, self.alive))
    self.done += count
    if new:
      jax.block_until_ready(self.state)
      self.first_seconds = self.clock() - self.begin
      self.first = (self.done, self._seconds())

  def _seconds(self) -> float:
    return 0.0 if self.started is None else self.clock() - self.started - self.paused

  @contextlib.contextmanager
  def _pause(self) -> Iterator[None]:
    """Around what is not part of the steps."""
    jax.block_until_ready(self.state)
    begin = self.clock()
    yield
    self.paused += self.clock() - begin

  def _result(self) -> PyTree:
    return self.programs.result(self.programs.whole(self.state))

  def _look(self, over: bool) -> None:
    """Snapshots and scores that are due."""
    snapshot, score = (over or (every and self.done % every == 0) for every in self.every[1:])
    if snapshot or score:
      with self._pause():
        seconds, result = self._seconds(), self._result()
        if snapshot:
          self.hooks.on_snapshot(self.done, result)
        if score:
          self.hooks.on_score(self.done, seconds, result)

  def _kept(self, state: PyTree) -> PyTree:
    """What a checkpoint holds."""
    drawn = self.stream.save(state, self.shared)
    return {"state": state, _STREAM: drawn} if jax.tree.leaves(drawn) else state

  def _due(self) -> bool:
    kept, seconds = self.checkpoints, self.checkpoint_seconds
    return kept is not None and distributed.on_first(lambda: self.clock() - self.saved_at >= seconds)

  def _save(self) -> None:
    if self.checkpoints is None or self.saved_step == self.done:
      return
    with self._pause():
      kept = self._kept(self.programs.whole(self.state))
      distributed.on_first(lambda: self.checkpoints.save(self.done, kept))
    self.saved_step, self.saved_at = self.done, self.clock()

  def _report(self) -> None:
    """Fetches the metrics since the last report and checks them."""
    calls = jax.device_get(self.pending)
    self.pending.clear()
    for first, count, metrics, alive in calls:
      if not alive:
        self.done = first
        step, name = _first_bad(first, count, metrics)
        self._save()
        raise NotFinite(step, name, first, saved=self.checkpoints is not None and first > 0)
    names = calls[0][2] if calls else ()
    means = {name: np.concatenate([metrics[name][:count] for _, count, metrics, _ in calls]) for name in names}
    means = {name: float(np.mean(values, dtype=np.float64)) for name, values in means.items()}
    self.hooks.on_metrics(self.done, means | self.stream.metrics())


def _of_seeds(key: Key, seeds: Sequence[int] | None) -> Key:
  if seeds is None:
    return key
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(seeds, jnp.uint32))


def _first_bad(first: int, count: int, metrics: Mapping[str, np.ndarray]) -> tuple[int, str]:
  """The first step whose metrics are not finite and the name of one of them; the last one's state if all are."""
  for i in range(count):
    for name, values in metrics.items():
      if not np.isfinite(values[i]):
        return first + i, name
  return first + count - 1, "the updated state"
