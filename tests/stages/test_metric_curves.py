"""Checks of methods with several roles: means over the student's moves, what looks wrong, and sections of samples."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.jobs import exhibits as made_exhibits
from jdistill.methods.knowledge.own import role_metrics
from jdistill.stages import exhibits, metric_curves
from jdistill.tasks import Exhibit, Finished

STEPS = 40
REAL = np.random.default_rng(0).normal(size=(500, 1, 1, 2))


def run(tmp_path, exhibit=None):
  task = SimpleNamespace(data=SimpleNamespace(x=REAL), exhibit=exhibit)
  return SimpleNamespace(workdir=tmp_path, task=lambda: task, subject="dmd2")


def write(tmp_path, label, seeds=(0,), **columns):
  """Metrics of an arm, `(step) -> value` by name."""
  (tmp_path / "metrics").mkdir(exist_ok=True)
  for seed in seeds:
    lines = [
      {"stage": f"students/{label}", "step": step, "time": 0.0, "loss/fake": 1.0}
      | {f"method/{name}": float(value(step)) for name, value in columns.items()}
      for step in range(1, STEPS + 1)
    ]
    file = tmp_path / "metrics" / f"{label}_seed{seed}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return {"metrics": label}


def healthy(**changes):
  return {"spread": lambda step: 1.1, "gap": lambda step: 0.01, "moves_student": lambda step: 1.0} | changes


def test_a_sound_training_has_no_warning(tmp_path):
  cells = {"dmd2": write(tmp_path, "dmd2", (0, 1), **healthy()), "edm": {"metrics": "edm"}}
  (section,), warnings = metric_curves.checks(run(tmp_path), cells)
  assert warnings == [] and "Nothing looks wrong." in section.text
  assert section.images[0][1].is_file()


def test_the_spread_of_real_data_is_that_of_independent_pairs(tmp_path):
  """Of standard normal points: `sqrt(2) E[chi_2] / sqrt(2)`, the mean of a Rayleigh variable."""
  assert metric_curves._spread(run(tmp_path)) == pytest.approx(np.sqrt(np.pi / 2), rel=0.05)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"spread": lambda step: 1.2 if step < 30 else 0.3}, "arm: samples lie 0.3 apart, real data 1.2"),
    ({"spread": lambda step: 0.3, "real_spread": lambda step: 0.5}, "arm: samples lie 0.3 apart, real data 0.5"),
    ({"gap": lambda step: 0.01 * step}, "arm: the gap between fake and teacher is 0.385: fake lags"),
  ],
)
def test_what_looks_wrong_is_a_line(tmp_path, changes, words):
  cells = {"arm": write(tmp_path, "arm", **healthy(**changes))}
  (section,), (line,) = metric_curves.checks(run(tmp_path), cells)
  assert line.startswith(words) and "\n" not in line and "ratio" in line
  assert "Nothing" not in section.text


def test_what_recovered_is_not_warned_of(tmp_path):
  early = healthy(spread=lambda step: 0.1 if step < 30 else 1.2, gap=lambda step: 3.0 if step < 30 else 0.02)
  assert metric_curves.checks(run(tmp_path), {"arm": write(tmp_path, "arm", **early)})[1] == []


def test_figures_of_moves_are_means_over_them_alone(tmp_path):
  """A student that moves every fifth update, in rows of two updates: 0.2 and 0 in turn for the share."""
  moves = lambda step: 0.5 if step % 5 == 0 else 0.0  # noqa: E731
  own = healthy(moves_student=moves, gap=lambda step: 0.08 * moves(step), norm_fake=lambda step: 3.0)
  rows = metric_curves.mean_rows(run(tmp_path), "arm", write(tmp_path, "arm", **own)["metrics"])
  steps, columns = metric_curves._of(rows)
  assert len(steps) == STEPS and set(columns) == {"spread", "gap", "norm_fake"}
  moved = np.arange(1, STEPS + 1) % 5 == 0
  np.testing.assert_allclose(columns["gap"][moved], 0.08)
  assert np.isnan(columns["gap"][~moved]).all()
  np.testing.assert_allclose(columns["norm_fake"], 3.0)


def test_a_student_that_never_moves_has_no_checks(tmp_path):
  cells = {"copy": write(tmp_path, "copy", **healthy(moves_student=lambda step: 0.0))}
  assert metric_curves.checks(run(tmp_path), cells) == ([], [])


def test_roles_tell_their_gradients():
  grads = {
    "student": {"a": jnp.zeros(2), "b": jnp.zeros(())},
    "fake": {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)},
  }
  found = role_metrics(grads, {"student": jnp.array(False)})
  assert {name: float(value) for name, value in found.items()} == {
    "method/norm_student": 0.0, "method/norm_fake": 5.0, "method/moves_student": 0.0,
  }  # fmt: skip


def student(value):
  return Finished(lambda x: np.asarray(value), None, {})


def test_texts_are_quoted_and_samples_are_drawn(tmp_path):
  text = Exhibit("text", "On the prompt 'a'.", lambda one: "first\nsecond")
  one = run(tmp_path, text)
  (section,) = exhibits.sections(one, {"sft": {"sample": made_exhibits.made(one, "n", text, student(0))}, "kd": {}})
  assert section.text == "On the prompt 'a'.\n\n**sft**\n\n> first\n> second"
  for kind, shape in (("points", (30, 2)), ("images", (8, 4, 4, 1))):
    value = np.random.default_rng(1).uniform(size=shape)
    exhibit = Exhibit(kind, "Some.", lambda one: one.predict(None), value, 4)
    one = run(tmp_path / kind, exhibit)
    file = made_exhibits.made(one, "abc", exhibit, student(value))
    assert file == "samples/abc.npz"
    np.testing.assert_array_equal(made_exhibits.read(one, file), np.float32(value))
    (section,) = exhibits.sections(one, {"dmd2": {"sample": file}, "gone": {"sample": "samples/none.npz"}})
    assert section.text == "Some." and section.images[0][1].is_file()
  assert exhibits.sections(one, {"gone": {"sample": "samples/none.npz"}}) == []
  assert exhibits.sections(run(tmp_path), {"a": {}}) == []
