"""The order of the contract tests: method by method, so that each one's programs are traced and compiled once."""

import pathlib


def pytest_collection_modifyitems(items):
  """Written as promise by promise, they would build all methods first, and drop them before the next promise."""
  here = [at for at, item in enumerate(items) if pathlib.Path(__file__).parent in item.path.parents]
  group = [items[at] for at in here]
  group.sort(key=lambda item: (item.path, str(getattr(item, "callspec", None) and item.callspec.params.get("name"))))
  for at, item in zip(here, group, strict=True):
    items[at] = item
