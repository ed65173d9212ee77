"""The command line: what it lists, teaches and refuses, and that one call leaves nothing behind for the next."""

import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from jdistill import catalog, cli, run
from jdistill.base import UserError
from jdistill.stages import plan

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TINY = "--config=experiments/datm.py:tiny"


def test_list_prints_the_catalog(call):
  result = call("--list")
  assert (result.code, result.err) == (0, "")
  lines = result.out.splitlines()
  assert lines[-1].startswith(f"experiments lie in {REPOSITORY / 'experiments'};")
  assert len(lines) == 4 + len(catalog.rows())
  for row, line in zip(catalog.rows(), lines[2:-2], strict=True):
    for word in (row.name, row.title, row.venue, row.paper, row.config):
      assert word in line


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_teaches_with_commands_and_names_every_flag(call, flag):
  result = call(flag)
  assert (result.code, result.err) == (0, "")
  for word in ("python -m jdistill.run --config=experiments/datm.py", "--config.ipc=10", "--config.data_dir="):
    assert word in result.out
  for flag in ("--config", "--workdir", "--artefacts", "--list", "--dry_run"):
    assert f"  {flag} " in result.out


def test_dry_run_prints_a_plan_and_writes_nothing(call, tmp_path, monkeypatch):
  for name in ("experiments", "jdistill"):
    (tmp_path / name).symlink_to(pathlib.Path.cwd() / name)
  before = sorted(tmp_path.iterdir())
  monkeypatch.chdir(tmp_path)
  result = call(TINY, "--dry_run")
  assert (result.code, result.err) == (0, "")
  assert sorted(tmp_path.iterdir()) == before
  for word in (
    "200 training, 0 held-out and 100 test examples",
    "(8, 8, 1)",
    "(64, 16)",
    "1,210 parameters",
    "4.8 kB",
    "scratch",
  ):
    assert word in result.out, word
  rows = [line.split("|")[1].strip() for line in result.out.splitlines() if line.startswith("| ")]
  assert rows[-5:] == ["teachers", "distill", "evaluate", "export", "report"]


def test_dry_run_of_arms_plans_every_one_of_them(call):
  result = call("--config=experiments/kd.py:tiny", "--dry_run")
  assert (result.code, result.err) == (0, "")
  rows = [[text.strip() for text in line.split("|")[1:4]] for line in result.out.splitlines() if line.startswith("| ")]
  stages = ["teachers", "select", "patches", "tune", "students", "students", "report"]
  planned = rows[-len(stages) :]
  assert [stage for stage, _, _ in planned] == stages
  # batches of 50: forward, gradients of weights, and of the inputs of all layers but the first
  teacher, student = 2 * 50 * (2 * 64 * 64 + 64 * 10), 2 * 50 * (64 * 32 + 32 * 10)
  steps = {"teacher": 3 * teacher - 2 * 50 * 64 * 64, "ce": 3 * student - 2 * 50 * 64 * 32}
  assert planned[0][1].startswith("teacher: 1 x mlp (8,970 parameters), 3 epochs of ce, batch 50")
  assert planned[0][2].startswith(f"{steps['teacher'] / 1e6:.2f} MFLOP a step")
  assert planned[5][1] == "ce: 2 x mlp (2,410 parameters), 3 steps"
  assert planned[5][2].startswith(f"{steps['ce'] / 1e3:.0f} kFLOP a step")


def test_dry_run_of_a_sweep_plans_its_first_run(call, monkeypatch):
  planned = []
  monkeypatch.setattr(plan, "show", lambda run, stages: planned.append(run))
  assert call("--config=experiments/datm_difficulty.py:tiny", "--dry_run") == (0, "", "")
  assert [context.config["method"]["max_start_epoch"] for context in planned] == [1]


def test_one_call_leaves_nothing_behind_for_the_next(call, tmp_path):
  assert call("--list").code == 0
  assert "--config: not given" in call().complaint  # not a second list
  assert "ipc=0" in call(TINY, "--config.ipc=0").complaint
  values = cli.parse(["run", TINY, f"--workdir={tmp_path}"])
  assert values["config"].value.ipc == 1
  assert cli.parse(["run", TINY])["workdir"].value is None


