"""`--dry_run` on devices that are there and on TPUs that are not."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from jdistill import cli, run
from jdistill.base import UserError
from jdistill.reporting import chips, cost
from jdistill.stages.dataset import build, outer, plan, topology

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = "--config=experiments/datm.py:tiny"
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu-plan)"
)


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def context(*arguments):
  return run.make_context(cli.parse(["run", *arguments])["config"].value)


def refused(capsys, *arguments):
  assert run.main(["run", *arguments]) == 1
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith("jdistill: ") and err.count("\n") == 1
  return err


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_topology_is_only_for_dry_runs(capsys):
  assert "--topology=v5e:2x4: compiles for hardware that is not there; add --dry_run" in refused(
    capsys, TINY, "--topology=v5e:2x4"
  )


def test_unknown_topologies_are_refused_before_anything_else(capsys):
  message = refused(capsys, TINY, "--dry_run", "--topology=v9:2x2")
  assert "'v9'" in message and "v5e" in message


def test_without_libtpu_the_extra_is_named(capsys, monkeypatch):
  monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
  monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
  message = refused(capsys, TINY, "--dry_run", "--topology=v5e:2x4")
  assert "libtpu" in message and "pip install 'jdistill[tpu-plan]'" in message


def test_a_libtpu_that_does_not_fit_is_named(monkeypatch):
  def broken(*arguments, **options):
    raise RuntimeError("version 3 is not version 4\nand more")

  monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setattr(topology.topologies, "get_topology_desc", broken)
  monkeypatch.delenv("TPU_LOG_DIR", raising=False)
  with pytest.raises(UserError, match=r"^--topology=v5e:2x4: libtpu refuses it \(version 3 is not version 4\); pip"):
    topology.find_devices(chips.parse_topology("v5e:2x4"))
  assert "TPU_LOG_DIR" not in os.environ  # what was set for libtpu is gone again


# -- data and devices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("preset", "shape", "classes", "rows"),
  [
    ("cifar10_ipc1000", (32, 32, 3), 10, (10_000, 1000)),
    ("cifar100_ipc10", (32, 32, 3), 100, (1000, 1000)),
    ("tiny_imagenet_ipc1", (64, 64, 3), 200, (200, 200)),
  ],
)
def test_published_settings_need_no_data(preset, shape, classes, rows):
  ctx = context(f"--config=experiments/datm.py:{preset}")
  ctx.dataset, source = topology.dataset(ctx)
  assert source.startswith("not read")
  assert (ctx.dataset.image_shape, ctx.dataset.num_classes) == (shape, classes)
  assert ctx.rows() == rows


def test_shapes_by_name_are_checked_like_data():
  ctx = context("--config=experiments/datm.py:cifar10_ipc1000", "--config.ipc=5001")
  with pytest.raises(UserError, match="ipc=5001"):
    topology.dataset(ctx)


def test_other_data_and_named_folders_are_read(tmp_path):
  found, source = topology.dataset(context(TINY))
  assert (source, len(found.train_y)) == ("read", 200)
  with pytest.raises(UserError, match="cifar10"):
    topology.dataset(context("--config=experiments/datm.py:cifar10_ipc1000", f"--config.data_dir={tmp_path}"))


@pytest.mark.parametrize(("devices", "data"), [(8, 5), (4, 2), (2, 2), (1, 1)])
def test_as_many_devices_as_divide_the_batch(devices, data):
  mesh = topology.choose_mesh(context(TINY), jax.devices()[:devices])
  assert dict(mesh.shape) == {"pool": 1, "data": data}


def test_routes_that_cannot_spread_rows_are_refused():
  with pytest.raises(UserError, match=r"method.gradient='remat'.*use 'mixed'"):
    topology.choose_mesh(context(TINY, "--config.method.gradient=remat"), jax.devices())


# -- programs for the devices that are there --------------------------------------------------------------------------


def test_one_sum_of_the_size_of_the_parameters_per_step_and_direction():
  ctx = context(TINY)
  mesh = topology.choose_mesh(ctx, jax.devices())
  found = cost.cost(outer.compile_step(ctx, mesh).as_text(), mesh.size).collectives
  size, shared = 4 * 1210, 4 * (10 * 64 + 10 * 10 + 1)
  by_size = {one.size: times for one, times in found.items()}
  assert {one.kind for one in found} == {"all-reduce"} and {one.group for one in found} == {5}
  assert by_size.pop(size) == 2 * ctx.config["method"]["inner_steps"]
  assert sum(size * times for size, times in by_size.items()) == shared  # images, labels and rate, once


def test_a_dry_run_speaks_of_this_machine(capsys):
  assert run.main(["run", TINY, "--dry_run", "--config.parallel.data=1"]) == 0
  out = capsys.readouterr().out
  assert "outer step on 1 cpu device, each: arguments 15.6 kB, scratch" in out
  assert re.search(r"matmul of 1024 x 1024 runs here at [\d.]+ [GT]FLOP/s; at that rate a step takes at least", out)


def test_the_step_of_this_machine_in_words():
  # the eight devices of one processor share what was measured
  exchange = {cost.Collective("all-reduce", 1280040, 8): 200}
  step = plan.Step(build.Way("mixed", None), 8, {"arguments": 1000, "scratch": 2_000_000}, 1e12, exchange)
  assert plan.describe_step(step, 10, 1e12).splitlines() == [
    "outer step on 8 cpu devices, each: arguments 1.0 kB, scratch 2.0 MB",
    "a float32 matmul of 1024 x 1024 runs here at 1 TFLOP/s; at that rate a step takes at least 1 s, 10 at least 10 s",
    "200 times a step: all-reduce of 1.3 MB over 8 devices",
  ]


# -- programs for TPUs ------------------------------------------------------------------------------------------------


def report(memory, found, name="v5e:2x4"):
  ctx = context(TINY)
  ctx.config["steps"] = 1000
  return topology.report(ctx, chips.parse_topology(name), memory, found)


def test_the_report_by_hand():
  exchanges = {cost.Collective("all-reduce", 1_000_000, 8): 100}
  text = report({"arguments": 3_000_000_000, "scratch": 100_000_000}, cost.Cost(19.7e12, 409.5e9, exchanges))
  assert "fits: 3.1 of 16 GB HBM per chip" in text
  rows = [re.sub(r"\s+", " ", line) for line in text.splitlines()]
  assert "| matrix products | 19.7 TFLOP | 197 TFLOP/s | 100 ms |" in rows
  assert "| chip <-> HBM | 410 GB | 819 GB/s | 500 ms |" in rows
  assert "| chip -> chips | 175 MB | 200 GB/s | 875 us |" in rows
  assert "a step takes at least 500 ms, 1,000 at least 8.33 min" in rows
  assert "| all-reduce | 1.0 MB | 8 | 100 |" in rows


def test_what_does_not_fit_is_said_plainly():
  memory = {"arguments": 1_000_000_000, "scratch": 17_000_000_000}
  text = report(memory, cost.Cost(1.0, 1.0, {}))
  assert "does not fit: 18 of 16 GB HBM per chip" in text and "nested_remat" in text
  assert "\nfits" in report(memory, cost.Cost(1.0, 1.0, {}), "v6e:2x4")
  assert "does not fit: 18 of 17.2 GB HBM per device" in report(
    memory, cost.Cost(1.0, 1.0, {}), "v3:2x2"
  )  # half a chip


def test_a_compiler_that_runs_out_of_memory_is_no_failure(capsys, monkeypatch):
  def exhausted(ctx, mesh):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM (30.21G of 15.75G).\nmore")

  monkeypatch.setattr(topology, "find_devices", lambda wanted: jax.devices())
  monkeypatch.setattr(topology.outer, "compile_step", exhausted)
  assert run.main(["run", TINY, "--dry_run", "--topology=v5e:2x4"]) == 0
  assert "\ndoes not fit: Ran out of memory on HBM (30.21G of 15.75G).\n" in capsys.readouterr().out


def compile_for(name, *arguments):
  """The command in a process of its own, which has to choose the CPU by itself."""
  environment = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"}
  command = [sys.executable, "-m", "jdistill.run", TINY, "--dry_run", f"--topology={name}", *arguments]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=300)
  assert done.returncode == 0, done.stderr
  assert done.stderr == f"compiling for {name}; this can take minutes\n"  # libtpu is silent
  return done.stdout


@needs_libtpu
@pytest.mark.slow
def test_convolutions_and_augmentation_compile_for_tpu():
  network = ["--config.model.name=convnet", "--config.model.widths=None", "--config.model.width=8"]
  out = compile_for("v5e:2x2", *network, "--config.model.depth=1", "--config.method.augment=color_crop_flip")
  assert "compiled for TPU v5e:2x2: 4 chips" in out and "2 devices with 5 rows each, 2 have nothing to do" in out
  assert re.search(r"^fits: [\d.]+ of 16 GB HBM per chip$", out, re.MULTILINE)
  size = 4 * (9 * 8 + 8 + 2 * 8 + 4 * 4 * 8 * 10 + 10)
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if "all-reduce" in line]
  assert ["all-reduce", f"{size / 1000:.1f} kB", "2", "6"] in rows
  assert len(rows) == 2


@needs_libtpu
@pytest.mark.parametrize("name", ["v3:2x2", "v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:8x16", "v4:4x4x8"])
def test_libtpu_knows_our_slices(name):
  wanted = chips.parse_topology(name)
  assert len(topology.find_devices(wanted)) == wanted.chips * wanted.chip.parts
