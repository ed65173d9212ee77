"""Frozen teachers of a run: which are wanted, where they lie, and how they are read."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Diverged, Network, PyTree, UserError, Variables
from jdistill.config.arms import SELECTED, TEACHER_SECTIONS
from jdistill.files import LOCK, Damaged, read_npz, write_npz
from jdistill.jobs import checkpoints, train
from jdistill.jobs.named import policy_of, recipe_of
from jdistill.jobs.weights import Weights, digest, start
from jdistill.models.predict import predict
from jdistill.runs import artefacts
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.selection import needs
from jdistill.teachers.frozen import variables_hash

_ARRAYS, _WEAK, _RECORD = "variables.npz", "weak.npz", "teacher.json"


class Teachers(NamedTuple):
  """Trained teachers.

  Attributes:
    networks, variables: of each.
    hash: of all parameters.
    scores: what each is worth on the test examples; empty where that is not known.
  """

  networks: tuple[Network, ...]
  variables: tuple[Variables, ...]
  hash: str
  scores: Sequence[dict[str, float]] = ()


class TeacherSpec(NamedTuple):
  """Teachers of one kind that a run needs.

  Attributes:
    name: how the run calls them.
    sections: the teachers' sections and `task`.
    count: how many, with seeds from 0.
    stored: where they lie, if they were made elsewhere.
    weights: what they begin with.
    classifies: whether anyone asks for their logits.
    weak: epochs after which their networks are kept, too.
    key: of the random numbers of their training.
  """

  name: str
  sections: Mapping[str, Any]
  count: int
  stored: str | None = None
  weights: Weights = Weights()
  classifies: bool = True
  weak: tuple[int, ...] = ()
  key: str = "teacher"


def phases(arm: Mapping[str, Any]) -> tuple[str, ...]:
  """The phases of an arm's training, as what its sections `method` and `train` are called with in front."""
  return ("start_", "") if arm.get("start_train") else ("",)


def has_teacher(arm: Mapping[str, Any]) -> bool:
  """Whether an arm, or the phase before it, learns from teachers."""
  return any("teacher" in recipe_of(arm[f"{phase}method"]).needs for phase in phases(arm))


def specs_of(run: Run, label: str, arm: Mapping[str, Any]) -> list[TeacherSpec]:
  """The teachers of one arm: its own, then those of the committee that it names."""
  own = {section: arm[section] for section in TEACHER_SECTIONS}
  name = "teacher" if own == {section: run.config[section] for section in TEACHER_SECTIONS} else f"teacher of {label}"
  teachers, task = arm["teachers"], {"task": arm["task"]}
  begin = Weights(teachers["weights"], teachers["tune"], teachers["worst_perplexity"])
  how = {"weights": begin, "weak": tuple(teachers["weak"])}
  if checkpoints.is_language(teachers["weights"]):
    own["teacher"] = checkpoints.teacher_section(own["teacher"], teachers["weights"])
  own_ones = TeacherSpec(name, own | task, teachers["count"], teachers["stored"], **how)
  return [own_ones, *(_member(run, arm, other) for other in teachers["also"])]


def _member(run: Run, arm: Mapping[str, Any], name: str) -> TeacherSpec:
  """One of the committee, on the data of an arm."""
  return TeacherSpec(f"teacher {name}", run.config["committee"][name] | {"task": arm["task"]}, 1)


def helpers_of(run: Run, label: str, arm: Mapping[str, Any]) -> dict[str, TeacherSpec]:
  """What an arm's data need: its first own teacher as `"judge"` of patches or `"scorer"` of chunks, and `"decoder"`."""
  own = arm.get("patches") or {"theta": 0}
  found = {}
  selects = any(arm.get(f"{phase}data_policy", {}).get("name") == SELECTED for phase in phases(arm))
  if selects and "teacher_losses" in needs(arm["select"]["name"]):
    found["scorer"] = specs_of(run, label, arm)[0]._replace(count=1)
  if own["theta"] and own["by"] != "random":
    found["judge"] = specs_of(run, label, arm)[0]._replace(count=1)
  if own["theta"] and own["fill"] == "decoder":
    found["decoder"] = _member(run, arm, own["decoder"])._replace(name=f"decoder {own['decoder']}", classifies=False)
  return found


def specs(run: Run) -> list[TeacherSpec]:
  """All teachers of a run, each kind once and as many of it as the arm that wants most; the run's own first."""
  arms = run.config.get("arms")
  if arms is None:
    return specs_of(run, "", run.config)
  found: dict[str, TeacherSpec] = {}
  for label in run.config["order"]:
    wanted = specs_of(run, label, arms[label]) if has_teacher(arms[label]) else []
    for one in (*wanted, *helpers_of(run, label, arms[label]).values()):
      known = found.setdefault(key := _kind(run, one), one)
      classifies = known.classifies or one.classifies
      found[key] = known._replace(count=max(known.count, one.count), classifies=classifies)
  return sorted(found.values(), key=lambda one: one.name != "teacher")