def test_overrides_reach_the_configuration():
  config = cli.parse(["run", TINY, "--config.ipc=3", "--config.method.image_lr=7"])
  config = config["config"].value
  assert (config.ipc, config.method.image_lr) == (3, 7.0)
  assert isinstance(config.method.image_lr, float)


def test_config_may_come_after_its_overrides_and_as_two_words():
  values = cli.parse(["run", "--config.ipc=3", "--workdir=w", "--config", "experiments/datm.py:tiny"])
  assert (values["config"].value.ipc, values["workdir"].value) == (3, "w")


def test_networks_can_be_changed_from_the_command_line():
  argv = ["run", "--config=experiments/datm.py", "--config.model.name=mlp", "--config.model.widths=(8,8)"]
  context = run.make_run(cli.parse(argv)["config"].value)
  assert context.config["model"] == {"name": "mlp", "widths": [8, 8], "act": "relu", "init": "torch"}


def test_lists_can_be_written_with_commas():
  lists = ["--config.eval.models=mlp,lenet", "--config.stages=teachers,distill", "--config.eval.control_lrs=0.1,0.2"]
  context = run.make_run(cli.parse(["run", TINY, *lists])["config"].value)
  assert context.config["eval"]["models"] == ["mlp", "lenet"]
  assert context.config["stages"] == ["teachers", "distill"]
  assert context.config["eval"]["control_lrs"] == [0.1, 0.2]


def test_a_key_can_be_set_back_to_its_tested_value():
  context = run.make_run(cli.parse(["run", TINY, "--config.steps=None", "--config.train_size=None"])["config"].value)
  assert (context.config["steps"], context.config["train_size"]) == (600, None)  # digits' own, and all images


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([], ["--config: not given", "experiments/datm.py"]),
    (["--config"], ["--config: needs a value"]),
    (["--config="], ["--config: needs a value"]),
    (["--config=nope.py"], ["--config=nope.py: no such file"]),
    (["--config=nope.py", "--config.ipc=2"], ["--config=nope.py: no such file"]),
    (["--config=experiments"], ["--config=experiments: no such file"]),
    (["--config.ipc=2"], ["config.ipc=2: --config is not given"]),
    (["--config=experiments/datm.py:nope"], ["unknown preset 'nope'", "cifar10_ipc10"]),
    (["--config=experiments/mtt.py:cifar10_ipc500"], ["unknown preset", "cifar10_ipc50"]),
    (["--config=experiments/datm_difficulty.py:nope"], ["unknown preset"]),
    (["--config=README.md"], ["--config=README.md: is not a Python file"]),
    (["--cofnig=experiments/datm.py"], ["--cofnig: unknown flag", "did you mean 'config'"]),
    ([TINY, "--workdri=w"], ["--workdri: unknown flag", "did you mean 'workdir'"]),
    ([TINY, "--config.ipc=2", "--workdri=w"], ["--workdri: unknown flag", "did you mean 'workdir'"]),
    ([TINY, "--config.trainsize=None"], ["config.trainsize=None: unknown key", "'train_size'"]),
    ([TINY, "--list=3"], ["--list=3"]),
    ([TINY, "and", "more"], ["and: unexpected argument"]),
  ],
  ids=lambda value: " ".join(value) if isinstance(value, list) and value and value[0].startswith("--") else None,
)
def test_a_bad_command_line_is_one_readable_line(call, arguments, words):
  complaint = call(*arguments).complaint
  for word in words:
    assert word in complaint


