"""Small experiments for tests of stages."""

from jdistill import experiment_files


def tiny(name, **changes):
  """`experiments/NAME.py:tiny` with other keys: `seeds=2`, and `section__option=value` for one in a section."""
  config = experiment_files.load(f"experiments/{name}.py:tiny")
  for key, value in changes.items():
    section, _, option = key.partition("__")
    if option:
      config[section][option] = value
    else:
      config[key] = value
  return config
