"""Stage `patches`: which patches students' images lose, what fills them, what is stored, and what is refused."""

import io
import re
import shutil
from typing import NamedTuple

import jax
import numpy as np
import pytest
from tiny_experiments import tiny

from jdistill import run
from jdistill.base import UserError
from jdistill.files import Damaged, read_npz, read_record
from jdistill.jobs import arms, networks, train
from jdistill.jobs.patched import stored
from jdistill.models.predict import predict
from jdistill.ops import cam
from jdistill.stages import STAGES, Run, resolve, sweep

pytestmark = pytest.mark.usefixtures("compiled_once")
ARMS = {
  "cam": {"patches/theta": 0.25, "patches/side": 2},
  "mean": {"patches/theta": 0.6, "patches/side": 4, "patches/by": "random", "patches/fill": "mean"},
}


def config(own=ARMS, **changes):
  """DQ's tiny experiment with these arms, without its sweep and proxies."""
  experiment = tiny("dq", **{"select__runs": 0} | changes)
  with experiment.unlocked():
    del experiment["sweep"]
    experiment.arms, experiment.order = own, ("dq", *own)
  return experiment


class Done(NamedTuple):
  """A finished run, what it printed, its summary, and the images that students were given, by arm."""

  run: Run
  said: str
  summary: dict
  images: dict


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
  """A finished run. Not to be written to."""
  root, said, images = tmp_path_factory.mktemp("patched"), io.StringIO(), {}
  real = train.run

  def spy(run, job, key, directory, **options):
    images[job.label] = job.data.x
    return real(run, job, key, directory, **options)

  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(arms.train, "run", spy)
    summary = run.run_experiment(config(), root / "work", stream=said)
  return Done(run.make_run(config(), root / "work", stream=io.StringIO()), said.getvalue(), summary, images)


