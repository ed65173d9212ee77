"""Benchmarks are not run by tests; what they import and the keys that they set must be there."""

import ast
import importlib
from pathlib import Path

import pytest

from experiments import datm
from jdistill import stages

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
FILES = sorted(FOLDER.glob("[!_]*.py"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_everything_that_is_imported_is_there(path):
  """Also inside functions, where workers import JAX or PyTorch after their threads are set."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in ("jdistill", "benchmarks", "experiments"):
      module = importlib.import_module(node.module)
      for alias in node.names:
        assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}"), alias.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_benchmark_tells_how_it_is_run(path):
  assert f"python -m benchmarks.{path.stem}" in ast.get_docstring(ast.parse(path.read_text()))


def test_the_stages_of_the_first_step_are_those_of_the_experiment():
  text = (FOLDER / "first_step.py").read_text()
  assert all(f"--config.stages=('{name}',)" in text for name in ("teachers", "distill"))
  assert {"teachers", "distill"} <= set(stages.resolve(datm.get_config())["stages"])
