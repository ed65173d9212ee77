"""The commonest messages with their causes and cures: `python -m docs.messages` writes `docs/messages.md`.

Every message on the page is what the code says today to the mistake beside it.
"""

import contextlib
import io
import os
import socket
import struct
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jdistill
from jdistill import cli, language, pretrained, run
from jdistill.base import UserError
from jdistill.files import Lock, read_json, read_safetensors, take, write_json, write_safetensors, write_text
from jdistill.models import DecoderConfig, language_model
from jdistill.run import load_experiment, make_run
from jdistill.runs import claim

PAGE = Path(__file__).parent / "messages.md"
_TINY = "--config=experiments/datm.py:tiny"


class Case(NamedTuple):
  """A mistake.

  Attributes:
    title: of its heading.
    mistake: the arguments of a command, or a function of a directory that makes it.
    cause, cure: for the reader.
    prepare: makes what lies there before.
  """

  title: str
  mistake: str | Callable[[Path], object]
  cause: str
  cure: str
  prepare: Callable[[Path], object] = lambda directory: None


def _save(directory: Path, **changes: np.ndarray) -> None:
  """`images.npz` with four grey images of two classes, and some of its arrays changed."""
  images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1])
  images[..., 0, 0] = 255
  arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
  np.savez(directory / "images.npz", **arrays | changes)


def _with(**changes: np.ndarray) -> Callable[[Path], None]:
  return lambda directory: _save(directory, **changes)


def _claimed(directory: Path) -> None:
  """A work directory of another configuration."""
  config = load_experiment("experiments/datm.py:tiny")
  config.ipc = 2
  claim.write(make_run(config, directory / "work", stream=io.StringIO()))


def _on_other_data(directory: Path) -> None:
  """A work directory of the same configuration, begun with other images."""
  _save(directory)
  values = cli.parse(["run", *_OWN.split(), "--config.teacher_train.batch_size=2"])
  claim.write(make_run(values["config"].value, directory / "work", stream=io.StringIO()))
  images = np.load(directory / "images.npz")["train_images"]
  _save(directory, train_images=images // 2)


def _photo(directory: Path) -> None:
  (directory / "photo.png").write_bytes(b"\x89PNG")


def _gguf(directory: Path) -> None:
  """A `.gguf` file with one matrix of type Q4_K."""
  name = b"token_embd.weight"
  row = struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 256, 2, 12, 0)
  (directory / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + row + bytes(400))


def _language_model(directory: Path) -> None:
  config = DecoderConfig(num_classes=20, width=8, depth=1, heads=2)
  pretrained.save_language_model(directory / "model", config, language_model(config).init(jax.random.key(0)).params)


def _with_other_arrays(directory: Path) -> None:
  _language_model(directory)
  path = directory / "model" / "model.safetensors"
  arrays = read_safetensors(path)
  arrays["model.layers.0.self_attn.q_norm.weight"] = arrays.pop("model.norm.weight")
  write_safetensors(path, arrays)


def _with_scaled_positions(directory: Path) -> None:
  _language_model(directory)
  path = directory / "model" / "config.json"
  write_json(path, read_json(path) | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}})


_OWN = f"{_TINY} --config.dataset=images.npz --config.train_size=None --config.test_size=None"

