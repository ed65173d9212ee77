"""The rooms of the package and who may know whom, read from the imports: arrows run one way, I/O has its places.

A room is a package or module directly under `jdistill/`. Imports inside functions count like those at the top.
"""

import ast
import graphlib
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jdistill"

# What a room may import, from the ground floor to the roof. `base` is open to all. A new room needs a row here, and a
# row that grows upwards needs a reason.
GROUND = {"base", "schema"}
NUMBERS = GROUND | {"_compat", "ops", "losses", "bilevel", "augment", "selection", "orders"}
MAY_IMPORT = {
  "base": set(),
  "schema": {"base"},
  "_compat": {"base"},
  "files": GROUND,
  # pure numbers: they see arrays and functions, nothing else
  "ops": GROUND | {"_compat"},
  "losses": GROUND | {"ops"},
  "bilevel": GROUND | {"ops", "losses"},
  "augment": GROUND | {"ops"},
  "selection": GROUND | {"ops"},
  "orders": GROUND,
  "synthetic": GROUND | {"ops", "selection", "augment", "losses"},  # crops of real images that a network judges
  "diffusion": GROUND | {"ops"},
  "models": GROUND | {"ops", "diffusion"},  # denoisers, which know their schedule
  "language": GROUND | {"ops", "models"},  # rows of tokens, and samples of a decoder
  # data, targets and the engine: none of them knows a method
  "data": GROUND | {"files", "ops", "synthetic"},  # images in another size, and texts that are generated
  "teachers": NUMBERS | {"files", "data", "models"},
  "training": NUMBERS | {"files", "data", "models"},
  # methods take data policies and connectors from the rooms that have them
  "methods": NUMBERS | {"synthetic", "data", "models", "federated", "language", "diffusion"},
  # protocols are a method in the one loop
  "evaluation": NUMBERS | {"data", "models", "training", "methods"},
  # short looks at a task
  "calibration": NUMBERS | {"synthetic", "data", "models", "methods"},
  # what people see and take away
  # what carries the messages of a federation, and keeps states on both sides
  "transports": GROUND | {"files", "models", "federated"},
  "reporting": GROUND | {"files"},
  "export": GROUND | {"files", "synthetic", "data", "reporting"},
  "pretrained": GROUND | {"files", "data", "models", "language", "evaluation"},
  "distilled": GROUND | {"files", "augment", "data", "models", "evaluation", "export"},
  # data and scores
  "tasks": GROUND
  | {"ops", "data", "evaluation", "selection", "losses", "models", "federated", "language", "synthetic", "diffusion"}
  | {"pretrained"},  # the tokenisers of checkpoints
  # names, configurations, runs
  "federated": GROUND | {"ops", "losses"},
  "catalog": GROUND | {"methods", "tasks"},
  "config": GROUND | {"files", "data", "models", "methods", "tasks", "catalog"},
  # a run, the trainings in it, and its stages
  "runs": GROUND | {"files", "data", "models", "training", "tasks", "reporting", "catalog", "config"},
  "jobs": NUMBERS
  | {"files", "data", "models", "teachers", "training", "methods", "evaluation", "tasks", "reporting", "catalog"}
  | {"config", "runs", "pretrained", "language"},  # checks of language models before they teach
  "stages": NUMBERS
  | {"files", "synthetic", "data", "models", "teachers", "training", "methods", "evaluation", "tasks"}
  | {"federated", "transports", "calibration", "reporting", "export", "pretrained", "catalog", "config"}
  | {"runs", "jobs"},
  "experiment_files": GROUND | {"files"},
  "cli": GROUND | {"experiment_files", "config"},
  "run": GROUND | {"files", "cli", "experiment_files", "catalog", "config", "stages", "reporting", "training"},
}

