"""Metric writers: golden lines, resumes without doubles, crash-torn files, TensorBoard."""

import errno
import json
import math
import os
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.reporting import writers


def _write(path, steps, stage="distill", **options):
  writer = writers.JsonlWriter(path, stage, clock=lambda: 12.34567, **options)
  for step in steps:
    writer.write(step, {"loss": step / 2})
  writer.close()


def _steps(path, stage=None):
  return [(record["stage"], record["step"]) for record in writers.read_jsonl(path, stage)]


def test_jsonl_golden(tmp_path):
  path = tmp_path / "deep" / "metrics.jsonl"
  writer = writers.JsonlWriter(path, "distill", clock=lambda: 12.34567)
  writer.write(np.int32(1), {"train/loss": jnp.float32(0.5), "count": 3})
  writer.write(2, {"a": float("nan"), "b": np.float32("inf"), "c": jnp.full((1, 1), -jnp.inf)})
  assert path.read_text() == (  # before closing: every line is already there
    '{"step": 1, "stage": "distill", "time": 12.346, "train/loss": 0.5, "count": 3.0}\n'
    '{"step": 2, "stage": "distill", "time": 12.346, "a": "nan", "b": "inf", "c": "-inf"}\n'
  )
  writer.close()
  writer.close()
  first, second = writers.read_jsonl(path)
  assert first == {"step": 1, "stage": "distill", "time": 12.346, "train/loss": 0.5, "count": 3.0}
  assert math.isnan(second["a"]) and second["b"] == math.inf and second["c"] == -math.inf


def test_lines_are_strict_json(tmp_path):
  _write(tmp_path / "m", [])
  writer = writers.JsonlWriter(tmp_path / "m", "x")
  writer.write(0, {"a": float("nan")})
  writer.close()

  def refuse(constant):
    raise AssertionError(constant)

  json.loads((tmp_path / "m").read_text(), parse_constant=refuse)


@pytest.mark.parametrize("name", ["step", "stage", "time"])
def test_reserved_names(tmp_path, name):
  writer = writers.JsonlWriter(tmp_path / "m", "x")
  with pytest.raises(UserError, match=f"metric '{name}' has a reserved name"):
    writer.write(0, {name: 1.0})
  with pytest.raises(UserError, match=r"metric 'loss' has shape \(2,\)"):
    writer.write(0, {"loss": np.zeros(2)})
  writer.close()
  assert (tmp_path / "m").read_bytes() == b""


def test_resume_drops_later_lines_of_its_stage_only(tmp_path):
  path = tmp_path / "m"
  _write(path, [1, 2, 3, 4], "experts")
  _write(path, [1, 2, 3])
  _write(path, [3, 4], resume_step=2)
  assert _steps(path, "distill") == [("distill", step) for step in (1, 2, 3, 4)]
  assert _steps(path, "experts") == [("experts", step) for step in (1, 2, 3, 4)]
  _write(path, [1], resume_step=-1)
  assert _steps(path, "distill") == [("distill", 1)]
  _write(path, [7])  # no resume: nothing is dropped
  assert _steps(path, "distill") == [("distill", 1), ("distill", 7)]


@pytest.mark.parametrize("torn", [b'{"step": 3, "sta', b"\x00\x00\x00", b"12", b'{"step": 3, "a": "\xc3'])
def test_a_torn_last_line_is_removed(tmp_path, torn):
  path = tmp_path / "m"
  _write(path, [1, 2])
  with open(path, "ab") as file:
    file.write(torn)
  assert _steps(path) == [("distill", 1), ("distill", 2)]
  _write(path, [3])
  assert _steps(path) == [("distill", step) for step in (1, 2, 3)]


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
  path = tmp_path / "m"
  _write(path, [1, 2])
  path.write_bytes(path.read_bytes()[:-1])
  _write(path, [3])
  assert _steps(path) == [("distill", step) for step in (1, 2, 3)]


def test_damage_in_the_middle_is_named(tmp_path):
  path = tmp_path / "m"
  path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
  for action in (lambda: writers.read_jsonl(path), lambda: writers.JsonlWriter(path, "x")):
    with pytest.raises(UserError, match=r"m: line 2 is damaged"):
      action()
  with pytest.raises(UserError, match="does not exist"):
    writers.read_jsonl(tmp_path / "none")


def test_a_crash_while_truncating_loses_nothing(tmp_path, monkeypatch):
  path = tmp_path / "m"
  _write(path, [1, 2, 3])
  before = path.read_bytes()

  def crash(*_):
    raise RuntimeError("power cut")

  monkeypatch.setattr(os, "replace", crash)
  with pytest.raises(RuntimeError, match="power cut"):
    writers.JsonlWriter(path, "distill", resume_step=1)
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ["m"]


def test_a_full_disk_leaves_no_half_line(tmp_path):
  path = tmp_path / "m"
  _write(path, [1])
  before = path.read_bytes()
  writer = writers.JsonlWriter(path, "distill")
  real = writer._file

  class Nearly:
    """Takes five bytes of a write, then has no space."""

    taken = 0

    def write(self, data):
      if self.taken:
        raise OSError(errno.ENOSPC, "No space left on device")
      self.taken = real.write(bytes(data[:5]))
      return self.taken

    def __getattr__(self, name):
      return getattr(real, name)

  writer._file = Nearly()
  with pytest.raises(UserError, match="no space left"):
    writer.write(2, {"loss": 1.0})
  assert path.read_bytes() == before
  writer._file = real
  writer.write(2, {"loss": 1.0})
  writer.close()
  assert _steps(path) == [("distill", 1), ("distill", 2)]


def test_tensorboard_missing(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(UserError, match=r"pip install 'jdistill\[tensorboard\]'"):
    writers.TensorBoardWriter(tmp_path)


def test_tensorboard_events(tmp_path):
  pytest.importorskip("tensorboardX")
  from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401 - the protos below come with it
  from tensorboardX.proto import event_pb2

  writer = writers.TensorBoardWriter(tmp_path, resume_step=4)
  writer.write(5, {"train/loss": jnp.float32(0.25)})
  with pytest.raises(UserError, match="shape"):
    writer.write(6, {"bad": np.zeros(3)})
  writer.close()
  (path,) = tmp_path.iterdir()
  data, events = path.read_bytes(), []
  while data:  # TFRecord: length, its CRC, payload, its CRC
    size = int.from_bytes(data[:8], "little")
    events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  assert [e.step for e in events if e.session_log.status == e.session_log.START] == [
    5
  ]  # hides 5 and later of old files
  points = [(e.step, value.tag, value.simple_value) for e in events for value in e.summary.value]
  assert points == [(5, "train/loss", 0.25)]
