"""Stage `project`: fits the factors of a label projector to the teachers of a run, on real images."""

import functools
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import augment, pretrained, schema
from jdistill.base import Diverged, Network, PyTree, TargetSource, Variables
from jdistill.config import Declared, Plain
from jdistill.config.common import TRAIN
from jdistill.files import format_bytes, read_npz, write_npz
from jdistill.jobs import job_plan, networks, train
from jdistill.jobs.sections import check_train
from jdistill.jobs.weights import file_digest
from jdistill.methods.knowledge.logits import stored_labels
from jdistill.models import predict
from jdistill.ops import class_means
from jdistill.ops import lora as lora_lib
from jdistill.reporting import Section
from jdistill.runs import artefacts
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Choice, Count, NonNegative, Positive
from jdistill.stages import encoder, shown, teachers
from jdistill.stages.stage import Part, Stage
from jdistill.teachers import projector
from jdistill.teachers.frozen import averaged, committee, drawn
from jdistill.teachers.labelled import labelled

_RECORD, _ARRAYS = "projector.json", "factors.npz"
_MEANS = "class_means"


class Projector(NamedTuple):
  """What turns images into labels: a public network, and what is learned of it."""

  backbone: Literal["pretrained", "random"] = "pretrained"
  weights: str | None = None
  preprocess: Annotated[str, Choice(tuple(pretrained.PREPROCESSING))] = "imagenet"
  side: Count | None = None
  encoder: Literal["low_rank", "frozen"] = "low_rank"
  encoder_rank: Count = 8
  head: Literal["low_rank", "whole"] = "low_rank"
  head_rank: Count = 64
  alpha: Positive = 1.0
  prototypes: str = _MEANS
  scale: Positive = 1.0
  normalize: bool = False
  label_weight: NonNegative = 1.0
  weak_labels: Literal["mean", "drawn"] = "mean"
  augment: Literal["none", "students"] = "none"


class Fitted(NamedTuple):
  """A projector of a run.

  Attributes:
    network: over the factors.
    base: the public network with the head that they change.
    labels: the store.
    name: of the public network.
  """

  network: Network
  base: Variables
  labels: projector.ProjectorLabels
  name: str

  @property
  def variables(self) -> Variables:
    """As `network` takes them."""
    return Variables(dict(self.labels.factors), self.base._asdict())


def _asked_ranks(c: Mapping[str, Any]) -> dict[str, int | None]:
  """Those of the encoder's kernels and of the head, `None` where these are no factors."""
  return {part: c[f"{part}_rank"] if c[part] == "low_rank" else None for part in ("encoder", "head")}


def _shapes(run: Run) -> PyTree:
  """Shapes of the encoder's parameters, with a head of the data's classes."""
  return jax.eval_shape(encoder.network(run).init, jax.random.key(0)).params


def _ranks(run: Run) -> dict[str, int | None]:
  """The ranks of all kernels that learn."""
  return projector.ranks(_shapes(run), **_asked_ranks(run.config["projector"]))


def network(run: Run) -> Network:
  """The projector over its factors; the same object for equal options."""
  c = run.config["projector"]
  asked = _asked_ranks(c)
  return _network(encoder.network(run), encoder.inputs(run), *asked.values(), c["alpha"], c["normalize"])


@functools.lru_cache(maxsize=8)
def _network(own: Network, inputs, encoder_rank, head_rank, alpha: float, normalize: bool) -> Network:
  ranks = functools.partial(projector.ranks, encoder=encoder_rank, head=head_rank)
  return lora_lib.with_lora(own, ranks, alpha=alpha, inputs=inputs, embedding=_unit if normalize else None)


def _unit(x: jax.Array) -> jax.Array:
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def taught_by(run: Run) -> networks.Teachers:
  """What the projector learns from: weak teachers where there are some, else the finished ones."""
  return (teachers.weak if run.config["teachers"]["weak"] else teachers.first)(run)


def identity(run: Run) -> dict[str, Any]:
  """All that determines the projector; of teachers what they are trained with."""
  c = run.config
  own = {key: value for key, value in c["projector"].items() if key not in ("weights", "preprocess", "side")}
  shown_as = {key: c["relabel"][key] for key in shown.OPTIONS}
  return {
    "data": run.fingerprint(run.task().teacher),
    "teachers": networks.identity(run, networks.specs(run)[0]),
    "encoder": encoder.identity(run),
    "projector": own | {"prototypes": _digest(own["prototypes"])},
    "augment": shown_as if own["augment"] == "students" else None,
    "train": c["projector_train"],
    "seed": c["seed"],
  }


