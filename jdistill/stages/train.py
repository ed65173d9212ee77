from typing import Any, NamedTuple
class Job(NamedTuple):
  label: Any = None
class Plan(NamedTuple):
  x: int = 0
def policy_of(s): return None
