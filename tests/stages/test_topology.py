"""`--dry_run` on devices that are there and on TPUs that are not."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tracemalloc

import jax
import pytest

from jdistill import cli, run
from jdistill.base import UserError
from jdistill.jobs import arms, job_plan, traced
from jdistill.reporting import chips, cost, flops
from jdistill.stages import build, plan, topology

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = "--config=experiments/datm.py:tiny"
STUDENTS = "--config=experiments/pld.py:tiny"
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu-plan)"
)


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


def make(*arguments):
  return run.make_run(cli.parse(["run", *arguments])["config"].value)


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
  ("preset", "shape", "classes", "images", "rows"),
  [
    ("cifar10_ipc1000", (32, 32, 3), 10, 10_000, 1000),
    ("cifar100_ipc10", (32, 32, 3), 100, 1000, 1000),
    ("tiny_imagenet_ipc1", (64, 64, 3), 200, 200, 200),
  ],
)
def test_published_runs_need_no_data_and_no_memory_for_it(preset, shape, classes, images, rows):
  one = make(f"--config=experiments/datm.py:{preset}")
  tracemalloc.start()
  assert topology.take_shapes(one).startswith("not read")
  task = one.task()
  assert tracemalloc.get_traced_memory()[1] < 30e6  # the images themselves would take 600 MB and more
  tracemalloc.stop()
  assert (task.input_shape, task.num_classes, task.teacher.x.shape[1:]) == (shape, classes, shape)
  assert (build.count(one), build.inner_rows(one)) == (images, rows)


def test_published_students_need_no_data_either():
  one = make("--config=experiments/tgeo_kd.py:cifar100_resnet56_resnet20")
  topology.take_shapes(one)
  assert one.task().data.x.shape == (49_000, 32, 32, 3)
  job = traced.job(one, "tgeo_kd", one.config["arms"]["tgeo_kd"])
  assert job_plan.plan_of(one, job).steps == 240 * (49_000 // 64)


def test_shapes_by_name_are_checked_like_data():
  one = make("--config=experiments/datm.py:cifar10_ipc1000", "--config.ipc=5001")
  topology.take_shapes(one)
  with pytest.raises(UserError, match="ipc=5001"):
    topology.distill_target(one, jax.devices())


def test_other_data_and_named_folders_are_read(tmp_path):
  one = make(TINY)
  assert topology.take_shapes(one) == "read" and len(one.task().teacher.y) == 200
  other = make("--config=experiments/datm.py:cifar10_ipc1000", f"--config.data_dir={tmp_path}")
  assert topology.take_shapes(other) == "read"
  with pytest.raises(UserError, match="cifar10"):
    other.task()


@pytest.fixture
def not_compiled(monkeypatch):
  """The meshes that a program would have been compiled for."""
  meshes = []
  monkeypatch.setattr(topology.build, "compile_step", lambda one, mesh: meshes.append(mesh))
  monkeypatch.setattr(topology.job_plan, "compile_update", lambda one, job, mesh: meshes.append(mesh))
  return meshes


@pytest.mark.parametrize(("devices", "data"), [(8, 5), (4, 2), (2, 2), (1, 1)])
def test_as_many_devices_as_divide_the_rows_of_an_inner_step(devices, data, not_compiled):
  target = topology.distill_target(make(TINY), jax.devices()[:devices])
  assert dict(target.mesh.shape) == {"pool": 1, "data": data} and not_compiled == [target.mesh]
  rows = f"{data} device{'s' if data > 1 else ''} with {10 // data} rows each"
  assert target.about == f"10 images of (8, 8, 1); inner steps of 10, gradient mixed; {rows}" and target.steps == 2


@pytest.mark.parametrize(("devices", "data"), [(8, 5), (4, 2), (1, 1)])
def test_as_many_devices_as_divide_the_batch_of_a_student(devices, data, not_compiled):
  target = topology.student_target(make(STUDENTS), jax.devices()[:devices])
  assert dict(target.mesh.shape) == {"pool": 1, "data": data} and not_compiled == [target.mesh]
  assert target.about.startswith("mlp on batches of 50; ") and f"with {50 // data} rows each" in target.about
  assert target.steps == 3


def test_devices_of_the_user_must_divide_the_rows():
  with pytest.raises(UserError, match=r"^parallel\.data=4: "):
    topology.distill_target(make(TINY, "--config.parallel.data=4"), jax.devices())
  with pytest.raises(UserError, match=r"^parallel\.data=4: does not divide the 50 "):
    topology.student_target(make(STUDENTS, "--config.parallel.data=4"), jax.devices())


def test_routes_that_cannot_spread_rows_are_refused():
  with pytest.raises(UserError, match=r"unroll.gradient='remat'.*use 'mixed'"):
    topology.distill_target(make(TINY, "--config.unroll.gradient=remat"), jax.devices())


def test_a_student_without_its_own_label_is_planned_under_its_subject(not_compiled):
  one = make("--config=experiments/nd.py:tiny")
  label = one.subject
  assert label in one.config["arms"]
  topology.student_target(one, jax.devices())
  assert len(not_compiled) == 1


# -- programs for the devices that are there --------------------------------------------------------------------------


def collectives(target):
  return cost.cost(target.compiled.as_text(), target.mesh.size).collectives


def test_one_sum_of_the_size_of_the_parameters_per_step_and_direction():
  one = make(TINY)
  target = topology.distill_target(one, jax.devices())
  found = collectives(target)
  size, shared = 4 * 1210, 4 * (10 * 64 + 10 * 10 + 1)
  by_size = {one.size: times for one, times in found.items()}
  assert {one.kind for one in found} == {"all-reduce"} and {one.group for one in found} == {5}
  assert by_size.pop(size) == 2 * one.config["method"]["inner_steps"]
  assert sum(size * times for size, times in by_size.items()) == shared  # images, labels and rate, once


def test_an_update_of_a_student_sums_the_gradient_once():
  one = make(STUDENTS, "--config.student.widths=(4,)")
  target = topology.student_target(one, jax.devices()[:2])
  found = collectives(target)
  assert {exchange.kind for exchange in found} == {"all-reduce"} and {one.group for one in found} == {2}
  parameters = 4 * (64 * 4 + 4 + 4 * 10 + 10)
  assert parameters <= sum(exchange.size * times for exchange, times in found.items()) < parameters + 100  # and losses


def test_a_dry_run_speaks_of_this_machine(capsys):
  assert run.main(["run", TINY, "--dry_run", "--config.parallel.data=1"]) == 0
  out = capsys.readouterr().out
  assert "datm on digits: 200 training, 0 held-out and 100 test examples of (8, 8, 1), 10 classes" in out
  assert re.search(r"\| distill +\| 2 steps on 10 images of \(8, 8, 1\) \(3\.0 kB\), gradient mixed", out)
  assert "each of 1 devices holds arguments 15.6 kB, scratch" in out
  assert re.search(r"matmul of 1024 x 1024 runs here at [\d.]+ [GT]FLOP/s; 'at least' takes that rate", out)
  stages = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
  assert [name for name in stages if name in make(TINY).config["stages"]] == make(TINY).config["stages"]


def test_a_dry_run_of_students_tells_steps_and_parameters_of_every_arm(capsys):
  assert run.main(["run", STUDENTS, "--dry_run"]) == 0
  out = capsys.readouterr().out
  weights = 64 * 32 + 32 + 32 * 10 + 10
  assert re.search(rf"\| students +\| pld: 2 x mlp \({weights:,} parameters\), 3 steps", out)
  assert re.search(r"\| teachers +\| teacher: 1 x mlp \([\d,]+ parameters\), 3 epochs of ce, batch 50", out)


def test_the_step_of_this_machine_in_words(monkeypatch):
  monkeypatch.setattr(flops, "peak", lambda: 1e12)
  exchange = {cost.Collective("all-reduce", 1280040, 8): 200}
  step = plan.Step(build.Route("mixed", None), 8, {"arguments": 1000, "scratch": 2_000_000}, 1e12, exchange)
  assert step.held() == (
    "each of 8 devices holds arguments 1.0 kB, scratch 2.0 MB\n200 times a step: all-reduce of 1.3 MB over 8 devices"
  )
  assert flops.text(1e12, 10) == "1 TFLOP a step, 10 TFLOP in all, at least 10 s"
  assert flops.text(1e12, 10, networks=2) == "1 TFLOP a step, 20 TFLOP in all, at least 20 s"
  assert flops.text(float("nan"), 10) == ""  # what is not known is not shown


def test_planned_phases_and_teachers_cost_nothing_to_trace(monkeypatch):
  """Shapes alone: no network is trained or asked."""
  one = make(STUDENTS, "--config.start_method.name=ce")
  monkeypatch.setattr(arms.train, "run", lambda *a, **k: pytest.fail("trained"))
  first, last = (traced.phase(one, "pld", one.config["arms"]["pld"], name) for name in ("start_", ""))
  assert first.parameters == last.parameters == 64 * 32 + 32 + 32 * 10 + 10 and first.steps == last.steps == 3
  student, hidden, teacher = 64 * 32 + 32 * 10, 32 * 10, 64 * 64 + 64 * 64 + 64 * 10  # multiplications per example
  assert first.flops == 2 * 50 * (2 * student + hidden)  # forward, and the gradients of weights and hidden units
  assert last.flops == first.flops + 2 * 50 * teacher


# -- programs for TPUs ------------------------------------------------------------------------------------------------


def report(memory, found, name="v5e:2x4"):
  return topology.report(chips.parse_topology(name), memory, found, 1000)


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


def test_what_does_not_fit_is_told_plainly():
  memory = {"arguments": 1_000_000_000, "scratch": 17_000_000_000}
  text = report(memory, cost.Cost(1.0, 1.0, {}))
  assert "does not fit: 18 of 16 GB HBM per chip" in text and "nested_remat" in text
  assert "\nfits" in report(memory, cost.Cost(1.0, 1.0, {}), "v6e:2x4")
  assert "does not fit: 18 of 17.2 GB HBM per device" in report(
    memory, cost.Cost(1.0, 1.0, {}), "v3:2x2"
  )  # half a chip


def test_the_head_tells_idle_devices(not_compiled):
  one = make(TINY)
  text = topology.head(one, chips.parse_topology("v5e:2x4"), topology.distill_target(one, jax.devices()), "read")
  assert text.startswith("one step of datm on digits (data read), compiled for TPU v5e:2x4: 8 chips\n")
  assert "5 devices with 2 rows each, 3 have nothing to do\n" in text


@pytest.mark.parametrize(
  ("config", "function"), [(TINY, "stages.build.compile_step"), (STUDENTS, "jobs.job_plan.compile_update")]
)
def test_a_compiler_that_runs_out_of_memory_is_no_failure(config, function, capsys, monkeypatch):
  def exhausted(*arguments, **options):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM (30.21G of 15.75G).\nmore")

  monkeypatch.setattr(topology, "find_devices", lambda wanted: jax.devices())
  monkeypatch.setattr(f"jdistill.{function}", exhausted)
  assert run.main(["run", config, "--dry_run", "--topology=v5e:2x4"]) == 0
  out = capsys.readouterr().out
  assert "\ndoes not fit: Ran out of memory on HBM (30.21G of 15.75G).\n" in out
  again = "with parameters divided among the chips: does not fit: Ran out of memory on HBM (30.21G of 15.75G)."
  assert (again in out) == (config == STUDENTS) and "more chips" in out


@pytest.mark.parametrize("config", [TINY, STUDENTS])
def test_the_whole_plan_on_devices_that_stand_in_for_tpus(config, capsys, monkeypatch):
  monkeypatch.setattr(topology, "find_devices", lambda wanted: jax.devices()[:4])
  assert run.main(["run", config, "--dry_run", "--topology=v5e:2x2"]) == 0
  out = capsys.readouterr().out
  assert "compiled for TPU v5e:2x2: 4 chips" in out and re.search(r"^fits: [\d.e-]+ of 16 GB", out, re.MULTILINE)
  assert "| all-reduce |" in re.sub(" +", " ", out)


def compile_for(name, *arguments, config=TINY):
  """The command in a process of its own, which has to choose the CPU by itself."""
  environment = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"}
  command = [sys.executable, "-m", "jdistill.run", config, "--dry_run", f"--topology={name}", *arguments]
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
@pytest.mark.slow
def test_an_update_of_a_student_compiles_for_tpu():
  out = compile_for("v5e:1x1", config=STUDENTS)
  assert "one step of pld on digits (data read), compiled for TPU v5e:1x1: 1 chip" in out
  assert "mlp on batches of 50; 1 device with 50 rows each" in out


@needs_libtpu
@pytest.mark.parametrize("name", ["v3:2x2", "v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:8x16", "v4:4x4x8"])
def test_libtpu_knows_our_slices(name):
  wanted = chips.parse_topology(name)
  assert len(topology.find_devices(wanted)) == wanted.chips * wanted.chip.parts
