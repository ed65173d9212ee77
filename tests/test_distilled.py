"""`jdistill.load` and what it evaluates: every set and every test image passes the checks of a data set."""

import numpy as np
import pytest

import jdistill
from jdistill import augment, export, files
from jdistill.base import UserError
from jdistill.data import preprocess

SHAPE = (4, 4, 1)
PROTOCOL = {"epochs": 3, "batch_size": 4, "momentum": 0.9, "weight_decay": 0.0, "augment": "none"}
MODEL = {"name": "mlp", "widths": [8]}


def _examples(count=30, seed=0):
  """Dark and bright images, as bytes."""
  labels = np.arange(count) % 2
  noise = np.random.default_rng(seed).integers(0, 60, (count, *SHAPE))
  return (noise + 180 * labels[:, None, None, None]).astype(np.uint8), labels


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  pixels, labels = _examples()
  fitted = preprocess.fit("standardize", pixels / np.float32(255))
  images = np.asarray(preprocess.transform(fitted, pixels / np.float32(255)), np.float32)
  one = export.DistilledSet(
    images,
    labels.astype(np.int32),
    0.1,
    preprocess.to_arrays(fitted),
    ("dark", "bright"),
    PROTOCOL | {"model": MODEL},
    {},
  )
  directory = tmp_path_factory.mktemp("set")
  export.save(directory, one)
  return directory


@pytest.fixture(scope="module")
def distilled(saved):
  return jdistill.load(saved)


def test_all_forms_of_the_same_test_images_give_the_same_accuracy(distilled):
  pixels, labels = _examples(seed=1)
  floats = pixels / np.float32(255)
  forms = [(pixels, labels), (floats, labels), (floats.astype(np.float64), labels.astype(np.float64))]
  forms += [(pixels, labels[:, None]), (pixels.tolist() and floats, labels.tolist())]
  found = {distilled.evaluate(seeds=1, test=form).accuracies for form in forms}
  assert found == {(1.0,)}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda x, y: (x.astype(np.float32), y), r"float pixels span .* outside \[0, 1\]; divide by 255"),
    (lambda x, y: (np.where(x < 5, np.nan, x / 255), y), "holds NaN or infinite pixels"),
    (lambda x, y: (x, np.eye(2)[y]), r"labels have shape \(30, 2\); give one class index per image"),
    (lambda x, y: (x, np.array(["a", "b"])[y]), "labels are of dtype <U1"),
    (lambda x, y: (x, y + 1), "label 2 of image 1 is out of range 0..1"),
    (lambda x, y: (x, y - 1), "label -1 of image 0 is negative"),
    (lambda x, y: (x, y[:-1]), "30 images but 29 labels"),
    (lambda x, y: (x[:0], y[:0]), r"images have shape \(0, 4, 4, 1\)"),
    (lambda x, y: (x[:, :3], y), r"distilled images are \(4, 4, 1\) but these images are \(3, 4, 1\)"),
    (lambda x, y: (x[..., 0], y), r"images have shape \(30, 4, 4\)"),
    (lambda x, y: (x.astype(np.int64), y), "images are of dtype int64"),
    (lambda x, y: x, r"test: give a pair \(images, labels\)"),
    (lambda x, y: (7, y), r"images have shape \(\)"),
  ],
)
def test_test_images_are_checked(distilled, change, message):
  with pytest.raises(UserError, match=message):
    distilled.evaluate(seeds=1, test=change(*_examples()))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"lr": float("nan")}, r"evaluate\.lr=nan: must be a finite number"),
    ({"lr": -0.1}, r"evaluate\.lr=-0\.1: must be above 0"),
    ({"lr": "0.1"}, r"evaluate\.lr='0\.1': must be of type float"),
    ({"epochs": -3}, r"evaluate\.epochs=-3: must be at least 1"),
    ({"seeds": 1.5}, r"evaluate\.seeds=1\.5: must be of type int"),
    ({"seeds": 0}, r"evaluate\.seeds=0: must be at least 1"),
    ({"seed": -1}, r"evaluate\.seed=-1: must be at least 0"),
    ({"model": "convnett"}, "convnett"),
    ({"widths": (10**12,)}, "model 'mlp': widths: 1000000000000 is not a whole number: give one"),
    ({"widths": (10**9,)}, r"model 'mlp': would have 1\.9e\+10 parameters"),
  ],
)
def test_numbers_are_checked(distilled, options, message):
  with pytest.raises(UserError, match=message):
    distilled.evaluate(test=_examples(), **options)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"protocol": {"epochs": -1}}, r"protocol\.epochs=-1: must be at least 1"),
    ({"protocol": {"momentum": "nan"}}, r"protocol\.momentum=nan: must be a finite number"),
    ({"protocol": {"loss": "mae"}}, r"protocol\.loss='mae': unknown; did you mean 'mse'"),
    ({"protocol": {"augment": "color_blur"}}, r"protocol\.augment='color_blur': unknown operator 'blur'"),
    ({"learned_lr": -0.1}, "learned_lr=-0.1: must be above 0"),
    ({"preprocessing": {"mean": np.array([np.nan], np.float32)}}, "mean holds values that are not finite"),
  ],
)
def test_sets_that_were_edited_are_refused(saved, tmp_path, changes, message):
  arrays = files.read_npz(saved / "distilled.npz")
  for name, value in changes.items():
    if name == "protocol":
      arrays[name] = export.artefact._to_text(PROTOCOL | value)
    elif name == "preprocessing":
      arrays |= {f"{name}/{key}": array for key, array in value.items()}
    else:
      arrays[name] = np.float64(value)
  files.write_npz(tmp_path / "x.npz", arrays)
  with pytest.raises(UserError, match=message):
    jdistill.load(tmp_path / "x.npz")


