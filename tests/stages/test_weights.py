"""Teachers that begin with the weights of a file: read, kept as they are, given a new head, refused."""

import io
import json
import struct

import jax
import numpy as np
import pytest
from knowledge_runs import ARMS, experiment

from experiments import common, edm
from jdistill import models, run, stages
from jdistill.base import UserError
from jdistill.diffusion import Noisy
from jdistill.jobs import networks
from jdistill.models import weights as names

TEACHER = {"name": "vit", "patch": 4, "dim": 4, "depth": 1, "heads": 1}
ONE = {"ce": ARMS["ce"]}


def arrays(num_classes=10):
  """Weights of the teacher's network in timm's names."""
  options = {key: value for key, value in TEACHER.items() if key != "name"}
  network = models.build("vit", num_classes=num_classes, image_shape=(8, 8, 1), **options)
  wanted = names._wanted(names.LAYOUTS[1], jax.eval_shape(network.init, jax.random.key(0)))
  rng = np.random.default_rng(0)
  return {name: rng.normal(size=names._shape_there(one)).astype(np.float32) for name, one in wanted.items()}


def written(path, tensors):
  header, raw = {}, b""
  for name, array in tensors.items():
    header[name] = {
      "dtype": "F32",
      "shape": list(array.shape),
      "data_offsets": [len(raw), len(raw) + array.nbytes],
    }
    raw += array.tobytes()
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + raw)
  return path


def made(tmp_path, tensors=None, path=None, **changes):
  """A run whose teachers begin with a file, by default a whole one of ten classes."""
  path = path or written(tmp_path / "weights.safetensors", arrays() if tensors is None else tensors)
  config = experiment(ONE, tune={}, validation_size=0)
  with config.unlocked():
    for key in list(config.teacher):
      del config.teacher[key]
    config.teacher.update(TEACHER)
    config.committee = {}
  config.teachers.weights = str(path)
  config.teachers.update(changes)
  return run.make_run(config, tmp_path / "work", stream=io.StringIO())


def test_teachers_that_are_the_weights_of_a_file(tmp_path):
  one = made(tmp_path, tune=False)
  stages.STAGES["teachers"].check(one)
  stages.STAGES["teachers"].run(one)
  found = networks.read(one, networks.specs(one)[0])
  own = found.variables[0].params
  tensors = arrays()
  np.testing.assert_array_equal(own["block0_qkv"]["kernel"], tensors["blocks.0.attn.qkv.weight"].T)
  np.testing.assert_array_equal(own["head"]["bias"], tensors["head.bias"])
  assert 0 <= found.scores[0]["accuracy"] <= 1


def test_teachers_begin_with_a_file_and_its_content_names_them(tmp_path):
  one = made(tmp_path, count=2)
  (spec,) = networks.specs(one)
  job = networks.job_of(one, spec, [0, 1])
  kernel = arrays()["blocks.0.attn.qkv.weight"].T
  np.testing.assert_array_equal(job.start.params["block0_qkv"]["kernel"], np.stack([kernel, kernel]))
  place = networks.directory(one, spec)
  other = made(tmp_path, {name: 2 * array for name, array in arrays().items()}, count=2)
  assert networks.directory(other, networks.specs(other)[0]) != place


def test_a_head_of_other_classes_is_new_for_every_seed(tmp_path):
  one = made(tmp_path, arrays(num_classes=1000), count=2)
  start = networks.job_of(one, networks.specs(one)[0], [0, 1]).start.params
  assert start["head"]["kernel"].shape == (2, 4, 10)
  assert np.abs(start["head"]["kernel"][0] - start["head"]["kernel"][1]).max() > 0.01
  np.testing.assert_array_equal(start["class_token"]["bias"][1], arrays()["cls_token"][0, 0])


@pytest.mark.parametrize(
  "tensors, changes, message",
  [
    (None, {"tune": False, "count": 2}, "teachers.count=2: teachers of the same weights are all alike"),
    (arrays(1000), {"tune": False}, "teachers.tune=False: .* has no head of the 10 classes"),
    ({"x": np.ones(2, "f4")}, {}, "teachers.weights='.*weights.safetensors': does not fit this network .* missing"),
    (None, {"weights": None, "tune": False}, "teachers.tune=False: without weights there is nothing but training"),
    (None, {"weights": "/nowhere.pth"}, "teachers.weights='/nowhere.pth': no such file"),
  ],
)
def test_mistakes(tmp_path, tensors, changes, message):
  with pytest.raises(UserError, match=message) as caught:
    stages.STAGES["teachers"].check(made(tmp_path, tensors, **changes))
  assert "\n" not in str(caught.value)


def test_a_released_denoiser_is_a_teacher_as_it_is(tmp_path):
  """It is judged by its samples, and students of any arm find it."""
  config = edm.get_config("tiny")
  config.dataset, config.train_size, config.test_size, config.validation_size = "digits", 60, 60, 0
  config.task.update(conditions="labels", scaling="pixels")
  sizes = {"width": 4, "multiples": (1,), "depth": 1, "features": 4, "attention_sides": (), "head_width": 4}
  config.teacher, config.student = (common.network("adm", **sizes) for _ in range(2))
  config.teacher_method.update(sample_steps=1)
  network = models.build("adm", num_classes=10, image_shape=(8, 8, 1), **sizes)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  wanted = next(found for layout in names.LAYOUTS if (found := names._wanted(layout, shapes)) is not None)
  rng = np.random.default_rng(0)
  tensors = {name: rng.normal(size=names._shape_there(one)).astype(np.float32) for name, one in wanted.items()}
  config.teachers.weights, config.teachers.tune = str(written(tmp_path / "edm.safetensors", tensors)), False
  one = run.make_run(config, tmp_path / "work", stream=io.StringIO())
  stages.STAGES["teachers"].check(one)
  stages.STAGES["teachers"].run(one)
  found = networks.read(one, networks.specs(one)[0])
  own = found.variables[0].params
  np.testing.assert_array_equal(own["condition_rows"]["kernel"], tensors["model.map_label.weight"].T)
  task = one.task()
  draws = task.test.x
  made = network.apply(own, Noisy(80 * draws.eps, np.full(len(draws.cond), 80, "f4"), draws.cond)).logits
  assert found.scores[0]["frechet"] == pytest.approx(task.score(lambda _: made, task.test)["frechet"], rel=1e-3)


def test_other_endings_are_refused(tmp_path):
  (tmp_path / "weights.ckpt").write_bytes(b"x")
  with pytest.raises(UserError, match=r"its ending '.ckpt' is unknown; give one of .safetensors, .npz, .pth"):
    stages.STAGES["teachers"].check(made(tmp_path, path=tmp_path / "weights.ckpt"))