# Reading, writing, printing and logging: nobody else does.
MAY_DO_IO = {
  "files", "data", "teachers", "training", "transports", "reporting", "export", "distilled", "pretrained",
  "runs", "jobs", "stages",
  "experiment_files", "cli", "run",
}  # fmt: skip
IO_CALLS = {"open", "print", "input"}
IO_MODULES = {
  "absl", "importlib_resources", "io", "logging", "os", "pathlib", "shutil", "socket", "subprocess", "sys", "tempfile",
  "urllib",
}  # fmt: skip
PURE_FUNCTIONS_OF_FILES = {
  "to_jsonable",
  "format_bytes",
  "parse_bytes",
  "parse_seconds",
}  # they only turn values into other values

# Libraries that must not spread: one place each to change when they do.
ONLY_IN = {
  "absl": {"cli"},
  "ml_collections": {"config", "cli", "stages"},
  "flax": {"models"},
  "optax": {"methods", "bilevel"},  # bilevel solves inner problems by Adam
  "orbax": {"training"},
  "matplotlib": {"reporting"},
  "tensorflow_datasets": {"data"},
  "torch": {"export"},
  "flwr": {"transports"},
  "tokenizers": {"language"},
}
PRIVATE_MODULES = {"ctypes", "cffi", "jaxlib"}
FORBIDDEN_MODULES = {"pickle", "dill", "joblib", "shelve", "marshal"}  # loading them runs what is in the file
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 60


class Import(NamedTuple):
  """One imported thing: `from jdistill.files import read_json` is `("jdistill.files", "read_json")`."""

  module: str
  name: str | None
  line: int


def sources(room):
  path = PACKAGE / room
  return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def parse(path):
  return ast.parse(path.read_text(), str(path))


