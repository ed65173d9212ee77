"""Jobs of the stages: metrics, curves, resume, seeds one by one, and messages."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.augment import identity
from jdistill.base import Batch, Block, DataPolicy, Network, Outputs, UserError, Variables
from jdistill.jobs import train
from jdistill.methods.knowledge import logits
from jdistill.reporting import read_jsonl
from jdistill.teachers.frozen import committee
from jdistill.training import parallel

KEY, N, FEATURES, CLASSES = jax.random.key(1), 12, 4, 3
RNG = np.random.default_rng(0)
W = RNG.normal(size=(FEATURES, CLASSES)).astype(np.float32)
X = RNG.normal(size=(N, FEATURES)).astype(np.float32)
DATA = Batch(X, (X @ W).argmax(-1).astype(np.int32), np.arange(N, dtype=np.int32))
TRAIN = {
  "epochs": 4, "batch_size": 4, "optimizer": "sgd", "lr": 0.2, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0,
  "decay_all": True, "clip": None, "schedule": "cosine", "warmup_epochs": 0.0, "milestones": (), "factor": 0.1,
  "restart": (), "final_lr": 0.0, "ema_decay": None, "precision": "float32", "augment": "none", "rho": 0.0,
  "alpha": 0.3, "adaptive": True,
}  # fmt: skip


def apply(params, x, *, train=False, rngs=None, stats=None, sites=None):
  return Outputs(x @ params, x, stats={})


NETWORK = Network(lambda key: Variables(jax.random.normal(key, (FEATURES, CLASSES))), apply)


class Stop(Exception):
  pass


class Run:
  """What the training needs of a run."""

  hash, stream, log = "abc", None, print

  def __init__(self, workdir, stop=None, pool=None):
    self.workdir, self.config, self.pool = workdir, {"log_every": 1, "checkpoint_seconds": 1e9}, pool
    self.stream, self.asked, self.stop = types.SimpleNamespace(write=len, flush=bool, isatty=bool), 0, stop

  @property
  def stop_requested(self):
    self.asked += 1
    return self.asked == self.stop

  def mesh(self, axis, wanted=1):
    return self.pool if axis == "pool" else None

  def augmentation(self, name):
    return identity()

  def interrupt(self, stage, begin, what):
    raise Stop(what)


@functools.cache
def looking():
  def draw(key, state, epoch, look):
    index = jnp.argsort(look.student(jnp.arange(N)).max(-1)).astype(jnp.int32).reshape(3, 4)
    weight = jnp.repeat(jnp.float32([1, 0, 1]), 4).reshape(3, 4)
    return Block(index, weight), state

  return DataPolicy(lambda key: (), draw, 3, looks=True)


def job(seeds=(0, 1), **options):
  members = np.tile(np.arange(N), (len(seeds), 1))
  return train.Job("arm", NETWORK, logits.ce(), TRAIN, DATA, members, list(seeds))._replace(**options)


def train_it(tmp_path, one, *, stop=None, pool=None, directory=True, **options):
  run = Run(tmp_path, stop, pool)
  return train.run(run, one, KEY, tmp_path / "checkpoints" / "a" if directory else None, stage="students", **options)


def weights(trained):
  return trained.variables["student"].params


def test_a_job_learns_and_reports(tmp_path):
  one = job(score=lambda predict, seed: {"accuracy": float((predict(X).argmax(-1) == DATA.y).mean())}, score_every=5)
  epochs = []
  trained, figures = train_it(tmp_path, one, on_epoch=lambda epoch, found: epochs.append((epoch, weights(found))))
  assert weights(trained).shape == (2, FEATURES, CLASSES) and figures["steps"] == 12
  assert [epoch for epoch, _ in epochs] == [0, 1, 2, 3, 4]
  np.testing.assert_array_equal(epochs[-1][1], weights(trained))
  assert [row["step"] for row in figures["curve"]] == [5, 10, 12]
  assert all(len(row["scores"]) == 2 and row["seconds"] >= 0 for row in figures["curve"])
  first, last = figures["curve"][0]["seconds"], figures["curve"][-1]["seconds"]
  assert first < last
  assert figures["parameters"] == FEATURES * CLASSES and figures["extra_parameters"] == 0
  rows = read_jsonl(tmp_path / "metrics" / "a.jsonl", "students/arm")
  assert rows[-1]["loss/ce"] == figures["last"]["loss/ce"] < rows[0]["loss/ce"]
  found = train.predictions(one, trained, 1)(X)
  np.testing.assert_allclose(found, X @ weights(trained)[1], rtol=1e-5)
  alone, _ = train_it(tmp_path, job((1,)), directory=False)
  np.testing.assert_allclose(weights(alone)[0], weights(trained)[1], rtol=1e-5)


def test_milestones_and_restarts_of_a_training_section(tmp_path):
  """At epoch 2 the rate is halved and the velocity starts again; every step sees the whole data."""
  dropped = {"schedule": "step", "milestones": (2,), "factor": 0.5, "restart": (2,), "batch_size": N}
  start = Variables(np.zeros((1, FEATURES, CLASSES), np.float32))
  found, one = {}, job((0,), train=TRAIN | dropped, start=start)
  train_it(tmp_path, one, directory=False, on_epoch=lambda epoch, made: found.setdefault(epoch, weights(made)[0]))
  want, velocity = np.zeros((FEATURES, CLASSES)), np.zeros((FEATURES, CLASSES))
  for epoch in range(4):
    odds = np.exp(X @ want)
    gradient = X.T @ (odds / odds.sum(-1, keepdims=True) - np.eye(CLASSES)[DATA.y]) / N
    velocity = gradient if epoch == 2 else 0.9 * velocity + gradient
    want = want - (0.1 if epoch >= 2 else 0.2) * velocity
    np.testing.assert_allclose(found[epoch + 1], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", [None, lambda size, batch: looking()], ids=["shuffle", "looking"])
def test_an_interrupted_job_goes_on_to_the_bit(tmp_path, policy):
  score = lambda predict, seed: {"mean": float(predict(X).mean())}  # noqa: E731
  one = job(policy=policy, score=score, score_every=3)
  whole, figures = train_it(tmp_path / "whole", one)
  for _ in range(40):
    try:
      found, again = train_it(tmp_path / "parts", one, stop=1)
      break
    except Stop as stopped:
      assert "is saved" in str(stopped)
  np.testing.assert_array_equal(weights(found), weights(whole))
  assert [(row["step"], row["scores"]) for row in again["curve"]] == [
    (row["step"], row["scores"]) for row in figures["curve"]
  ]
  seconds = [row["seconds"] for row in again["curve"]]
  assert len(seconds) > 2 and seconds == sorted(seconds) and all(len(row["scores"]) == 2 for row in again["curve"])


def test_a_policy_that_looks_serves_every_seed_by_itself(tmp_path):
  trained, figures = train_it(tmp_path, job(policy=lambda size, batch: looking()))
  assert weights(trained).shape == (2, FEATURES, CLASSES) and figures["steps"] == 8  # a step of each epoch is empty
  alone, _ = train_it(tmp_path, job((1,), policy=lambda size, batch: looking()), directory=False)
  np.testing.assert_array_equal(weights(alone)[0], weights(trained)[1])


def test_teachers_options_and_starts_reach_the_student(tmp_path):
  teacher = committee([NETWORK], [Variables(jnp.asarray(3 * W))])
  start = Variables(np.stack([np.zeros_like(W), W]))
  recipe = logits.kd(temperature=2.0, ce_weight=0.5, kd_weight=0.0)
  one = job(
    recipe=recipe,
    targets=teacher,
    start=start,
    options={"kd_weight": 1.0},
    rebuild=lambda o: logits.kd(temperature=2.0, ce_weight=0.5, kd_weight=o["kd_weight"]),
  )
  begun = {}
  trained, _ = train_it(tmp_path, one, on_epoch=lambda epoch, found: begun.setdefault(epoch, weights(found)))
  np.testing.assert_array_equal(begun[0], start.params)
  fixed = one._replace(recipe=recipe._replace(terms=one.rebuild({"kd_weight": 1.0}).terms), options={}, rebuild=None)
  want, _ = train_it(tmp_path / "fixed", fixed)
  np.testing.assert_allclose(weights(trained), weights(want), rtol=1e-5, atol=1e-6)


def test_seeds_on_devices_of_their_own_are_the_same(tmp_path):
  plain, _ = train_it(tmp_path / "one", job((0, 1, 2)))
  spread, figures = train_it(tmp_path / "two", job((0, 1, 2)), pool=parallel.make_mesh(pool=2))
  np.testing.assert_allclose(weights(spread), weights(plain), rtol=1e-5, atol=1e-6)
  assert figures["parameters"] == FEATURES * CLASSES


def test_messages_name_the_arm_and_the_key(tmp_path):
  steep = TRAIN | {"lr": 3e38, "schedule": "constant"}
  with pytest.raises(UserError, match=r"arm: step \d+: .* is not finite.*; lower start_train.lr"):
    train_it(tmp_path, job(train=steep, section="start_train"))
  empty = looking()._replace(
    next=lambda key, state, epoch, look: (Block(jnp.zeros((3, 4), jnp.int32), jnp.zeros((3, 4))), state), hint="do this"
  )
  with pytest.raises(UserError, match="arm: epoch 0: no example was selected; do this"):
    train_it(tmp_path / "b", job(policy=lambda size, batch: empty))