def test_what_is_no_distilled_set(tmp_path, monkeypatch):
  (tmp_path / "photo.png").write_bytes(b"\x89PNG....")
  with pytest.raises(UserError, match=r"photo\.png is no distilled set.*give .*distilled\.npz") as caught:
    jdistill.load(tmp_path / "photo.png")
  assert "delete" not in str(caught.value)
  monkeypatch.setenv("HOME", str(tmp_path))
  with pytest.raises(UserError, match=rf"{tmp_path}/nothing does not exist"):
    jdistill.load("~/nothing")


DATASET = {"name": "digits", "fingerprint": "0" * 64, "train_size": 100, "test_size": 50, "seed": 0}


@pytest.mark.parametrize(
  "dataset", [None, [], 5, {}, {"name": "digits"}, DATASET | {"name": 3}, DATASET | {"fingerprint": 1}]
)
def test_a_provenance_of_another_form_is_one_line(distilled, dataset):
  one = jdistill.distilled.Distilled(distilled._stored._replace(provenance={"dataset": dataset}))
  with pytest.raises(UserError, match=r"^provenance\.dataset=.*: names no data set; pass test=\(images, labels\)$"):
    one.test_set()


def test_a_provenance_with_wrong_numbers_is_one_line(distilled):
  for change, words in (({"train_size": "many"}, r"provenance\.dataset\.train_size"), ({}, "its content differs")):
    one = jdistill.distilled.Distilled(distilled._stored._replace(provenance={"dataset": DATASET | change}))
    with pytest.raises(UserError, match=words):
      one.test_set()


@pytest.mark.parametrize("model", [[], 5, {"name": 3}])
def test_a_protocol_whose_model_is_no_network_is_one_line(distilled, model):
  one = jdistill.distilled.Distilled(distilled._stored._replace(protocol=PROTOCOL | {"model": model}))
  with pytest.raises(UserError, match=r"^protocol\.model=.*: is no network; export the set again$"):
    one.evaluate(test=_examples())


def test_the_loss_of_the_protocol_is_that_of_the_training(distilled):
  """A regression to integer labels, which become centred one-hot vectors, as to these vectors themselves."""
  hard = distilled._stored
  classes = hard.labels
  centred = (np.eye(2)[classes] - 0.5).astype(np.float32)
  rules = PROTOCOL | {"model": MODEL, "epochs": 40, "loss": "mse", "optimizer": "adam"}
  found = [
    jdistill.distilled.Distilled(hard._replace(protocol=rules, labels=labels)).evaluate(seeds=2, test=_examples())
    for labels in (classes, centred, -centred)
  ]
  assert found[0].accuracies == found[1].accuracies and found[0].mean > 0.9 > 0.1 > found[2].mean


def test_the_view_of_the_protocol_is_shown(distilled):
  """Each image with its mirror image is a set of its own."""
  hard, rules = distilled._stored, PROTOCOL | {"model": MODEL, "epochs": 5}
  both = np.stack([hard.images, hard.images[:, :, ::-1]], 1).reshape(-1, *hard.images.shape[1:])
  whole = hard._replace(images=both, labels=np.repeat(hard.labels, 2, axis=0), protocol=rules)
  found = [
    jdistill.distilled.Distilled(one).evaluate(seeds=2, test=_examples())
    for one in (hard._replace(protocol=rules | {"view": "flip"}), whole)
  ]
  assert found[0].accuracies == found[1].accuracies
  with pytest.raises(UserError, match=r"^protocol\.view='mirror': unknown view; choose one of none, flip"):
    jdistill.distilled.Distilled(hard._replace(protocol=rules | {"view": "mirror"}))


def test_the_crops_and_the_schedule_of_the_protocol_are_those_of_the_training(distilled, monkeypatch):
  """Crops stay in one cell of each image, as in the run that stored the set; older sets have none of this."""
  known, used = distilled._stored, []
  rules = {"cells": 2, "crop_scale": 0.3, "flip": True, "optimizer": "adamw", "schedule": "cosine", "decay_all": False}
  whole = known._replace(protocol=PROTOCOL | {"model": MODEL} | rules)
  plain = jdistill.distilled.evaluate_seeds
  monkeypatch.setattr(jdistill.distilled, "evaluate_seeds", lambda *a, **o: used.append(a[1]) or plain(*a, **o))
  for one in (whole, known):
    jdistill.distilled.Distilled(one).evaluate(seeds=1, test=_examples())
  new, old = used
  assert (new.optimizer, new.schedule, new.decay_all, new.length) == ("adamw", "cosine", False, 3)
  assert new.augment is augment.of_protocol("none", cells=2, crop_scale=0.3, mirror=True, key="protocol.augment")
  assert (old.schedule, old.decay_all, old.length) == ("step", True, 4) and old.augment is augment.named("none")
  with pytest.raises(UserError, match=r"^protocol\.cells=3: images of 4 x 4 pixels cannot be cut into 3 x 3"):
    jdistill.distilled.Distilled(known._replace(protocol=whole.protocol | {"cells": 3}))


def test_a_rate_at_which_training_diverges_is_named(distilled):
  with pytest.raises(UserError, match=r"^evaluate\.lr=1e\+30: training on the set diverges; give a lower one$"):
    distilled.evaluate(seeds=1, lr=1e30, test=_examples())
