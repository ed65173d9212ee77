"""Plans for TPUs in which the chips share parameters, optimiser and teachers; CPU devices stand in for them."""

import re

import jax

from jdistill import run
from jdistill.stages import topology


def test_where_whole_copies_find_no_room_parameters_are_divided(capsys, monkeypatch):
  compile_update, sizes = topology.job_plan.compile_update, []

  def first_exhausted(*arguments, divide=False):
    found = compile_update(*arguments, divide=divide)
    sizes.append(found.memory_analysis().argument_size_in_bytes)
    if not divide:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM (30.21G of 15.75G).")
    return found

  monkeypatch.setattr(topology, "find_devices", lambda wanted: jax.devices()[:4])
  monkeypatch.setattr(topology.job_plan, "compile_update", first_exhausted)
  arguments = ["--config.targets.source=online", "--config.student.width=16"]
  assert run.main(["run", "--config=experiments/fkl.py:tiny", "--dry_run", "--topology=v5e:2x2", *arguments]) == 0
  out = capsys.readouterr().out
  assert "with parameters divided among the chips: see below" in out and re.search(r"^fits: ", out, re.MULTILINE)
  assert "parameters, optimiser and teachers divided among them" in out and "all-gather" in out
  whole, divided = sizes
  assert whole / 4 <= divided < whole / 2  # the rows of the batch are whole on every device


def test_the_longest_axis_that_devices_divide_is_cut():
  mesh = topology.parallel.make_mesh(data=4, devices=jax.devices()[:4])
  shapes = {"a": (8, 12), "b": (12, 8), "c": (3, 8), "d": (5,), "e": ()}
  found = topology.parallel.divided({name: jax.ShapeDtypeStruct(s, "float32") for name, s in shapes.items()}, mesh)
  assert {name: tuple(one.spec) for name, one in found.items()} == {
    "a": (None, "data"), "b": ("data", None), "c": (None, "data"), "d": (None,), "e": (),
  }  # fmt: skip