def artefact(one, label):
  """The arrays of an arm's images, the mask as booleans."""
  section = {key: value for key, value in one.config["arms"][label]["patches"].items() if key != "decoder"}
  for path in (one.artefacts / "patches").iterdir():
    if read_record(path / "images.json")["identity"]["patches"] == section:
      found = read_npz(path / "images.npz")
      count = (8 // section["side"]) ** 2
      return found["x"], np.unpackbits(found["mask"], axis=1)[:, :count].astype(bool)
  raise AssertionError(label)


def pixels(mask, side):
  grid = mask.reshape(len(mask), 8 // side, 8 // side)
  return np.repeat(np.repeat(grid, side, 1), side, 2)[..., None]


def test_the_least_important_patches_are_those_of_a_masked_autoencoder(patched):
  one = patched.run
  arm, x = one.config["arms"]["cam"], np.asarray(one.task().data.x)
  found, mask = artefact(one, "cam")
  assert (mask.sum(1) == 4).all()
  helpers = networks.helpers_of(one, "cam", arm)
  judge, decoder = (networks.trained(one, helpers[role]) for role in ("judge", "decoder"))
  network = judge.networks[0]

  def importance(variables, x):  # of the predicted class
    maps = cam.unit_range(cam.grad_cam_plus_plus(network.apply, variables, x))
    return jax.image.resize(maps, (len(x), 4, 4), "bilinear")

  maps = predict(importance, judge.variables[0], x).reshape(len(x), 16)
  lowest, highest = np.where(mask, maps, -np.inf).max(1), np.where(mask, np.inf, maps).min(1)
  assert (lowest <= highest + 1e-5).all() and (lowest < highest).mean() > 0.5
  params = decoder.variables[0].params

  def decode(params, given):
    return decoder.networks[0].apply(params, given).taps["decoded"]

  tokens = predict(decode, params, (x, mask)).reshape(len(x), 4, 4, 2, 2)
  want = np.where(pixels(mask, 2), tokens.transpose(0, 1, 3, 2, 4).reshape(x.shape), x)
  np.testing.assert_allclose(found, want, atol=1e-4)


def test_means_stand_in_for_random_patches(patched):
  found, mask = artefact(patched.run, "mean")
  x, left_out = np.asarray(patched.run.task().data.x), pixels(mask, 4)
  assert (mask.sum(1) == 3).all() and len(np.unique(mask, axis=0)) == 4
  means = np.array([one[~where].mean() for one, where in zip(x, left_out, strict=True)])
  np.testing.assert_allclose(found, np.where(left_out, means[:, None, None, None], x), atol=1e-5)


def test_students_see_these_images_and_are_scored_on_whole_ones(patched):
  x = np.asarray(patched.run.task().data.x)
  for label in ("cam", "mean"):
    np.testing.assert_array_equal(patched.images[label], artefact(patched.run, label)[0])
  np.testing.assert_array_equal(patched.images["dq"], x)
  assert all(len(arm["scores"]["accuracy"]) == 2 for arm in patched.summary["arms"].values())


def test_the_share_of_what_is_stored_is_that_of_images_times_patches(patched):
  found, count = patched.summary["arms"], len(patched.run.task().data.y)
  kept = count // 2
  assert found["dq"]["image_share"] == 0.5 and found["dq"]["image_bytes"] == kept * 64
  assert found["cam"]["image_share"] == 0.5 * 0.75 and found["cam"]["image_bytes"] == kept * (48 + 2)
  assert found["mean"]["image_share"] == 0.5 * 0.25 and found["mean"]["image_bytes"] == kept * (16 + 1)
  everything = dict(patched.run.config["arms"]["dq"]) | {"data_policy": {"name": "shuffle"}}
  assert stored(patched.run, everything, count, None) == {} and "(37.5%)" in patched.said
  about = patched.summary["patches"]
  assert re.search(r"^select: dq: bins that give nothing: \d+ on average", patched.said, re.MULTILINE)
  assert set(about) == {"cam", "mean"} and (about["cam"]["kept"], about["cam"]["patches"]) == (12, 16)
  x, (new, mask) = np.asarray(patched.run.task().data.x), artefact(patched.run, "mean")
  error = np.square(new - x)[pixels(mask, 4)].mean()
  assert about["mean"]["squared_error"] == pytest.approx(error, rel=1e-5)
  assert "1 of 4 patches of" in patched.said and "Patches" in (patched.run.workdir / "report.md").read_text()


def test_networks_that_help_are_trained_once_and_named(patched):
  assert [one.name for one in networks.specs(patched.run)] == ["teacher", "decoder decoder"]
  assert len(list((patched.run.artefacts / "teachers").iterdir())) == 2
  assert re.search(r"^decoder decoder: mae, accuracy", patched.said, re.MULTILINE)
  rows = [row[0] for row in STAGES["patches"].plan(patched.run)]
  assert rows == [
    "cam: patches of 160 images, a share of 0.25 left out by grad_cam_pp",
    "mean: patches of 160 images, a share of 0.6 left out by random",
  ]


def test_what_is_lost_is_made_again(patched, tmp_path):
  shutil.copytree(patched.run.workdir.parent, tmp_path / "copy")
  said, before = io.StringIO(), artefact(patched.run, "cam")
  one = run.make_run(config(), tmp_path / "copy" / "work", stream=said)
  STAGES["patches"].verify(one)
  STAGES["patches"].run(one)
  assert said.getvalue() == ""  # nothing was made
  for path in (one.artefacts / "patches").glob("*/images.npz"):
    path.write_bytes(b"nothing")
  with pytest.raises(Damaged):
    STAGES["patches"].verify(one)
  STAGES["patches"].run(one)
  assert re.search(r"^patches: .*images\.npz is damaged.*; it is made again$", said.getvalue(), re.MULTILINE)
  for old, new in zip(before, artefact(one, "cam"), strict=True):
    np.testing.assert_array_equal(old, new)


P = {"patches/theta": 0.25, "patches/side": 2}
BAD = [
  (P | {"patches/theta": 1.0}, r"arms\.one: patches\.theta=1\.0: must be at least 0 and below 1$"),
  (P | {"patches/theta": -0.5}, r"arms\.one: patches\.theta=-0\.5: must be"),
  (
    P | {"patches/theta": 0.99},
    r"one: patches\.theta=0\.99: keeps none of the 16 patches; lower it to at most 0\.9375",
  ),
  (P | {"patches/side": 3}, r"one: patches\.side=3: does not divide images of 8x8; give a divisor$"),
  (P | {"patches/side": 1}, r"one: patches\.decoder='decoder': patch: masks of 64 squares for 16 patches of side 2"),
  (P | {"patches/decoder": "other"}, r"arms\.one: patches\.decoder='other': no network of that name in committee"),
  (P | {"teacher/name": "mlp"}, r"one: patches\.by='grad_cam_pp': grad_cam_plus_plus: site=None is no map with places"),
  (P | {"teacher_method/name": "mae"}, r"teacher of one: teacher_method\.name='mae': learns features and no logits"),
  (P | {"targets/source": "cached"}, r"arms\.one: targets\.source='cached': stored targets are of images with all pat"),
]


@pytest.mark.parametrize(("arm", "words"), BAD)
def test_patches_that_cannot_be_are_refused_before_any_work(arm, words, tmp_path):
  with pytest.raises(UserError, match=f"^{words}") as caught:
    run.run_experiment(config({"one": arm}), tmp_path / "work", stream=io.StringIO())
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "work").exists() and not (tmp_path / "artefacts").exists()


def test_a_network_that_does_not_decode_is_refused(tmp_path):
  experiment = config({"one": P})
  with experiment.unlocked():
    experiment.committee = {"decoder": {"teacher/name": "mlp"}}
  with pytest.raises(UserError, match=r"^one: patches\.decoder='decoder': x: a mask of patches given to model 'mlp'"):
    run.run_experiment(experiment, tmp_path / "work", stream=io.StringIO())


def test_groups_of_a_sweep_may_set_what_an_arm_sets():
  experiment = tiny("dq")
  with experiment.unlocked():
    experiment.sweep.groups = {"a": {"arms/dq_cam_decoder/patches/theta": 0.5}}
  (cell,) = sweep.cells(experiment)
  resolved = resolve(cell.config)
  assert resolved["arms"]["dq_cam_decoder"]["patches"]["theta"] == 0.5
  experiment.sweep.groups = {"a": {"arms/dq_cam_decoder/patches/thete": 0.5}}
  with pytest.raises(UserError, match=r"thete=0\.5: the configuration has no such key; did you mean"):
    sweep.cells(experiment)