@pytest.mark.parametrize(
  ("code", "words"),
  [
    ("def get_config(:\n", ["cannot be loaded"]),
    ("x = 1\n", ["cannot be loaded", "get_config"]),
    ("import no_such_module\ndef get_config(): pass\n", ["cannot be loaded", "no_such_module"]),
    ("def get_config():\n  return 1 / 0\n", ["cannot be loaded", "division by zero"]),
    ("def get_config():\n  return None\n", ["config"]),
    ("def get_config():\n  return 3\n", ["config"]),
    (
      "from jdistill.base import UserError\ndef get_config(): raise UserError('ipc=-1: too few')\n",
      ["cannot be loaded: ipc=-1: too few"],
    ),
  ],
)
def test_a_broken_experiment_file_is_one_readable_line(call, tmp_path, code, words):
  file = tmp_path / "broken.py"
  file.write_text(code)
  complaint = call(f"--config={file}", f"--workdir={tmp_path / 'work'}").complaint
  for word in words:
    assert word in complaint


def test_an_experiment_of_ones_own_finds_its_neighbours_and_the_shipped_ones(tmp_path):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "shared.py").write_text("NAME = 'from next door'\n")
  (tmp_path / "mine" / "trial.py").write_text(
    "from . import datm, shared\n"
    "def get_config():\n  config = datm.get_config('tiny')\n  config.name = shared.NAME\n  return config\n"
  )
  values = cli.parse(["run", f"--config={tmp_path / 'mine' / 'trial.py'}"])
  assert values["config"].value.name == "from next door"


@pytest.mark.parametrize("form", ["module", "folder"])
def test_a_module_of_the_users_own_called_experiments_changes_nothing(tmp_path, monkeypatch, form):
  if form == "module":
    (tmp_path / "experiments.py").write_text("common = None\n")
  else:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "common.py").write_text("raise ImportError('not this one')\n")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  for file in (REPOSITORY / "experiments" / "pld.py", "experiments/pld.py", "pld.py"):
    assert cli.parse(["run", f"--config={file}:tiny"])["config"].value.name == "pld"


def test_a_copied_folder_and_a_copied_file_work_under_any_name(tmp_path, monkeypatch):
  shutil.copytree(REPOSITORY / "experiments", tmp_path / "my trials")
  (tmp_path / "alone").mkdir()
  shutil.copy(REPOSITORY / "experiments" / "pld.py", tmp_path / "alone" / "changed.py")
  monkeypatch.setenv("HOME", str(tmp_path))
  for file in (tmp_path / "my trials" / "pld.py", tmp_path / "alone" / "changed.py", "~/alone/changed.py"):
    assert cli.parse(["run", f"--config={file}:tiny"])["config"].value.name == "pld"
  (tmp_path / "experiments").mkdir()
  (tmp_path / "experiments" / "pld.py").write_text(
    "import ml_collections\ndef get_config():\n  return ml_collections.ConfigDict({'name': 'own'})\n"
  )
  monkeypatch.chdir(tmp_path)  # a file that is there wins over the shipped one
  assert cli.parse(["run", "--config=experiments/pld.py"])["config"].value.name == "own"


def test_a_file_of_flags(call, tmp_path):
  (tmp_path / "flags.txt").write_text(f"{TINY}\n--config.ipc=4\n# a comment\n")
  values = cli.parse(["run", f"--flagfile={tmp_path / 'flags.txt'}", "--config.steps=3"])
  assert (values["config"].value.ipc, values["config"].value.steps) == (4, 3)
  complaint = call(f"--flagfile={tmp_path / 'none.txt'}").complaint
  assert complaint.startswith("--flagfile: ") and complaint.endswith("give a file with one flag per line")


def test_run_experiment_refuses_like_the_command(tmp_path):
  experiment = cli.parse(["run", TINY])["config"].value
  experiment.ipc = -1
  with pytest.raises(UserError, match="ipc=-1: must be at least 1"):
    run.run_experiment(experiment, tmp_path / "work")
  assert not (tmp_path / "work").exists()


def test_signal_handlers_are_those_of_before_afterwards(call):
  before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
  assert "ipc" in call(TINY, "--config.ipc=500").complaint
  assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_real_command_prints_nothing_but_its_line():
  command = [sys.executable, "-m", "jdistill.run", TINY, "--config.ipcc=3"]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  assert result.returncode == 1
  assert (result.stdout, result.stderr) == ("", "jdistill: config.ipcc=3: unknown key; did you mean 'ipc'?\n")
