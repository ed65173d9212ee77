"""A random sample of hostile inputs: all are refused in one line with a cure, and no file is changed.

The whole is `python -m tests.hostile`.
"""

import os
import random

import pytest

from tests.hostile import catalog, drive

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning", "default::RuntimeWarning")

COUNT = 25
SEED = int(os.environ.get("HOSTILE_SEED", random.SystemRandom().randrange(10_000)))


def test_a_random_sample_of_hostile_input(tmp_path, compiled_once):
  print(f"HOSTILE_SEED={SEED}")
  known = {name: case for name, case in catalog.every(None).items() if case.outcome == "refused"}  # and no whole runs
  found = [drive.drive(known[name], tmp_path) for name in catalog.sample(list(known), COUNT, SEED)]
  wrong = [f"{one.name!r}: {violation}" for one in found for violation in one.violations]
  assert not wrong, f"HOSTILE_SEED={SEED}\n" + "\n".join(wrong)
  assert len({one.kind for one in found}) >= 8
