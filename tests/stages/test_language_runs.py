"""Runs of language models: plans with the work of teachers, advice on TAID's rate, and contexts that do not fit."""

import re

import pytest

from jdistill import run

TINY = "--config=experiments/taid.py:tiny"
ONLINE = "--config.targets.source=online"


def amount(text):
  """`"7.9 MFLOP"` as a number."""
  value, prefix = re.fullmatch(r"([\d.]+) ([kMGT])FLOP", text).groups()
  return float(value) * {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix]


def planned(capsys, *arguments):
  assert run.main(["run", TINY, "--dry_run", *arguments]) == 0
  lines = capsys.readouterr().out.splitlines()
  return [line for line in lines if line.startswith("| students ")]


def test_a_plan_tells_the_work_of_teachers_beside_steps_and_what_the_rate_is_worth(capsys):
  (taid, advice, sft) = planned(capsys, ONLINE, "--config.method.rate=0.01")
  steps = int(re.search(r"taid: 2 x decoder \(\S+ parameters\), (\d+) steps", taid)[1])
  whole, teachers, together = map(
    amount, re.search(r"\| (\S+ \SFLOP) a step, .*; of which teachers (.*?) a step, (.*?) in all", taid).groups()
  )
  # 20 rows of 24 tokens: products with every matrix of width 16, and two of attention; see the preset
  tokens, matrices = 20 * 24, 4 * 16 * 16 + 3 * 16 * 48 + 16 * 259
  assert teachers == pytest.approx(2 * tokens * matrices + 4 * tokens * 24 * 16, rel=5e-3)
  assert together == pytest.approx(teachers * steps * 2, rel=1e-2) and whole > teachers
  assert "teachers" not in sft and amount(re.search(r"\| (\S+ \SFLOP) a step", sft)[1]) < whole
  assert f"taid: method.rate=0.01 x {steps} updates = {0.01 * steps:.3g}: at most 2 leaves TAID the linear" in advice


def test_stored_teachers_are_counted_once_and_a_high_rate_needs_no_advice(capsys):
  (online, _) = planned(capsys, ONLINE, "--config.method.rate=1.0")
  (stored, _) = planned(capsys, "--config.method.rate=1.0")
  each = amount(re.search(r"of which teachers (.*?) a step", online)[1])
  once = amount(re.search(r"; teachers (.*?) once", stored)[1])
  assert 3 * each <= once < 4 * each  # 60 rows and those that do not quite fill, in batches of 20
  whole, own = (amount(re.search(r"\| (\S+ \SFLOP) a step", line)[1]) for line in (online, stored))
  assert own == pytest.approx(whole - each, rel=1e-2)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config.student.context=16"], r"student\.context: 16 of model 'decoder' is less than the 24 tokens of a row"),
    (["--config.teacher.name=gru"], r"rows with documents given to model 'gru', which knows of no boundaries"),
    (["--config.preprocessing=zca"], r"preprocessing='zca': text has no pixels"),
    (["--config.task.context=100000"], r"dataset='descriptions': its \d+ tokens do not fill one row of task\.context"),
    (["--config.method.t_end=0.1"], r"method\.t_end=0\.1: must be at least t_start=0\.4"),
  ],
)
def test_what_does_not_fit_is_told_in_one_line(capsys, arguments, message):
  assert run.main(["run", TINY, "--dry_run", *arguments]) == 1
  err = capsys.readouterr().err
  assert re.search(message, err) and err.count("\n") == 1, err
