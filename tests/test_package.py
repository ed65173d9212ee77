"""The package from outside: what importing costs, what it offers, and that the files around it tell the truth."""

import os
import pathlib
import re
import runpy
import subprocess
import sys
import tomllib

import jax
import pytest

import jdistill
from docs import pages
from jdistill import experiment_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def python(*arguments, cwd=ROOT):
  return subprocess.run([sys.executable, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)


def documents():
  return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets():
  """`(name, code)` of every block of Python in the documents; those of a page on losses go on from each other."""
  found = []
  for path in documents():
    blocks = re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if path.parent == ROOT / "docs" / "losses":
      blocks = ["".join(blocks) + "\nprint('done')\n"]
    found += [(f"{path.stem}{number}", code) for number, code in enumerate(blocks)]
  return found


def test_importing_the_package_imports_nothing_heavy():
  heavy = ("jax", "jaxlib", "flax", "numpy", "tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "torch")
  done = python("-c", f"import sys, jdistill; print(sorted(set(sys.modules) & set({heavy})))")
  assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_importing_losses_imports_jax_and_the_ground_floor_alone():
  """No Flax, optax or data library: a loop of one's own pays for the losses and for nothing else."""
  code = "import sys, jax, numpy; before = set(sys.modules); import jdistill.losses; print(*set(sys.modules) - before)"
  done = python("-c", code)
  assert done.returncode == 0, done.stderr
  found = {".".join(name.split(".")[:2]) if name.startswith("jdistill") else name for name in done.stdout.split()}
  rooms = {"jdistill", "jdistill._compat", "jdistill.base", "jdistill.losses", "jdistill.ops"}
  assert rooms <= found
  assert {name.partition(".")[0] for name in found - rooms} <= {"jax", "numpy"}, found - rooms


def test_running_needs_no_tensorflow():
  done = python("-c", "import sys, jdistill.run; print('tensorflow' in sys.modules, 'torch' in sys.modules)")
  assert (done.returncode, done.stdout.split()) == (0, ["False", "False"]), done.stderr


@pytest.mark.parametrize("name", jdistill.__all__)
def test_every_public_name_resolves(name):
  assert getattr(jdistill, name) is not None
  assert name in dir(jdistill)


def test_public_names_are_the_rooms():
  rooms = {path.parent.name for path in (ROOT / "jdistill").glob("*/__init__.py")}
  missing = set(jdistill.__all__) - rooms - {path.stem for path in (ROOT / "jdistill").glob("*.py")}
  assert missing == {"__version__", "load", "citation", "UserError"}


def test_unknown_name():
  with pytest.raises(AttributeError, match="has no attribute 'lossess'"):
    _ = jdistill.lossess


def test_version_is_one_number():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
  assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
  assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "jdistill.__version__"}
  assert re.fullmatch(r"\d+\.\d+\.\d+", jdistill.__version__)
  assert f"\nversion: {jdistill.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
  assert f"\n## [{jdistill.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_package_is_in_the_wheel():
  """Rooms without `__init__.py` would be left out silently."""
  folders = {path.parent for path in (ROOT / "jdistill").rglob("*.py")}
  assert all((folder / "__init__.py").is_file() for folder in folders), folders


def test_constraints_are_plain_pins():
  lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
  assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
  names = [re.sub(r"[._]", "-", line.partition("==")[0]).lower() for line in lines]
  assert len(set(names)) == len(names) and names == sorted(names)
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
  extras = project["optional-dependencies"]
  wanted = [*project["dependencies"], *extras["tensorboard"], *extras["notebook"], *extras["dev"]]
  wanted = {re.sub(r"[._]", "-", re.match(r"[\w.-]+", text)[0]).lower() for text in wanted} - {"jdistill"}
  assert wanted <= set(names), wanted - set(names)


def test_citation_file():
  lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
  keys = {line.partition(":")[0] for line in lines if line and line[0] not in " -#"}
  assert {"cff-version", "message", "title", "authors", "type", "version", "license"} <= keys
  assert "cff-version: 1.2.0" in lines and "license: Apache-2.0" in lines
  assert not any("\t" in line for line in lines)
  yaml = pytest.importorskip("yaml", reason="needs PyYAML to read CITATION.cff as a whole")
  content = yaml.safe_load("\n".join(lines))
  assert content["authors"] == [{"name": "The jdistill developers"}]


def test_licence_is_apache():
  text = (ROOT / "LICENSE").read_text(encoding="utf-8")
  assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
  text = path.read_text(encoding="utf-8")
  links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
  local = [link for link in links if link and "://" not in link]
  assert [link for link in local if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_paths_in_text_exist(path):
  """What looks like a path of the repository is one: `jdistill/...`, `experiments/...`, `tests/...` and so on."""
  text = path.read_text(encoding="utf-8")
  found = set(re.findall(r"(?<![\w/.])(?:jdistill|experiments|tests|docs|notebooks|benchmarks|\.ci)/[\w./-]*\w", text))
  found = {name for name in found if "FAMILY" not in name and not name.startswith("jdistill/jdistill")}
  assert found or path.name != "README.md"
  wrong = {"experiments/dattm.py"} if path.name == "messages.md" else set()  # a mistake that the page shows
  assert sorted(name for name in found if not (ROOT / name).exists()) == sorted(wrong)


@pytest.mark.parametrize("name", list(pages.FILES))
def test_generated_parts_of_pages_are_up_to_date(name):
  text = (ROOT / name).read_text(encoding="utf-8")
  assert pages.rewritten(text, pages.FILES[name]) == text, "run python -m docs.pages"


def test_generated_parts_show_every_system_key_and_option():
  """What the pages are compared with says what the table and the signatures do."""
  systems, keys, methods, policies = pages.systems(), pages.keys(), pages.methods(), pages.policies()
  for row in jdistill.catalog.rows():
    assert f"`{row.name}`" in systems and row.paper in systems and f"`{row.config}`" in systems
    for key in row.fields():
      assert row.policy or f"`{key}=" in methods
  for key in ("steps", "ipc", "unroll.gradient", "teachers.count", "train.lr", "targets.source", "eval.seeds"):
    assert keys.count(f"| `{key}` ") == 1, key
  assert keys.count("| `seeds` ") == 4  # of students, of federations, of rounds of queries and of orders
  assert all(f"`{name}`" in pages.selectors() for name in jdistill.catalog.selector_names())
  assert "`mistakes=None`" in pages.selectors() and "`fraction=0.1`" in policies and "`remat`" in keys
  with pytest.raises(ValueError, match="no place for systems"):
    pages.rewritten("a page without its place", ("systems",))


def test_readme_has_snippets_and_images():
  assert len([name for name, _ in snippets() if name.startswith("README")]) >= 2
  images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
  assert images and all((ROOT / image).stat().st_size < 60_000 for image in images)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
  """A directory with what the README's commands leave: a finished run in `runs/demo`."""
  directory = tmp_path_factory.mktemp("readme")
  command = ("-m", "jdistill.run", f"--config={ROOT / 'experiments' / 'datm.py'}:tiny", "--workdir=runs/demo")
  done = python(*command, cwd=directory)
  assert done.returncode == 0, done.stderr
  return directory


@pytest.mark.slow
@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in snippets()])
def test_snippet_runs(code, workplace, request, monkeypatch, capsys):
  """In this process, with JAX as a user has it."""
  file = workplace / f"{request.node.callspec.id}.py"
  file.write_text(code, encoding="utf-8")
  monkeypatch.chdir(workplace)
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    if "def get_config(" in code:
      experiment_files.load(str(file))  # as `--config` does: its neighbours are the shipped experiments
    else:
      runpy.run_path(str(file), run_name="__main__")
  assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_readme_output_has_the_shape_of_a_real_one(workplace):
  """The table in the README is that of a run: same rows, other figures."""
  summary = (workplace / "runs" / "demo" / "report.md").read_text(encoding="utf-8")
  first = re.compile(r"^\| ([^|]*[a-z][^|]*?) +\|", re.MULTILINE)
  rows = [row for row in first.findall(summary.split("## Images")[0]) if row != "training set"]
  assert rows and all(f"| {row} " in README for row in rows)


def test_work_directory_tour_names_real_files(workplace):
  table = README.partition("## The work directory")[2].partition("\n## ")[0]
  names = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
  assert len(names) > 8
  missing = [name for name in names if not (workplace / "runs" / "demo" / name).exists() and "tensorboard" not in name]
  assert missing == []
