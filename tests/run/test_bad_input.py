"""Mistakes in a configuration or in the data: one readable line with key, value and cure, and nothing is written."""

import numpy as np
import pytest
from PIL import Image

CASES = {
  "an unknown key": (["ipcc=3"], ["config.ipcc=3: unknown key", "'ipc'"]),
  "an unknown key of a section": (
    ["method.image_lrr=1"],
    ["config.method.image_lrr=1: unknown key", "'method.image_lr'"],
  ),
  "an unknown key with nothing near": (["qqqq=1"], ["config.qqqq=1: unknown key", "dataset, ", "method.*, "]),
  "a value for a section": (["method=3"], ["config.method=3"]),
  "an option of another network": (["model.width=3"], ["model.width=3: mlp has no such option", "'widths'"]),
  "an unknown method": (["method.name=dtam"], ["method.name='dtam': unknown", "'datm'"]),
  "an unknown network": (["model.name=convnte"], ["model.name='convnte': unknown", "'convnet'"]),
  "an unknown network to evaluate with": (["eval.models=mpl"], ["eval.models: unknown network 'mpl'", "'mlp'"]),
  "no network to evaluate with": (["eval.models=()"], ["eval.models: empty"]),
  "a network to evaluate with twice": (["eval.models=mlp,mlp"], ["eval.models=['mlp', 'mlp']", "name each once"]),
  "a set to evaluate twice": (
    ["eval.sets=distilled,initial,distilled"],
    ["eval.sets=['distilled', 'initial', 'distilled']", "name each once"],
  ),
  "an unknown set to evaluate": (["eval.sets=distiled"], ["eval.sets: datm has no set 'distiled'", "'distilled'"]),
  "an unknown stage": (["stages=teachers,destill"], ["stages: unknown stage 'destill'", "'distill'"]),
  "no stage": (
    ["stages=()"],
    ["stages=(): nothing to do", "teachers, warm_up, distill, keep, evaluate, export, report"],
  ),
  "stages out of order": (["stages=evaluate,distill"], ["must be in the order"]),
  "an unknown data set": (["dataset=digit"], ["dataset='digit': unknown", "'digits'"]),
  "an unknown TFDS set": (["dataset=cifra10"], ["dataset='cifra10': unknown", "'cifar10'"]),
  "an unknown preprocessing": (["preprocessing=zac"], ["preprocessing='zac': unknown", "'zca'"]),
  "an unknown gradient route": (["unroll.gradient=mixd"], ["unroll.gradient='mixd': unknown", "'mixed'"]),
  "an unknown augmentation": (["method.augment=flop"], ["flop"]),
  "an unknown augmentation of the teachers": (["teacher_train.augment=flop"], ["flop"]),
  "an unknown augmentation of the evaluation": (["eval.augment=flop"], ["flop"]),
  "a word for a number": (["ipc=abc"], ["config.ipc=abc: must be of type int"]),
  "a fraction for a whole number": (["steps=1.5"], ["config.steps=1.5: must be of type int"]),
  "a word for a number of a section": (
    ["teacher_train.lr=fast"],
    ["config.teacher_train.lr=fast: must be of type float"],
  ),
  "a word for a truth value": (["tensorboard=maybe"], ["config.tensorboard=maybe: must be of type bool"]),
  "no value": (["ipc"], ["config.ipc=: must be of type int"]),
  "NaN": (["method.threshold=nan"], ["method.threshold", "must be a finite number"]),
  "infinity": (["method.image_lr=inf"], ["method.image_lr", "must be a finite number"]),
  "no images": (["ipc=0"], ["ipc=0: must be at least 1"]),
  "fewer than no images": (["ipc=-5"], ["ipc=-5: must be at least 1"]),
  "more images than there are": (
    ["train_size=None", "ipc=500"],
    ["ipc=500: class", "only 126 training images", "at most 126"],
  ),
  "more images than a subset has": (
    ["ipc=21"],
    ["ipc=21: class 0 ('0') has only 20 training images", "at most 20 or raise train_size"],
  ),
  "a subset without all classes": (["train_size=5"], ["train_size=5", "10 classes"]),
  "a subset larger than the set": (["test_size=5000"], ["test_size=5000", "at most"]),
  "no steps": (["steps=0"], ["steps=0: must be at least 1"]),
  "a negative seed": (["seed=-1"], ["seed=-1: must be at least 0"]),
  "a seed that does not fit": (["seed=3000000000"], ["seed=3000000000: must be below 2**31"]),
  "a rate of zero": (["teacher_train.lr=0"], ["teacher_train.lr=0.0: must be above 0"]),
  "too much momentum": (["method.image_momentum=1.0"], ["method.image_momentum=1.0: must be at most 0.999"]),
  "no threshold": (["method.threshold=0"], ["method.threshold=0.0: must be above 0"]),
  "a negative threshold": (["method.threshold=-1"], ["method.threshold=-1.0: must be above 0"]),
  "an empty range of epochs": (
    ["method.min_start_epoch=2"],
    ["method.min_start_epoch=2: must be below method.max_start_epoch=2"],
  ),
  "an empty range at the first step": (
    ["method.min_start_epoch=1", "method.current_start_epoch=1"],
    ["method.min_start_epoch=1: must be below method.current_start_epoch=1"],
  ),
  "a range that falls": (["method.current_start_epoch=3"], ["method.current_start_epoch=3: must not exceed"]),
  "segments past the teachers' end": (
    ["method.max_start_epoch=4"],
    ["method.max_start_epoch=4", "run past the teachers' 4 epochs", "at most 3"],
  ),
  "segments longer than the teachers' training": (
    ["method.expert_epochs=5"],
    ["method.expert_epochs=5: longer than teacher_train.epochs=4; lower it"],
  ),
  "a batch larger than the set": (
    ["teacher_train.batch_size=201"],
    ["teacher_train.batch_size=201", "200 training images"],
  ),
  "a rate that is not one": (["eval.control_lrs=(0.1,-1.0)"], ["eval.control_lrs", "-1.0"]),
  "no rates": (["eval.control_lrs=()"], ["eval.control_lrs: empty"]),
  "hard labels that are to be learned": (["method.labels=hard"], ["method.learn_labels=True", "hard"]),
  "a width of zero": (["model.widths=(0,)"], ["widths", "0"]),
  "a directory of data sets that is not there": (
    ["dataset=cifar10", "data_dir=/nowhere"],
    ["data_dir='/nowhere'", "no such directory"],
  ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_readable_line(refuse, name):
  overrides, words = CASES[name]
  complaint = refuse(*(f"--config.{override}" for override in overrides))
  for word in words:
    assert word in complaint


def test_batch_norm_cannot_be_matched(refuse):
  digits = "--config=experiments/datm.py"
  assert "model.norm='batch'" in refuse("--config.model.norm=batch", config=digits)
  assert "model.name='convnet_bn'" in refuse("--config.model.name=convnet_bn", config=digits)


RECOVERY = {
  "a teacher without batch norm": (
    ["teacher.name=convnet"],
    ["teacher.name='convnet': the teacher has no batch norm", "'convnet_bn'"],
  ),
  "a way of negative length": (["method.rho=-1"], ["method.rho=-1.0: must be at least 0"]),
  "blocks of one image": (["method.block_size=1"], ["method.block_size=1: must be at least 2"]),
  "a direction from noise": (["method.initial=noise"], ["method.initial='noise'", "method.direction='none'"]),
  "whitened images": (["preprocessing=zca"], ["preprocessing='zca'", "use 'channel'"]),
  "more initial images than there are": (["ipc=30"], ["ipc=30: class", "at most"]),
  "a batch of one for a teacher in train mode": (
    ["relabel.teacher_mode=train", "relabel.batch_size=1"],
    ["relabel.batch_size=1", "relabel.teacher_mode='eval'"],
  ),
  "an unknown mode": (["relabel.teacher_mode=test"], ["relabel.teacher_mode='test'", "train"]),
  "an unknown augmentation": (["relabel.augment=flop"], ["relabel.augment='flop': unknown operator"]),
}


@pytest.mark.parametrize("name", RECOVERY)
def test_a_mistake_in_recovery_is_one_readable_line(refuse, name):
  overrides, words = RECOVERY[name]
  complaint = refuse(*(f"--config.{one}" for one in overrides), config="--config=experiments/dwa.py:tiny")
  for word in words:
    assert word in complaint


LABELS = {
  "a prior for another number of teachers": (
    "cv_dd",
    ["voting.prior=60."],
    ["voting.prior=(60.0,): 1 numbers for 2 teachers", "wide"],
  ),
  "a teacher that is not in the committee": ("cv_dd", ["teachers.also=wyde"], ["teachers.also=", "'wyde'", "'wide'"]),
  "nothing to measure a prior on": ("cv_dd", ["validation_size=0"], ["voting.prior=()", "set validation_size"]),
  "more voters than teachers": ("cv_dd", ["method.voters=3"], ["voters=3: there are 2 teachers"]),
  "a voter without batch norm": (
    "cv_dd",
    ["teacher.name=convnet"],
    ["committee: number 1 of 2: the teacher has no batch norm"],
  ),
  "halves of one image": ("cv_dd", ["relabel.batch_size=2"], ["relabel.batch_size=2", "2 parts", "at least 4"]),
  "halves of an odd batch": ("cv_dd", ["relabel.batch_size=5"], ["relabel.batch_size=5: cannot be divided into 2"]),
  "static labels and cutmix": (
    "cv_dd",
    ["relabel.store=static", "relabel.teacher_mode=eval"],
    ["relabel.mix='cutmix'", "use 'mixup'"],
  ),
  "static labels in train mode": (
    "cv_dd",
    ["relabel.store=static", "relabel.mix=mixup"],
    ["relabel.teacher_mode='train'", "set 'eval'"],
  ),
  "no number of logits": ("cv_dd", ["relabel.store=top_k"], ["relabel.top_k=None", "needs how many"]),
  "a number that no store takes": ("cv_dd", ["relabel.rank=2"], ["relabel.rank=2: is for relabel.store='low_rank'"]),
  "more logits than classes": (
    "cv_dd",
    ["relabel.store=top_k", "relabel.top_k=10"],
    ["relabel.top_k=10: must be below the 10 classes"],
  ),
  "no class maps of a teacher": (
    "nrr_dd",
    ["teacher.embedding=flatten"],
    ["teacher.name='convnet_bn'", "global average", "embedding='mean'", "method.class_map='grad_cam'"],
  ),
  "a mask that lets nothing move": ("nrr_dd", ["method.cutoff=0."], ["method.cutoff=0.0", "above 0"]),
  "more crops than there are": ("nrr_dd", ["method.top_crops=3"], ["method.top_crops=3", "method.num_crop=2"]),
  "strips that do not fit": ("rded", ["relabel.strips=3"], ["factor: 3 does not divide images of 8 x 8"]),
  "too few candidates": ("rded", ["method.mipc=3"], ["method.mipc=3", "need 4 candidates"]),
  "more candidates than images": ("rded", ["method.mipc=100"], ["method.mipc=100: class", "has only"]),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_mistake_in_committees_and_labels_is_one_readable_line(refuse, name):
  experiment, overrides, words = LABELS[name]
  complaint = refuse(*(f"--config.{one}" for one in overrides), config=f"--config=experiments/{experiment}.py:tiny")
  for word in words:
    assert word in complaint


def test_options_of_a_builder_that_do_not_go_together(refuse):
  complaint = refuse("--config.method.classes_at_once=3", config="--config=experiments/dm.py:tiny")
  assert "method: dm: classes_at_once=3 does not divide 10 classes; give a divisor" in complaint


def test_a_data_set_that_is_not_there_says_how_to_get_it(refuse, tmp_path):
  empty = tmp_path / "sets"
  empty.mkdir()
  complaint = refuse("--config.dataset=cifar10", f"--config.data_dir={empty}")
  assert complaint.startswith("dataset='cifar10': not found under data_dir=")
  assert "download_and_prepare()" in complaint


def _arrays(**changes):
  rng = np.random.default_rng(0)
  arrays = {
    "train_images": rng.random((40, 6, 6, 1), np.float32),
    "train_labels": np.arange(40) % 2,
    "test_images": rng.random((20, 6, 6, 1), np.float32),
    "test_labels": np.arange(20) % 2,
  }
  return arrays | changes


def _nan_images():
  images = _arrays()["train_images"]
  images[7, 3, 3, 0] = np.nan
  return images


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"train_images": _nan_images()}, ["train: image 7 holds NaN"]),
    ({"test_images": 300 * _arrays()["test_images"]}, ["outside [0, 1]"]),
    ({"test_labels": np.full(20, 2)}, ["test: label 2 of image 0 is out of range 0..1"]),
    ({"train_labels": np.arange(40) - 1}, ["train: label -1 of image 0 is negative"]),
    ({"train_labels": np.arange(40) % 2 * 2}, ["no image is of class 1"]),
    ({"train_labels": np.arange(39) % 2}, ["40 images but 39 labels"]),
    ({"train_labels": (np.arange(40) < 2).astype(int)}, ["ipc=3: class 1 ('1')", "only 2 training images"]),
    ({"test_images": np.zeros((20, 5, 5, 1), np.float32)}, ["train images are (6, 6, 1) but test images"]),
    ({"train_images": np.zeros((40, 6, 6, 1), np.float32)}, ["preprocessing='standardize'", "constant"]),
  ],
  ids=["nan", "range", "label", "negative", "gap", "count", "few", "shape", "constant"],
)
def test_arrays_that_are_no_data_set_are_refused(refuse, tmp_path, changes, words):
  file = tmp_path / "set.npz"
  np.savez(file, **_arrays(**changes))
  unset = ("--config.train_size=None", "--config.test_size=None", "--config.teacher_train.batch_size=10")
  complaint = refuse(f"--config.dataset={file}", "--config.ipc=3", *unset)
  for word in words:
    assert word in complaint


def test_a_damaged_archive_and_a_missing_one_are_refused(refuse, tmp_path):
  file = tmp_path / "set.npz"
  file.write_bytes(b"PK not an archive")
  assert "cannot be read as arrays" in refuse(f"--config.dataset={file}")
  assert "no such file" in refuse(f"--config.dataset={tmp_path / 'other.npz'}")


def test_a_folder_of_images_of_two_sizes_is_refused(refuse, tmp_path):
  for split in ("train", "test"):
    for label in ("cat", "dog"):
      (tmp_path / "set" / split / label).mkdir(parents=True)
      for index in range(3):
        size = (9, 8) if (split, label, index) == ("test", "dog", 2) else (8, 8)
        Image.new("L", size, 40 * index).save(tmp_path / "set" / split / label / f"{index}.png")
  complaint = refuse(f"--config.dataset={tmp_path / 'set'}")
  assert "images differ in size" in complaint
  assert "8x8" in complaint
  assert "9x8" in complaint
  assert "dog/2.png" in complaint


def test_a_folder_without_splits_is_refused(refuse, tmp_path):
  (tmp_path / "set").mkdir()
  assert "no train/ and test/" in refuse(f"--config.dataset={tmp_path / 'set'}")
