"""The label projector of a run: fitted once, its own labels, what it is refused for, and weak teachers on the way."""

import io

import jax
import numpy as np
import pytest
from tiny_experiments import tiny

from jdistill import run
from jdistill.base import UserError
from jdistill.data import preprocess
from jdistill.files import read_npz, write_npz
from jdistill.jobs import networks, train
from jdistill.models import predict
from jdistill.ops import lora as lora_lib
from jdistill.ops.lora import LowRank
from jdistill.stages import encoder, labels, project, teachers
from jdistill.stages.encoder import adapted

pytestmark = pytest.mark.usefixtures("compiled_once")


def plain(**changes):
  """The tiny experiment over MLPs, which compile in no time."""
  config = tiny("hello", **changes)
  for section in ("teacher", "model", "encoder"):
    config[section] = {"name": "mlp", "widths": (8,)}
  config.eval.models = ("mlp",)
  return config


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A run whose projector is there, with what it said. Not to be written to."""
  path, said = tmp_path_factory.mktemp("hello"), io.StringIO()
  summary = run.run_experiment(plain(eval__sets=("distilled",)), path / "work", stream=said)
  return path, said.getvalue(), summary


def again(done, tmp_path, **changes):
  """Another run with the artefacts of the first."""
  one = run.make_run(plain(**changes), tmp_path / "work", stream=io.StringIO())
  one.artefacts = done[0] / "artefacts"
  return one


def test_a_run_with_a_projector(done):
  path, said, summary = done
  own, arms = summary["projector"], summary["arms"]
  assert own["parameters"] * 4 == own["bytes"] and f"project: {own['parameters']:,} numbers" in said
  assert arms["distilled"]["label_bytes"] == own["bytes"] + 40  # and ten classes
  report = (path / "work" / "report.md").read_text()
  assert "beside a public mlp of task rotations" in report and "which is not counted" in report
  assert "a label projector is asked about what students see" in said


def test_the_store_is_all_that_has_to_be_kept(done, tmp_path):
  """The factors in the run's own file, put on the public network, give the fitted projector's logits."""
  one = again(done, tmp_path)
  fitted, x = project.ready(one), one.task().test.x
  stored = labels.projector.load(done[0] / "work" / "stages" / "records.npz")
  assert stored.nbytes == fitted.labels.nbytes and stored.projector == project.digest(one)
  same = project.with_labels(one, stored)
  want = predict(fitted.network, fitted.variables, x)
  np.testing.assert_array_equal(predict(same.network, same.variables, x), want)
  body = encoder.ready(one).body
  whole = lora_lib.apply_lora(project.projector.with_head(body, stored.factors["head/kernel"]).params, stored.factors)
  network = encoder.network(one)
  np.testing.assert_allclose(predict(network, body._replace(params=whole), x), want, rtol=1e-4, atol=1e-4)


def test_an_untrained_projector_is_the_zero_shot_classifier(done, tmp_path, monkeypatch):
  """Before the first update the logits are `scale <v(x), w_c>`, with the means of embeddings for prototypes."""
  one = again(done, tmp_path, projector__scale=3.0, projector__head="low_rank", projector__head_rank=2)
  seen = {}
  monkeypatch.setattr(train, "run", lambda run, job, *args, **options: seen.update(job=job) or pytest.skip.Exception)
  with pytest.raises(TypeError):
    project.ready(one)
  job, own = seen["job"], encoder.ready(one)
  start = jax.tree.map(lambda leaf: leaf[0], job.start)
  task = one.task()
  embed = lambda x: np.asarray(own.network.apply(own.body.params, x, stats=own.body.stats).embedding, np.float64)  # noqa: E731
  means = np.stack([embed(task.teacher.x)[task.teacher.y == c].mean(0) for c in range(10)])
  want = 3 * embed(task.test.x) @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
  np.testing.assert_allclose(predict(job.network, start, task.test.x), want, rtol=1e-3, atol=1e-3)


def test_what_is_learned_by_option(done, tmp_path):
  """Factors, their bytes, and the head that cannot be made of names, for each part of the network."""
  low_rank = {"projector__head": "low_rank", "projector__head_rank": 3}
  fitted = project.ready(again(done, tmp_path, **low_rank))
  assert set(fitted.labels.factors) == {"dense0/kernel", "head/kernel"} and fitted.labels.head.shape == (8, 10)
  assert fitted.labels.nbytes == 4 * (2 * (64 + 8) + 3 * (8 + 10) + 8 * 10)
  assert isinstance(fitted.labels.factors["head/kernel"], LowRank)
  for changes, count in (({}, 144 + 80), ({"projector__encoder": "frozen"}, 80), (low_rank, 144 + 54)):
    assert project.size(again(done, tmp_path, **changes)) == count
  other = again(done, tmp_path, projector__backbone="random")
  assert encoder.ready(other).name == "mlp with random weights"
  leaves = (jax.tree.leaves(encoder.ready(one).body.params["dense0"]) for one in (other, again(done, tmp_path)))
  assert all((np.asarray(a) != np.asarray(b)).any() for a, b in zip(*leaves, strict=True))


def test_what_determines_a_projector_names_it(done, tmp_path):
  own = project.digest(again(done, tmp_path))
  differs = ("encoder__widths", (9,)), ("projector__encoder_rank", 1), ("teachers__weak", (2,)), ("relabel__flip", True)
  for name, value in (*differs, ("encoder_train__epochs", 3), ("projector_train__lr", 0.1)):
    config = plain()
    section, _, key = name.partition("__")
    config[section][key] = value
    assert project.digest(run.make_run(config, tmp_path / "work", stream=io.StringIO())) != own, name
  for name, value in (("model__widths", (9,)), ("relabel__lr", 0.1), ("method__mipc", 11)):
    config = plain()
    section, _, key = name.partition("__")
    config[section][key] = value
    assert project.digest(run.make_run(config, tmp_path / "work", stream=io.StringIO())) == own, name


def test_the_encoder_does_not_start_where_the_teacher_does(done, tmp_path):
  one = again(done, tmp_path)
  assert encoder.spec(one).key != networks.specs(one)[0].key


# -- weak teachers ----------------------------------------------------------------------------------------------------


def test_weak_teachers_are_those_of_the_same_training(done, tmp_path):
  one = again(done, tmp_path)
  weak, own = networks.weak(one), networks.own(one)
  assert len(weak.networks) == 2 and len(own.networks) == 1 and weak.hash != own.hash
  logits = networks.logits(weak, one.task().validation.x)
  scores = (logits.argmax(-1) == one.task().validation.y).mean(1)
  assert scores[0] > 0.2 and (logits[0] != logits[1]).any()
  assert project.taught_by(one).hash == weak.hash
  config = plain()
  config.teachers.weak = (8,)  # the last epoch
  last = run.make_run(config, tmp_path / "last", stream=io.StringIO())
  same = teachers.weak(last)
  jax.tree.map(np.testing.assert_array_equal, same.variables[0], teachers.first(last).variables[0])


def test_weak_teachers_that_are_lost_are_made_again(tmp_path):
  """Their training begins anew where what it left on the way is gone, and gives the same networks."""
  config = plain()
  one = run.make_run(config, tmp_path / "work", stream=io.StringIO())
  first = teachers.weak(one)
  spec = networks.specs(one)[0]
  for file in networks.directory(one, spec).glob("*.npz"):
    file.unlink()
  for file in (tmp_path / "work" / "checkpoints").glob("weak_*/*.npz"):
    file.unlink()
  second = teachers.weak(run.make_run(config, tmp_path / "work", stream=io.StringIO()))
  jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


# -- a network with weights of a file ---------------------------------------------------------------------------------


def test_inputs_as_another_network_was_trained_with(x64):
  pixels = np.random.default_rng(0).uniform(size=(2, 4, 4, 1))
  own = preprocess.fit("standardize", pixels.astype(np.float32))
  x = preprocess.transform(own, pixels)
  got = np.asarray(adapted(own, "half", (4, 4, 3))(jax.numpy.asarray(x)))
  np.testing.assert_allclose(got, np.repeat(2 * pixels - 1, 3, -1), rtol=1e-4, atol=1e-5)
  large = np.asarray(adapted(own, "half", (8, 8, 3))(jax.numpy.asarray(x)))
  assert large.shape == (2, 8, 8, 3)
  np.testing.assert_allclose(large[:, 0, 0], got[:, 0, 0], rtol=1e-4, atol=1e-5)


def refused(tmp_path, **changes):
  """The line of a run that must not begin."""
  with pytest.raises(UserError) as error:
    run.run_experiment(plain(**changes), tmp_path / "work", stream=io.StringIO())
  assert not (tmp_path / "work").exists() and "\n" not in str(error.value)
  return str(error.value)


def names_of(path, count, width=8):
  write_npz(path, {"names": np.array([str(n) for n in range(count)]), "prompts": np.ones((count, width), np.float32)})
  return str(path)


def test_what_is_refused_before_work_starts(tmp_path):
  cases = (
    ({"projector__encoder_rank": 9}, "projector.encoder_rank=9: dense0/kernel maps 64 numbers to 8"),
    ({"projector__encoder_rank": 0}, "projector.encoder_rank=0: must be at least 1"),
    ({"projector__head": "low_rank"}, "projector.head_rank=64: head/kernel maps 8 numbers to 10"),
    ({"projector__prototypes": names_of(tmp_path / "a.npz", 9)}, "9 names and 9 embeddings for 10 classes"),
    ({"projector__prototypes": names_of(tmp_path / "b.npz", 10, 7)}, "embeddings have 8 numbers and the prototypes 7"),
    ({"projector__prototypes": "nowhere.npz"}, "nowhere.npz"),
    ({"projector__side": 16}, "projector.side=16: is for an encoder with projector.weights"),
    (
      {"projector__weights": "a.pth"},
      "mlp with its statistics is for images of 224 x 224 pixels, and these have 8 x 8",
    ),
    ({"projector__weights": "a.pth", "projector__side": 8}, "projector.weights='a.pth': no such file"),
    ({"relabel__teachers": "weak", "teachers__weak": ()}, "relabel.teachers='weak': there are none"),
    ({"teachers__weak": (2, 9)}, "teachers.weak=(2, 9): must be rising numbers of epochs in 1..8"),
    ({"teachers__weak": (4, 2)}, "teachers.weak=(4, 2): must be rising"),
    ({"relabel__teacher_mode": "train"}, "a projector's statistics are frozen"),
    ({"relabel__recorded": 1}, "relabel.recorded=1: store='projector' records no epochs"),
    ({"relabel__store": "float16", "relabel__recorded": 3}, "relabel.recorded=3: more than the 2 epochs"),
    ({"relabel__store": "dbr"}, "relabel.loss='mse': store='dbr' has a loss of its own"),
    ({"method__factor": 1}, "method.image_steps=2: with factor=1 patches are not made smaller"),
  )
  for changes, words in cases:
    assert words in refused(tmp_path, **changes), changes


def test_other_methods_fit_no_projector(tmp_path):
  config = tiny("rded", relabel__store="projector")
  with pytest.raises(UserError, match=r"relabel\.store='projector': rded fits no projector; take method hello"):
    run.make_run(config, tmp_path / "work", stream=io.StringIO())


def test_few_recorded_epochs_serve_a_long_training(done, tmp_path):
  """At a tenth of the bytes or so; the batches of the first epoch come again after the last one."""
  one = again(done, tmp_path, relabel__store="float16", relabel__recorded=1, relabel__epochs=3)
  c, own = one.config["relabel"], read_npz(done[0] / "work" / "stages" / "distilled.npz")
  stored = labels.record(one, c, own["images"], own["labels"], one.key("relabel"))
  assert stored.epochs == 1
  found = labels.ready(one, c, labels.examples_with(own["images"], own["labels"]), stored)
  policy = found.policy(10, 10)
  blocks = [policy.next(jax.random.key(n), (), jax.numpy.int32(n), None)[0] for n in range(3)]
  np.testing.assert_array_equal(blocks[0].index, blocks[2].index)
  assert np.asarray(blocks[2].weight).all()
  steps = len(stored.index)
  records = [found.targets.replay(found.targets.arrays, jax.numpy.int32(n)) for n in (0, steps)]
  jax.tree.map(np.testing.assert_array_equal, *records)