def _digest(prototypes: str) -> str:
  return prototypes if prototypes == _MEANS else file_digest(prototypes, "projector.prototypes", ".npz")


def digest(run: Run) -> str:
  """The hash of all that determines the projector."""
  return run.key_of(**identity(run))


def ready(run: Run) -> Fitted:
  """The projector, fitted first where it is missing."""
  wanted = identity(run)
  path = run.artefact("projectors", **wanted)
  artefacts.ready(run, "project", path, _RECORD, wanted, lambda: _fit(run, path, wanted))
  return with_labels(run, projector.from_arrays(read_npz(path / _ARRAYS), run.key_of(**wanted)))


def with_labels(run: Run, labels: projector.ProjectorLabels) -> Fitted:
  """A stored projector put together with the public network."""
  own, c = encoder.ready(run), run.config["projector"]
  if labels.head is not None:
    kernel = jnp.asarray(labels.head)
  elif c["head"] == "low_rank":
    kernel = _named_head(run)
  else:  # a factor takes its place
    kernel = jnp.zeros_like(labels.factors[projector.KERNEL])
  return Fitted(network(run), projector.with_head(own.body, kernel), labels, own.name)


def source(fitted: Fitted) -> TargetSource:
  """A projector as the targets of students."""
  return projector.projected(fitted.network, fitted.base, fitted.labels, fitted.name)


def _named_head(run: Run) -> jax.Array:
  """The head of a zero-shot classifier, of the embeddings of the classes' names."""
  c, task = run.config["projector"], run.task()
  found = projector.read_prototypes(c["prototypes"], task.num_classes, task.class_names, "projector.prototypes")
  return projector.head_kernel(found, scale=c["scale"])


def _first_head(run: Run, own: encoder.Encoder) -> jax.Array:
  """The head before the first update: of the classes' names, or of the means of real images."""
  c, task = run.config["projector"], run.task()
  if c["prototypes"] != _MEANS:
    return _named_head(run)
  found = predict(_embedding(own.network, own.inputs, c["normalize"]), own.body, task.teacher.x)
  means, _ = class_means(jnp.asarray(found), jnp.asarray(task.teacher.y), task.num_classes)
  return projector.head_kernel(means, scale=c["scale"])


@functools.lru_cache(maxsize=8)
def _embedding(own: Network, inputs, normalize: bool):
  """What enters the head, as the projector computes it; the head of the public network may have other classes."""

  def embed(variables: Variables, x: jax.Array) -> jax.Array:
    seen = x if inputs is None else inputs(x)
    found = own.apply(variables.params, seen, stats=variables.stats).embedding
    return _unit(found) if normalize else found

  return embed


def _targets(run: Run) -> TargetSource:
  """The teachers of the projector as one, with the labels of what is mixed."""
  found = taught_by(run)
  several = committee(found.networks, found.variables)
  if len(found.networks) > 1:
    several = (drawn if run.config["projector"]["weak_labels"] == "drawn" else averaged)(several)
  return labelled(several, 0)


def job_of(run: Run, targets: TargetSource | None, start: Variables | None) -> train.Job:
  """The fit; without targets and start for plans."""
  c, task = run.config, run.task()
  return train.Job(
    label="project",
    network=network(run),
    recipe=stored_labels(1.0, loss="mse", ce_weight=c["projector"]["label_weight"]),
    train=c["projector_train"],
    data=task.teacher,
    members=np.arange(len(task.teacher.y))[None],
    seeds=[0],
    targets=targets,
    start=start,
    section="projector_train",
    record=shown.augmentation(run.config["relabel"]) if c["projector"]["augment"] == "students" else None,
  )


def _fit(run: Run, path, wanted: Mapping[str, Any]) -> None:
  c, own = run.config["projector"], encoder.ready(run)
  head = _first_head(run, own)
  base = projector.with_head(own.body, head)
  start = Variables(lora_lib.init_lora(run.key("factors"), base.params, _ranks(run)), base._asdict())
  job = job_of(run, _targets(run), jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], start))
  trained, figures = train.run(
    run, job, run.key("project"), run.workdir / "checkpoints" / f"projector_{path.name}", stage="project"
  )
  factors = jax.tree.map(lambda leaf: np.asarray(leaf[0]), trained.variables["student"].params)
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(factors)):
    raise Diverged("project: the factors are not finite; lower projector_train.lr")
  kept = c["head"] == "low_rank" and c["prototypes"] == _MEANS  # it cannot be made of names
  labels = projector.ProjectorLabels(factors, np.asarray(head) if kept else None, run.key_of(**wanted))
  task = run.task()
  scores = [dict(task.score(one, task.test)) for one in (_asked(job, start), train.predictions(job, trained, 0))]

  def write() -> None:
    write_npz(path / _ARRAYS, projector.to_arrays(labels))
    about = {"before": scores[0], "scores": scores[1], "bytes": labels.nbytes, "parameters": figures["parameters"]}
    about |= {"backbone": own.name, "backbone_bytes": own.nbytes}
    artefacts.write(path, _RECORD, wanted, (_ARRAYS,), **about)

  on_first(write)