def imports(tree):
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (Import(alias.name, None, node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"line {node.lineno}: import by full name"
      yield from (Import(node.module, alias.name, node.lineno) for alias in node.names)


def room_of(found):
  """The room an import leads to, or `None` for other packages and for the bare package."""
  parts = found.module.split(".")
  if parts[0] != "jdistill":
    return None
  if len(parts) > 1:
    return parts[1]
  return found.name if found.name in MAY_IMPORT else None


def calls(tree):
  for node in ast.walk(tree):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      yield node.func.id, node.lineno


def arrows():
  """`(room, room it imports, place)` for all imports between rooms."""
  for room in MAY_IMPORT:
    for path in sources(room):
      for found in imports(parse(path)):
        target = room_of(found)
        if target not in (None, room):
          yield room, target, f"{path.relative_to(PACKAGE.parent)}:{found.line}"


def test_every_room_has_its_row():
  found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
  assert found - {"__init__"} == set(MAY_IMPORT)


def test_arrows_run_one_way():
  wrong = [f"{place}: {room} -> {target}" for room, target, place in arrows() if target not in MAY_IMPORT[room]]
  assert not wrong, "\n".join(wrong)


def test_there_are_no_cycles():
  """Neither in the table, which could allow one by mistake, nor in the imports."""
  actual = {room: set() for room in MAY_IMPORT}
  for room, target, _ in arrows():
    actual[room].add(target)
  assert sum(map(len, actual.values())) > 30  # the walk did see something
  for graph in (actual, MAY_IMPORT):
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the cycle
    assert not graph["base"]
    assert order.index("methods") < order.index("stages") < order.index("run")


def module_of(path):
  """`jdistill/stages/__init__.py` is `jdistill.stages`."""
  return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_modules_have_no_circles():
  """Nor inside a room. An import inside a function counts too, unless a comment beside it gives its reason."""
  paths = {module_of(path): path for path in PACKAGE.rglob("*.py")}
  graph, exceptions = {name: set() for name in paths}, []
  for name, path in paths.items():
    tree, lines = parse(path), path.read_text().splitlines()
    inside = {id(node) for function in functions(tree) for node in ast.walk(function)}
    for node in ast.walk(tree):
      if not isinstance(node, ast.Import | ast.ImportFrom):
        continue
      targets = {found.module if found.name is None else f"{found.module}.{found.name}" for found in imports(node)}
      targets = {one if one in paths else one.rpartition(".")[0] for one in targets} & set(paths) - {name}
      if targets and id(node) in inside and "#" in lines[node.lineno - 1]:
        exceptions.append(f"{name}:{node.lineno}")
      else:
        graph[name] |= targets
  assert sum(map(len, graph.values())) > 300  # the walk did see something
  list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle
  assert exceptions == []  # none is needed so far


def functions(tree):
  return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_files_and_functions_are_short():
  """A file has one subject. The docstring of a function does not count."""
  for path in PACKAGE.rglob("*.py"):
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES, f"{path}: more than {MOST_LINES} lines; it has two subjects"
    for function in functions(ast.parse(text)):
      docstring = function.body[0] if ast.get_docstring(function) is not None else None
      own = function.end_lineno - function.lineno + 1
      own -= docstring.end_lineno - docstring.lineno + 1 if docstring else 0
      assert own <= MOST_LINES_OF_A_FUNCTION, f"{path}:{function.lineno}: {function.name} has {own} lines"


def test_the_bare_package_is_only_asked_for_its_version():
  """`jdistill.losses` works through the package's lazy imports, past the table above; so rooms must not use it."""
  for room in MAY_IMPORT:
    for path in sources(room):
      tree = parse(path)
      used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jdistill"
      }
      used |= {found.name for found in imports(tree) if found.module == "jdistill" and room_of(found) is None} - {None}
      assert used <= {"__version__"}, f"{path}: {used}"


@pytest.mark.parametrize("room", sorted(set(MAY_IMPORT) - MAY_DO_IO))
def test_pure_rooms_do_no_io(room):
  for path in sources(room):
    tree = parse(path)
    for name, line in calls(tree):
      assert name not in IO_CALLS, f"{path}:{line}: {name}("
    for found in imports(tree):
      assert found.module.split(".")[0] not in IO_MODULES, f"{path}:{found.line}: {found.module}"
      if room_of(found) == "files":
        assert found.name in PURE_FUNCTIONS_OF_FILES, f"{path}:{found.line}: files.{found.name}"


def test_methods_know_neither_files_nor_configurations():
  """Apart from the table, for this is what keeps a method usable in other people's loops."""
  assert not MAY_IMPORT["methods"] & {"files", "stages", "config", "run", "reporting", "export", "training"}
  for path in sources("methods"):
    text = path.read_text()
    rooms = {found.module for found in imports(parse(path)) if room_of(found) in ("models", "data")}
    # a connector is a network that belongs to a method; students and teachers come as arguments
    assert rooms <= {"jdistill.models.connectors", "jdistill.data.policies"}, path
    for word in ("open(", "print(", "logging", "ml_collections", "ConfigDict", "flax", "nn.Module"):
      assert word not in text, f"{path}: {word}"


def test_libraries_stay_in_their_rooms():
  for room in MAY_IMPORT:
    for path in sources(room):
      tree = parse(path)
      for found in imports(tree):
        top = found.module.split(".")[0]
        assert room in ONLY_IN.get(top, {room}), f"{path}:{found.line}: {top} belongs to {sorted(ONLY_IN[top])}"
        assert top not in FORBIDDEN_MODULES, f"{path}:{found.line}: {top}"
      for name, line in calls(tree):
        assert name not in FORBIDDEN_CALLS, f"{path}:{line}: {name}("


def test_private_parts_of_libraries_and_the_c_library_are_used_in_one_room():
  for room in set(MAY_IMPORT) - {"_compat"}:
    for path in sources(room):
      for found in imports(parse(path)):
        place, (top, *inner) = f"{path}:{found.line}", (*found.module.split("."), found.name or "")
        assert top not in PRIVATE_MODULES, f"{place}: {top} belongs to _compat"
        hidden = [name for name in inner if name.startswith("_") and not name.startswith("__")]
        assert top in ("jdistill", "__future__") or not hidden, f"{place}: {hidden[0]} of {top} belongs to _compat"
      assert "._src" not in path.read_text(), path  # reached as an attribute


def test_names_become_functions_in_registries_alone():
  """Modules found by name: methods in the catalog, tasks in their registry, and optional packages in their rooms."""
  allowed = {"catalog", "tasks", *(room for rooms in ONLY_IN.values() for room in rooms)}
  for room in set(MAY_IMPORT) - allowed:
    for path in sources(room):
      assert "import_module" not in path.read_text(), path