def _kind(run: Run, one: TeacherSpec) -> str:
  return run.key_of(**identity(run, one._replace(count=1)))


def identity(run: Run, one: TeacherSpec) -> dict[str, Any]:
  """All that determines teachers of one kind."""
  if one.stored is not None:
    return {"stored": one.stored}
  return {
    "data": run.fingerprint(run.task(one.sections["task"]).teacher),
    "model": one.sections["teacher"],
    "method": one.sections["teacher_method"],
    "train": one.sections["teacher_train"],
    "data_policy": one.sections["teacher_data_policy"],
    "count": one.count,
    "seed": run.config["seed"],
    **digest(one.weights),
    **({"weak": one.weak} if one.weak else {}),
    **({"key": one.key} if one.key != "teacher" else {}),
  }


def directory(run: Run, one: TeacherSpec) -> Path:
  """Where teachers lie: shared by all runs that want the same."""
  if one.stored is not None:
    return Path(one.stored).expanduser()
  return run.artefact("teachers", **identity(run, one))


def is_missing(run: Run, one: TeacherSpec) -> bool:
  """Whether teachers must be trained first."""
  return one.stored is None and not on_first(lambda: _is_whole(run, one))


def _is_whole(run: Run, one: TeacherSpec) -> bool:
  try:
    check_kept(run, one)
  except Damaged as error:
    if any(file.name != LOCK for file in directory(run, one).glob("*")):
      run.tell("teachers", error)
    return False
  return True


def check_kept(run: Run, one: TeacherSpec) -> dict[str, Any]:
  """The record of teachers of one kind that a run makes.

  Raises:
    Damaged: one of their files is missing or is not as it was written.
  """
  return artefacts.checked(directory(run, one), _RECORD, identity(run, one), "teacher")


def write(
  run: Run,
  one: TeacherSpec,
  variables: PyTree,
  scores: Sequence[Mapping[str, float]],
  figures: dict,
  weak: PyTree | None = None,
) -> None:
  """Keeps trained teachers of one kind: their stacked variables, and last the record that says that they are whole.

  Args:
    run, one: which.
    variables: stacked on a leading axis.
    scores: of each.
    figures: of their training.
    weak: variables of what they were after the epochs `one.weak`, stacked likewise.

  Raises:
    Diverged: a value is not finite.
  """
  path, kept = directory(run, one), {_ARRAYS: variables} | ({} if weak is None else {_WEAK: weak})
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept)):
    raise Diverged(f"{one.name}: its parameters are not finite; lower teacher_train.lr")
  for name, tree in kept.items():
    write_npz(path / name, {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))})
  artefacts.write(path, _RECORD, identity(run, one), tuple(kept), scores=scores, **figures)


def model_of(one: TeacherSpec) -> Mapping[str, Any]:
  """The section `teacher` of teachers of one kind, also of stored ones.

  Raises:
    UserError: there is no stored teacher.
  """
  if one.stored is None:
    return one.sections["teacher"]
  return _stored(one)["identity"]["model"]


def method_of(one: TeacherSpec) -> Mapping[str, Any]:
  """The section `teacher_method` of teachers of one kind, also of stored ones; errors are those of `model_of`."""
  return one.sections["teacher_method"] if one.stored is None else _stored(one)["identity"]["method"]


def predictor(one: TeacherSpec, network: Network, variables: Variables) -> Callable[[PyTree], PyTree]:
  """A teacher as `(x) -> logits`, or samples of draws where its method has a sampler; on the host."""
  sampler = recipe_of(method_of(one)).sampler
  asked = network if sampler is None else lambda own, x: sampler(network, {"student": own}, x)
  return functools.partial(predict, asked, variables)


def _stored(one: TeacherSpec) -> dict[str, Any]:
  path = Path(one.stored).expanduser()
  if not (path / _RECORD).is_file():
    raise UserError(f"teachers.stored={one.stored!r}: no teacher there; give a directory of artefacts/teachers")
  try:
    return artefacts.checked(path, _RECORD, None)
  except Damaged as error:
    raise UserError(
      f"teachers.stored={one.stored!r}: {error}; put the file back as it was, or give another teacher"
    ) from error


def count(run: Run) -> int:
  """How many teachers a run without arms has; 0 for methods without teachers."""
  found = run.config.get("teachers", {})
  return found.get("count", 0) + len(found.get("also", ()))