def _asked(job: train.Job, variables: Variables):
  return functools.partial(predict, job.network, variables)


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  del given
  for name in ("encoder_train", "projector_train"):
    check_train(name, out[name])


def _check(run: Run) -> None:
  """Refuses encoders, ranks and prototypes that do not fit, before anything is trained."""
  c = run.config["projector"]
  encoder.check(run)
  ranks, shapes = _ranks(run), _shapes(run)
  head = {path: rank for path, rank in ranks.items() if path == projector.KERNEL}
  lora_lib.check_ranks(shapes, {path: ranks[path] for path in ranks.keys() - head}, "projector.encoder_rank")
  lora_lib.check_ranks(shapes, head, "projector.head_rank")
  if c["prototypes"] != _MEANS:
    projector.with_head(Variables(shapes), _named_head(run))
  if c["augment"] == "none":
    augment.named(run.config["projector_train"]["augment"], key="projector_train.augment")


def _run(run: Run) -> None:
  begin = time.monotonic()
  ready(run)
  wanted = identity(run)
  found = on_first(lambda: artefacts.checked(run.artefact("projectors", **wanted), _RECORD, wanted))
  known = ("before", "scores", "bytes", "parameters", "backbone", "backbone_bytes")
  run.finish("project", begin, hash=run.key_of(**wanted), **{name: found[name] for name in known})
  metric, size = run.task().metric, format_bytes(found["backbone_bytes"])
  run.log(
    f"project: {found['parameters']:,} numbers in {format_bytes(found['bytes'])} beside a public {found['backbone']} "
    f"({size}); test {metric} {found['before'][metric]:.4f} before, {found['scores'][metric]:.4f} after"
  )


def _verify(run: Run) -> None:
  wanted = identity(run)
  artefacts.checked(run.artefact("projectors", **wanted), _RECORD, wanted)


def size(run: Run) -> int:
  """How many numbers are learned."""
  found, sides = 0, lora_lib.kernels(_shapes(run))
  for path, rank in _ranks(run).items():
    i, o = sides[path]
    found += i * o if rank is None else rank * (i + o)
  return found


def _plan(run: Run) -> list[tuple[str, ...]]:
  c, schedule, count = run.config["projector"], run.config["projector_train"], size(run)
  what = f"{count:,} numbers on {run.config['encoder']['name']}, {schedule['epochs']} epochs"
  rows = [(what, f"keeps {format_bytes(4 * count)}")]
  if c["weights"] is None and c["backbone"] == "pretrained":
    job = networks.job_of(run, encoder.spec(run), [0])
    rows.insert(0, (f"the encoder on task {run.config['encoder_task']['name']}", job_plan.plan_of(run, job).cost(1)))
  return rows


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  metric = run.task().metric
  line = (
    f"label projector: {format_bytes(record['bytes'])} beside a public {record['backbone']} of "
    f"{format_bytes(record['backbone_bytes'])}, which is not counted"
  )
  text = (
    f"{record['parameters']:,} numbers are learned. On the test examples the projector has {metric} "
    f"{record['scores'][metric]:.4f}; before the first update it had {record['before'][metric]:.4f}."
  )
  names = ("before", "scores", "bytes", "parameters", "backbone", "backbone_bytes", "hash")
  summary = {"projector": {name: record[name] for name in names}}
  return Part(summary, lines=[line], sections=[Section("Label projector", f"{line[0].upper()}{line[1:]}. {text}")])


STAGE = Stage(
  "project",
  _run,
  Declared(
    sections={
      **encoder.SECTIONS,
      "projector": Plain(schema.fields(Projector)),
      "projector_train": TRAIN,
    },
    complete=_complete,
  ),
  (),
  _check,
  _verify,
  _plan,
  _report,
)
