"""The one table of methods. It feeds `--list`, the configuration check, the documentation, citations and the tests.

Names become functions here and nowhere else. A row says where the builder is, which hyper-parameters a configuration
may set, what its stream is made of, and where its experiment and its tests are.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jdistill.base import UserError


class Row(NamedTuple):
  """One published method.

  Attributes:
    name: its key in `config.method.name`.
    family: `dataset`, `knowledge`, `language`, `diffusion`, `selection` or `curriculum`.
    title: the paper's title.
    authors, venue, arxiv: where it was published.
    builder: `"module:function"`.
    stream: what its steps consume; `jdistill.stages` knows how to make it. For knowledge distillation, the settings
      (kinds of data) it can be run in, separated by blanks.
    stream_options: names and defaults of the options that belong to the stream and the starting point.
    values: where its defaults differ from the builder's.
    config: its experiment.
    test: its tests.
  """

  name: str
  family: str
  title: str
  authors: str
  venue: str
  arxiv: str
  builder: str
  stream: str
  stream_options: Mapping[str, Any]
  values: Mapping[str, Any]
  config: str
  test: str

  def build(self) -> Callable:
    """The builder itself."""
    module, name = self.builder.split(":")
    return getattr(importlib.import_module(module), name)

  def options(self) -> dict[str, Any]:
    """Every hyper-parameter a configuration may set, with its default."""
    return builder_options(self.build()) | dict(self.stream_options) | dict(self.values)


_SEGMENTS = {
  "gradient": "mixed",
  "window": None,
  "chunk_size": None,
  "initial": "correct",
  "labels": "soft",
  "lr_init": 0.01,
  "expert_epochs": 2,
  "min_start_epoch": 0,
  "current_start_epoch": None,
  "max_start_epoch": 20,
  "schedule_steps": 1000,
  "augment": "color_crop_cutout_flip_scale_rotate",
}

_KD = {"family": "knowledge", "stream_options": {}, "values": {}}
_ANY = "supervised"

_ROWS = (
  Row(
    name="datm",
    family="dataset",
    title="Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching",
    authors="Ziyao Guo and Kai Wang and George Cazenavette and Hui Li and Kaipeng Zhang and Yang You",
    venue="ICLR 2024",
    arxiv="2310.05773",
    builder="jdistill.methods.dataset:trajectory_method",
    stream="expert_segments",
    stream_options=_SEGMENTS,
    values={},
    config="experiments/datm.py",
    test="tests/methods/test_trajectory.py",
  ),
  Row(
    name="mtt",
    family="dataset",
    title="Dataset Distillation by Matching Training Trajectories",
    authors="George Cazenavette and Tongzhou Wang and Antonio Torralba and Alexei A. Efros and Jun-Yan Zhu",
    venue="CVPR 2022",
    arxiv="2203.11932",
    builder="jdistill.methods.dataset:trajectory_method",
    stream="expert_segments",
    stream_options=_SEGMENTS,
    values={"learn_labels": False, "threshold": None, "labels": "hard", "initial": "real"},
    config="experiments/mtt.py",
    test="tests/methods/test_trajectory.py",
  ),
  Row(
    name="ce",
    title="Rethinking the Inception Architecture for Computer Vision",
    authors="Christian Szegedy and Vincent Vanhoucke and Sergey Ioffe and Jonathon Shlens and Zbigniew Wojna",
    venue="CVPR 2016",
    arxiv="1512.00567",
    builder="jdistill.methods.knowledge.logits:ce",
    stream=_ANY,
    config="experiments/ce.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
  Row(
    name="kd",
    title="Distilling the Knowledge in a Neural Network",
    authors="Geoffrey Hinton and Oriol Vinyals and Jeff Dean",
    venue="NIPS Deep Learning Workshop 2014",
    arxiv="1503.02531",
    builder="jdistill.methods.knowledge.logits:kd",
    stream=_ANY,
    config="experiments/kd.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
  Row(
    name="dkd",
    title="Decoupled Knowledge Distillation",
    authors="Borui Zhao and Quan Cui and Renjie Song and Yiyu Qiu and Jiajun Liang",
    venue="CVPR 2022",
    arxiv="2203.08679",
    builder="jdistill.methods.knowledge.logits:dkd",
    stream=_ANY,
    config="experiments/dkd.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
  Row(
    name="dist",
    title="Knowledge Distillation from A Stronger Teacher",
    authors="Tao Huang and Shan You and Fei Wang and Chen Qian and Chang Xu",
    venue="NeurIPS 2022",
    arxiv="2205.10536",
    builder="jdistill.methods.knowledge.logits:dist",
    stream=_ANY,
    config="experiments/dist.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
  Row(
    name="pld",
    title="PLD: A Choice-Theoretic List-Wise Knowledge Distillation",
    authors="Ejafa Bassam and Dawei Zhu and Kaigui Bian",
    venue="NeurIPS 2025",
    arxiv="2506.12542",
    builder="jdistill.methods.knowledge.logits:pld",
    stream=_ANY,
    config="experiments/pld.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
)


# What experiments in knowledge distillation can be about: name -> the builder of a `jdistill.settings.Setting`.
_SETTINGS = {
  "supervised": "jdistill.settings.supervised:supervised",
}


def setting_names() -> list[str]:
  """The names of all settings."""
  return list(_SETTINGS)


def setting(name: str) -> Callable:
  """The builder of a setting, `(Request, *, options) -> Setting`."""
  module, function = _SETTINGS[name].split(":")
  return getattr(importlib.import_module(module), function)


def builder_options(builder: Callable) -> dict[str, Any]:
  """The plain-valued keyword-only arguments of a builder and their defaults; collaborators (functions) are left out."""
  parameters = inspect.signature(builder).parameters.values()
  plain = (bool, int, float, str, type(None))
  return {
    p.name: p.default
    for p in parameters
    if p.kind is p.KEYWORD_ONLY and isinstance(p.default, plain) and "Augmentation" not in str(p.annotation)
  }


def rows() -> tuple[Row, ...]:
  """All methods, in the order of the table."""
  return _ROWS


def names() -> list[str]:
  """The names of all methods."""
  return [row.name for row in _ROWS]


def row(name: str) -> Row:
  """The row of a method.

  Raises:
    UserError: no such method; the nearest names are given.
  """
  for candidate in _ROWS:
    if candidate.name == name:
      return candidate
  raise UserError(f"method.name={name!r}: unknown{near_matches(name, names())}")


def near_matches(name: str, known) -> str:
  """The end of a message about an unknown name: the near matches, or all names where nothing is near."""
  known = list(known)
  near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
  if near:
    return f"; did you mean {' or '.join(repr(n) for n in near)}?"
  return f"; choose one of {', '.join(sorted(known))}"


def citation(name: str) -> str:
  """BibTeX of the paper behind a method.

  Args:
    name: the method's name in the catalog.
  """
  entry = row(name)
  year = entry.venue.split()[-1]
  return "\n".join(
    (
      f"@inproceedings{{{entry.name}{year},",
      f"  title = {{{entry.title}}},",
      f"  author = {{{entry.authors}}},",
      f"  booktitle = {{{entry.venue.rsplit(' ', 1)[0]}}},",
      f"  year = {{{year}}},",
      f"  eprint = {{{entry.arxiv}}},",
      "  archivePrefix = {arXiv},",
      "}",
    )
  )


def table() -> tuple[list[str], list[list[str]]]:
  """Headers and rows of `--list`."""
  headers = ["method", "family", "paper", "arXiv", "experiment"]
  return headers, [[r.name, r.family, f"{r.title} ({r.venue})", r.arxiv, r.config] for r in _ROWS]