def own(run: Run) -> Teachers:
  """The teachers of a run without arms: those of its own section, then those of the committee that it names."""
  found = [read(run, one) for one in specs(run)]
  if len(found) == 1:
    return found[0]
  networks, variables, scores = (
    tuple(itertools.chain.from_iterable(getattr(one, name) for one in found))
    for name in ("networks", "variables", "scores")
  )
  return Teachers(networks, variables, variables_hash(variables), scores)


def read(run: Run, one: TeacherSpec) -> Teachers:
  """Teachers of one kind.

  Raises:
    UserError: they are not there, damaged, or do not fit.
  """
  path, model = directory(run, one), model_of(one)
  try:
    kept = _stored(one) if one.stored is not None else check_kept(run, one)
  except Damaged as error:
    found = f"{error}" if path.is_dir() else f"{path}: no teacher there"
    raise UserError(f"{found}; add 'teachers' to config.stages, or give the --artefacts of that run") from error
  found = _unstacked(run, one, model, path / _ARRAYS)
  variables, scores = found.variables[: one.count], kept["scores"] if one.stored is None else ()
  return Teachers(found.networks[: one.count], variables, variables_hash(variables), scores)


def _unstacked(run: Run, one: TeacherSpec, model: Mapping[str, Any], file: Path) -> Teachers:
  """All networks of a file, if they fit the data."""
  task, found = run.task(one.sections["task"]), read_npz(file)
  network = run.network(model, task)
  form = jax.eval_shape(network.init, jax.random.key(0))
  leaves = [found[name] for name in sorted(found)]
  if [leaf.shape[1:] for leaf in leaves] != [leaf.shape for leaf in jax.tree.leaves(form)]:
    cure = "give a teacher of this data" if one.stored else "delete the directory"
    raise UserError(
      f"{file}: does not fit model {model['name']} with {task.num_classes} classes on inputs {task.input_shape}; {cure}"
    )
  if not all(np.isfinite(leaf).all() for leaf in leaves):
    raise UserError(
      f"{file}: holds numbers that are not finite; {'give another teacher' if one.stored else 'delete the directory'}"
    )
  stacked = jax.tree.unflatten(jax.tree.structure(form), leaves)
  variables = tuple(jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), stacked) for i in range(len(leaves[0])))
  return Teachers((network,) * len(variables), variables, variables_hash(variables))


def weak(run: Run) -> Teachers:
  """What the run's own teachers were after the epochs `teachers.weak`; errors are those of `read`."""
  one = specs(run)[0]
  read(run, one)
  return _unstacked(run, one, model_of(one), directory(run, one) / _WEAK)


def job_of(run: Run, one: TeacherSpec, seeds: list[int], network=None) -> train.Job:
  """The training of teachers of one kind; `network` in place of that of their section, such as over flat parameters."""
  task = run.task(one.sections["task"])
  return train.Job(
    label=one.name,
    network=network or run.network(one.sections["teacher"], task),
    recipe=recipe_of(one.sections["teacher_method"]),
    train=one.sections["teacher_train"],
    policy=policy_of(one.sections["teacher_data_policy"], domains=task.domains),
    data=task.teacher,
    members=np.tile(np.arange(len(task.teacher.y)), (len(seeds), 1)),
    seeds=seeds,
    start=start(run, one.sections, one.weights, seeds),
    section="teacher_train",
  )


def makes_samples(section: Mapping[str, Any]) -> bool:
  """Whether networks of a section `teacher_method` are asked several times for a sample."""
  return recipe_of(section).sampler is not None


def is_made(run: Run, one: TeacherSpec) -> bool:
  """Whether a run makes or has teachers of this kind."""
  return _kind(run, one) in {_kind(run, other) for other in specs(run)}


def trained(run: Run, one: TeacherSpec) -> Teachers:
  """Teachers of one kind, of which the run may have made more; errors are those of `read`."""
  whole = {_kind(run, other): other for other in specs(run)}
  return read(run, whole[_kind(run, one)])


def load(run: Run, label: str, arm: Mapping[str, Any]) -> Teachers | None:
  """The teachers of an arm; `None` where it has none."""
  if not has_teacher(arm):
    return None
  networks, variables = (), ()
  for one in specs_of(run, label, arm):
    found = trained(run, one)
    networks, variables = networks + found.networks[: one.count], variables + found.variables[: one.count]
  return Teachers(networks, variables, variables_hash(variables))


def logits(found: Teachers, images: np.ndarray) -> np.ndarray:
  """Logits `[networks, n, classes]` of all teachers on images in network space."""
  pairs = zip(found.networks, found.variables, strict=True)
  return np.stack([predict(network, variables, images) for network, variables in pairs])