SECTIONS: dict[str, tuple[Case, ...]] = {
  "The command line": (
    Case(
      "An unknown flag",
      f"{_TINY} --workdri=runs/one",
      "The command has no flag of this name.",
      "Take the flag that is offered. Keys of the configuration stand after `--config.`.",
    ),
    Case(
      "An unknown key",
      f"{_TINY} --config.method.image_rate=10",
      "The configuration has no such key, or the section is another one.",
      "Take the name that is offered. All keys are in [configuration.md](configuration.md).",
    ),
    Case(
      "A value of another type",
      f"{_TINY} --config.ipc=ten",
      "The key holds a whole number, a number, a list or a word, and the value is none.",
      "Lists are written with commas: `--config.eval.models=convnet,mlp`.",
    ),
    Case(
      "A value that is out of range",
      f"{_TINY} --config.method.image_lr=-1",
      "The value cannot work.",
      "Take one inside the bound. `--config.KEY=None` takes the tested value.",
    ),
    Case(
      "No such experiment",
      "--config=experiments/dattm.py",
      "There is no file of this name, neither here nor among those that came with jdistill.",
      "`--list` names the experiments and says where they lie.",
    ),
    Case(
      "An option of another network",
      f"{_TINY} --config.model.name=mlp --config.model.width=32",
      "Networks and methods have options of their own.",
      "Take the option that is offered, or leave it out.",
    ),
    Case(
      "An unknown augmentation",
      f"{_TINY} --config.eval.augment=color_blur",
      "The name is not made of known operators.",
      "Join known operators with `_`, or give `none`.",
    ),
  ),
  "Data": (
    Case(
      "No such file",
      f"{_TINY} --config.dataset=image.npz",
      "The path is wrong, or is relative and the command was started elsewhere.",
      "Compare the path in brackets with where the file lies.",
    ),
    Case(
      "An unknown data set",
      f"{_TINY} --config.dataset=digitts",
      "It is neither an embedded set nor one of TFDS, nor a file or folder.",
      "Take the name that is offered; the page [data.md](data.md) lists what can be read.",
    ),
    Case(
      "Pixels out of range",
      _OWN,
      "Floats must be in [0, 1]. Bytes in 0..255 have to be of dtype uint8.",
      "`images.astype('uint8')`, or divide by 255.",
      _with(train_images=np.full((4, 8, 8, 1), 200.0, np.float32)),
    ),
    Case(
      "A gap between the labels",
      _OWN,
      "Without `class_names` there are as many classes as the highest label says, and each needs images.",
      "Number the labels from 0 without gaps, or store `class_names`.",
      _with(train_labels=np.array([0, 2, 0, 2])),
    ),
    Case(
      "Labels of another shape",
      _OWN,
      "One-hot labels, or several labels per image.",
      "`labels.argmax(axis=1)`.",
      _with(train_labels=np.eye(2)[[0, 1, 0, 1]]),
    ),
    Case(
      "Channels first",
      _OWN,
      "Images are stored as PyTorch has them.",
      "`images.transpose(0, 2, 3, 1)`.",
      _with(train_images=np.zeros((4, 3, 8, 8), np.uint8)),
    ),
    Case(
      "Too few images of a class",
      f"{_OWN} --config.teacher_train.batch_size=2 --config.ipc=3",
      "A distilled set starts with `ipc` real images of every class.",
      "Lower `ipc`, or give more images.",
      _with(),
    ),
    Case(
      "Constant pixels",
      _OWN,
      "The preprocessing divides by a standard deviation, which is 0.",
      "`--config.preprocessing=none`, or look at the images: perhaps they are all the same.",
      _with(train_images=np.full((4, 8, 8, 1), 7, np.uint8)),
    ),
    Case(
      "A `data_dir` of another level",
      f"{_TINY} --config.dataset=cifar10 --config.data_dir=sets/cifar10",
      "`data_dir` is the folder in which the folder of the set lies.",
      "Give the directory that the message names.",
      lambda directory: (directory / "sets" / "cifar10").mkdir(parents=True),
    ),
  ),
  "Work directories": (
    Case(
      "Another configuration",
      f"{_TINY} --workdir=work",
      "A work directory belongs to one configuration, so that its figures have one meaning.",
      "Choose another directory, or go back to the values that the message calls `there`.",
      _claimed,
    ),
    Case(
      "Two runs in one directory",
      f"{_TINY} --workdir=work",
      "The run is still going on, perhaps in another window or on another host.",
      "Wait for it, or choose another directory. The lock of a process that is gone counts for nothing.",
      lambda directory: take(directory / "work"),
    ),
    Case(
      "Data that changed",
      f"{_OWN} --config.teacher_train.batch_size=2 --workdir=work",
      "The file or folder holds other images than when the run began, and its figures would mix both.",
      "Put the former data back, or begin a new run on the new ones.",
      _on_other_data,
    ),
    Case(
      "A directory with other things in it",
      f"{_TINY} --workdir=.",
      "The directory is no work directory and is not empty; nothing in it is touched.",
      "Choose one that is new or empty.",
      _photo,
    ),
  ),
  "Distilled sets": (
    Case(
      "A file that is no distilled set",
      lambda directory: jdistill.load(directory / "photo.png"),
      "`jdistill.load` opens what a run has left in `result/`.",
      "Give the work directory, its `result/`, or `distilled.npz`.",
      _photo,
    ),
    Case(
      "No such set",
      lambda directory: jdistill.load(directory / "runs" / "demo"),
      "The run has not come to its stage `export`, or lies elsewhere.",
      "Run the command to its end; `make demo` leaves one in `runs/demo`.",
    ),
  ),
  "Language models": (
    Case(
      "A type of GGUF that is not read",
      lambda directory: pretrained.load_language_model(directory / "model.gguf"),
      "The file holds a tensor in a quantisation that is not decoded here.",
      "Take the same model as Q8_0, Q4_1, Q4_0, F16 or BF16; mixed files such as Q4_K_M have several types.",
      _gguf,
    ),
    Case(
      "Arrays that are missing or left over",
      lambda directory: pretrained.load_language_model(directory / "model"),
      "The weights belong to another architecture or another `config.json`. Up to eight names of a kind are listed.",
      "Put the files of one checkpoint together.",
      _with_other_arrays,
    ),
    Case(
      "An architecture that no decoder has",
      lambda directory: pretrained.load_language_model(directory / "model"),
      "The configuration asks for something that would change every logit and does not exist here.",
      "Take a model without it. [checkpoints.md](checkpoints.md) says what is read.",
      _with_scaled_positions,
    ),
    Case(
      "Another tokeniser",
      lambda directory: language.check_same_tokenizer(
        language.byte_tokenizer(), language.byte_tokenizer(("<|endoftext|>",)), "a text"
      ),
      "Logits of teacher and student belong to different tokens, so no divergence between them means anything.",
      "Train the student on the teacher's tokeniser, or on texts that the teacher writes.",
    ),
  ),
}


def message(case: Case) -> str:
  """What the code says to a mistake."""
  with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
    directory = Path(name).resolve()
    kept = case.prepare(directory)
    if callable(case.mistake):
      try:
        case.mistake(directory)
      except UserError as error:
        text = str(error)
    else:
      said = io.StringIO()
      with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        run.main(["run", *case.mistake.split()])
      text = said.getvalue().strip()
    if isinstance(kept, Lock):
      kept.release()
    text = text.replace(str(directory), "/home/me").replace(str(os.getpid()), "4242")
    return text.replace(socket.gethostname(), "thishost")


def page() -> str:
  """The whole page."""
  parts = ["# Messages", "What jdistill says to common mistakes, and what helps. All of it is said before work starts."]
  for title, cases in SECTIONS.items():
    parts.append(f"## {title}")
    for case in cases:
      command = "" if callable(case.mistake) else f"    python -m jdistill.run {case.mistake}\n"
      told = textwrap.fill(f"{case.cause} {case.cure}", 120, break_on_hyphens=False, break_long_words=False)
      parts += [f"### {case.title}", f"{command}    {message(case)}", told]
  return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
  write_text(PAGE, page())
