"""Stage `transfer`: images in another size, new heads on trained bodies, whole runs, and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdistill
from experiments import krr_st
from jdistill import models, stages
from jdistill.base import UserError
from jdistill.data.resize import resized
from jdistill.evaluation import FEATURES, Pretrained, Protocol, examples_of, linear_network, train_seeds
from jdistill.files import read_json
from jdistill.run import run_experiment

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(4, 5, 1), (7, 6, 1), (16, 9, 1)])
def test_resizing_is_that_of_jax(shape):
  x = np.float32(RNG.uniform(size=(3, 7, 6, 1)))
  want = jax.image.resize(jnp.asarray(x), (3, *shape), "linear", antialias=True)
  np.testing.assert_allclose(resized(x, shape), want, rtol=1e-5, atol=1e-6)


def test_channels_are_repeated_or_averaged():
  grey, colour = np.float32(RNG.uniform(size=(2, 3, 3, 1))), np.float32(RNG.uniform(size=(2, 3, 3, 3)))
  np.testing.assert_array_equal(resized(grey, (3, 3, 3)), np.concatenate([grey] * 3, -1))
  np.testing.assert_allclose(resized(colour, (3, 3, 1)), colour.mean(-1, keepdims=True))
  with pytest.raises(UserError, match="images have 3 channels and 2 are needed"):
    resized(colour, (3, 3, 2))


def test_a_trained_body_gets_a_new_head():
  own, wider = (models.build("mlp", num_classes=n, image_shape=(2, 2, 1), widths=(5,)) for n in (3, 4))
  head = models.head_mask(own, wider)
  body, fresh = (own.init(jax.random.key(seed)) for seed in (0, 1))
  found = models.with_head_of(body, fresh, head)
  x = jnp.float32(RNG.normal(size=(2, 2, 2, 1)))
  np.testing.assert_array_equal(own.apply(found.params, x).embedding, own.apply(body.params, x).embedding)
  np.testing.assert_array_equal(found.params["head"]["kernel"], fresh.params["head"]["kernel"])
  with pytest.raises(UserError, match="none of its parameters depends"):
    models.head_mask(own, own)


def test_training_on_feature_targets_is_gradient_descent_on_their_mean_squared_error():
  """A linear network from zeros: all examples in every step, at one rate, with momentum and decay, by NumPy."""
  x, targets = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=(6, 3)).astype(np.float32)
  rules = Protocol(epochs=7, batch_size=6, momentum=0.5, weight_decay=0.1, loss=FEATURES)
  examples = examples_of(x, targets, loss=FEATURES)
  found = train_seeds(linear_network(4, 3), rules, examples, 0.3, key=jax.random.key(0), seeds=1)
  weights, velocity = np.zeros((5, 3)), np.zeros((5, 3))
  rows = np.concatenate([x, np.ones((6, 1))], 1)
  for _ in range(7):
    velocity = 0.5 * velocity + 2 * rows.T @ (rows @ weights - targets) / targets.size + 0.1 * weights
    weights = weights - 0.3 * velocity
  np.testing.assert_allclose(found.params["kernel"][0], weights[:4], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found.params["bias"][0], weights[4], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A tiny run with two data sets, one of them a file of larger images in colour."""
  folder = tmp_path_factory.mktemp("transfer")
  y = np.arange(60) % 3
  x = np.uint8(RNG.integers(0, 60, (60, 12, 12, 3)) + 80 * y[:, None, None, None])
  np.savez(folder / "grey.npz", train_images=x, train_labels=y, test_images=x[:30], test_labels=y[:30])
  config = krr_st.get_config("tiny")
  config.transfer.update({"targets": ("digits", str(folder / "grey.npz")), "train_size": None, "test_size": None})
  config.transfer.sets = ("distilled", "random", "target_model")
  config.probe.epochs = 20
  summary = run_experiment(config, folder / "run", artefacts=folder / "artefacts")
  return config, summary, folder


def test_a_run_judges_every_set_on_every_data_set(finished):
  _, summary, folder = finished
  assert set(summary["arms"]) == {"distilled", "random", "target_model"} and summary["reference"] == "random"
  for cell in summary["arms"].values():
    scores = cell["scores"]
    assert set(scores) == {"accuracy", "digits", "grey"} and len(scores["accuracy"]) == 2
    np.testing.assert_allclose(scores["accuracy"], np.mean([scores["digits"], scores["grey"]], 0))
    assert min(scores["grey"]) > 0.9  # three shades
  teacher = read_json(folder / "run" / "summary.json")["teachers"][0]
  assert teacher["scores"][0]["accuracy"] > 0.5  # of a linear probe; its head knows nothing


def test_the_set_pre_trains_networks_elsewhere(finished):
  config, _, folder = finished
  found = jdistill.load(folder / "run")
  assert found.labels.shape == (10, 16) and found.class_names == () and "feature targets" in repr(found)
  (own,) = found.pretrain(epochs=3)
  assert isinstance(own, Pretrained)
  assert own.features(np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, *config.model.widths)
  with pytest.raises(UserError, match=r"trains no classifier; use pretrain\(\)"):
    found.evaluate()
  text = (folder / "run" / "result" / "README.md").read_text()
  assert "pretrain()" in text and "head of 16 outputs" in text


def test_a_new_run_uses_the_stored_target_model_and_fine_tunes(finished):
  config, _, folder = finished
  again = config.copy_and_resolve_references()
  again.transfer.update({"by": "finetune", "sets": None, "seeds": 1, "targets": ("digits",)})
  again.stages = tuple(name for name in again.stages if name != "teachers")
  summary = run_experiment(again, folder / "fine", artefacts=folder / "artefacts")
  assert set(summary["arms"]) == {"distilled", "random", "kmeans", "scratch"}
  assert all(0 <= cell["scores"]["digits"][0] <= 1 for cell in summary["arms"].values())


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"targets": ()}, r"transfer\.targets: empty; name data sets"),
    ({"targets": ("digits", "other/digits.npz")}, "two of them have one name in tables"),
    ({"sets": ("distilled", "randon")}, r"transfer\.sets: there is no 'randon'; did you mean 'random'"),
    ({"sets": ("random",)}, "must contain 'distilled'"),
    ({"models": ("mlp", "mlp")}, "names one of them twice"),
    ({"by": "probes"}, r"transfer\.by='probes'"),
  ],
)
def test_mistakes_in_the_section(change, message):
  config = krr_st.get_config("tiny")
  config.transfer.update(change)
  with pytest.raises(UserError, match=message) as caught:
    stages.resolve(config)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"transfer.targets": ("nothing.npz",)}, r"transfer\.targets: nothing\.npz: dataset='nothing\.npz': there is no"),
    ({"method.batch_real": 1000}, r"method\.batch_real=1000: larger than the 160 real images"),
    ({"ipc": 20}, r"ipc=20"),
    ({"teacher_method.name": "kd"}, "learns from a teacher itself"),
  ],
)
def test_mistakes_are_found_before_anything_is_written(change, message, tmp_path):
  config = krr_st.get_config("tiny")
  if "teacher_method.name" in change:
    config.teacher_method = {"name": "kd"}
    change = {}
  config.update_from_flattened_dict(change)
  with pytest.raises(UserError, match=message):
    run_experiment(config, tmp_path / "run", artefacts=tmp_path / "artefacts")
  assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.npz"))
