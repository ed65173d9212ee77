"""What pyproject.toml cannot say: the wheel carries `experiments/` as a part of the package."""

from setuptools import find_packages, setup

setup(
  packages=[*find_packages(include=["jdistill", "jdistill.*"]), "jdistill.experiments"],
  package_dir={"jdistill": "jdistill", "jdistill.experiments": "experiments"},
)
