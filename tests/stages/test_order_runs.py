"""Stage `orders`: what it keeps replays in a plain loop, arms share what was drawn, and mistakes are refused early."""

import io
import json

import jax
import numpy as np
import pytest
from tiny_experiments import tiny

from jdistill import models, run, stages
from jdistill.base import UserError
from jdistill.files import read_npz

RATE = 0.005
SMALL = {
  "dataset": "digits", "preprocessing": "standardize", "train_size": 60, "test_size": 30, "validation_size": 20,
  "task": {"name": "supervised"}, "model": {"name": "mlp", "widths": (4,), "act": "softplus"}, "seeds": 2,
}  # fmt: skip


def experiment(name="fut", **changes):
  config = tiny(name, **SMALL)
  config.orders.update({"optimizer": "sgd", "lr": RATE})
  for key, value in changes.items():
    section, _, option = key.partition("__")
    if option:
      config[section][option] = value
    else:
      config[section] = value
  return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A whole run of two arms and two seeds."""
  place = tmp_path_factory.mktemp("orders")
  log = io.StringIO()
  summary = run.run_experiment(experiment(), place / "work", stream=log)
  return summary, place / "work", log.getvalue()


def test_what_was_drawn_is_stored_and_replays_in_a_plain_loop(finished):
  _, workdir, _ = finished
  one = run.make_run(experiment(), workdir, stream=io.StringIO())
  arm = one.config["arms"]["fut"]
  files = sorted((workdir / "orders").glob("*.npz"))
  assert len(files) == 2  # one for each seed, for both arms
  task = one.task()
  network = one.network(arm["model"], task)
  flat = models.flatten(network)
  told = [read_npz(file) for file in files]
  seed = next(s for s in range(2) if np.array_equal(told[0]["compared"], drawn(one, arm, s)))
  stored = told[0]
  key = jax.random.fold_in(one.key("orders"), seed)
  theta = np.asarray(flat.ravel(network.init(key).params))
  velocity = np.zeros(len(theta))
  position = {int(name): i for i, name in enumerate(task.data.ids)}

  def loss(theta, x, y):
    log_probs = jax.nn.log_softmax(flat.apply(theta, x).logits)
    return -log_probs[np.arange(len(y)), y].mean()

  gradient = jax.jit(jax.grad(loss))
  for batch in stored["compared"][1]:
    rows = [position[int(name)] for name in stored["ids"][batch]]
    velocity = 0.9 * velocity + np.asarray(gradient(theta, task.data.x[rows], task.data.y[rows]), np.float64)
    theta = (theta - RATE * velocity).astype(np.float32)
  np.testing.assert_allclose(stored["theta"][1], theta, rtol=1e-4, atol=1e-5)
  assert float(loss(theta, task.test.x, task.test.y)) == pytest.approx(float(stored["test"][1]), rel=1e-4)


def drawn(one, arm, seed):
  """The orders that a seed compares, drawn by hand."""
  rng = np.random.default_rng((one.config["seed"], seed, 73))
  return np.stack([rng.permutation(arm["orders"]["batches"]) for _ in range(arm["orders"]["compared"])])


def test_arms_are_compared_on_the_same_orders(finished):
  summary, workdir, log = finished
  assert summary["metric"] == "r" and set(summary["arms"]) == {"fut", "zeroth"} and not summary["failed"]
  for name in ("random_mean", "true_search", "easy_to_hard", "constant_error"):
    assert summary["arms"]["fut"]["scores"][name] == summary["arms"]["zeroth"]["scores"][name]
  fut, zeroth = (summary["arms"][label]["scores"] for label in ("fut", "zeroth"))
  assert np.mean(fut["relative_error"]) < 0.7 * np.mean(zeroth["relative_error"]) and min(fut["r"]) > 0.95
  assert all(sorted(order) == list(range(5)) for order in summary["arms"]["fut"]["orders"])
  assert "the order of the search less the mean random order" in log
  assert (workdir / "curves" / "orders.png").exists() and (workdir / "curves" / "positions.png").exists()
  report = (workdir / "report.md").read_text()
  assert "## Curricula" in report and "## Cost" in report


def test_scores_are_those_of_numpy(finished):
  summary, workdir, _ = finished
  cells = json.loads((workdir / "stages" / "estimates.json").read_text())
  cell = (cells.get("content") or cells)["fut"]
  true, guessed = (np.array(cell["figures"]["curves"][0][name]) for name in ("true", "guessed"))
  assert cell["scores"]["r"][0] == pytest.approx(np.corrcoef(true, guessed)[0, 1], rel=1e-9)
  assert cell["scores"]["error"][0] == pytest.approx(np.abs(true - guessed).mean(), rel=1e-9)
  ranks = [np.argsort(np.argsort(one)) for one in (true, guessed)]
  assert cell["scores"]["spearman"][0] == pytest.approx(np.corrcoef(*ranks)[0, 1], rel=1e-9)
  assert summary["arms"]["fut"]["scores"]["gain"][0] == pytest.approx(
    true.mean() - cell["scores"]["found"][0], rel=1e-6
  )


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_gives_the_same(finished, tmp_path):
  whole, _, _ = finished
  one = run.make_run(experiment(), tmp_path / "parts", stream=io.StringIO())
  asked = iter([False] * 3 + [True] * 100)
  one.stops = lambda: next(asked)
  with pytest.raises(stages.Interrupted):
    stages.run_stages(one)
  again = run.run_experiment(experiment(), tmp_path / "parts", stream=io.StringIO())
  for label in ("fut", "zeroth"):
    assert again["arms"][label]["scores"] == whole["arms"][label]["scores"]


REFUSED = {
  "too few examples": (
    {"orders__batches": 40},
    r"orders\.batches=40: with orders\.batch_size=4 these are 160 examples",
  ),
  "too much to keep": (
    {"orders__memory": "10 kB"},
    r"fut: orders\.memory='10 kB': a reference of 5 batches and [\d,]+ parameters takes \d+.*; raise it, lower",
  ),
  "no amount of memory": ({"orders__memory": "much"}, r"orders\.memory='much': .*no number of bytes"),
  "stored and exact": (
    {"method__stored": True},
    r"method\.hessian='jvp': stored gradients cannot be differentiated; choose 'secant', or stored=False",
  ),
  "mixtures of nothing": ({"method__mixtures": 3}, r"method\.mixtures=3: without stored=True no gradients are kept"),
  "batch norm": ({"model": {"name": "convnet_bn"}}, r"model\.name='convnet_bn': batch norm depends on more than"),
  "two orders": ({"orders__compared": 2}, r"orders\.compared=2: must be at least 3"),
  "an expansion of third order": ({"method__expansion": 3}, r"method\.expansion=3: must be at most 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_refused_before_anything_is_written(case, tmp_path):
  changes, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as caught:
    run.run_experiment(experiment(**changes), tmp_path / "work", stream=io.StringIO())
  assert "\n" not in str(caught.value) and not (tmp_path / "work").exists()


def test_a_plan_tells_what_is_kept_and_what_an_order_costs(tmp_path):
  config = experiment()
  config.arms.zeroth = {"method/expansion": 0, "method/stored": True}
  one = run.make_run(config, tmp_path / "work", stream=io.StringIO())
  (fut, zeroth) = stages.STAGES["orders"].plan(one)
  assert fut[0].startswith("fut: 2 x a reference of 5 updates, mlp (") and "an estimate" in fut[1]
  assert "0 FLOP an estimate" in zeroth[1] or "0.0 FLOP an estimate" in zeroth[1]


def test_a_training_that_diverges_says_so(tmp_path):
  config = experiment(seeds=1)
  config.orders.optimizer, config.orders.lr = "adam", 1e38
  log = io.StringIO()
  summary = run.run_experiment(config, tmp_path / "work", stream=log)
  assert summary["failed"] == ["fut", "zeroth"]
  assert "a real training of seed 0 is not finite any more; lower orders.lr=1e+38" in log.getvalue()
