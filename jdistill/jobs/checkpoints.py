"""Language models of checkpoints in runs: sizes of the file, rows of the task's tokeniser, checks of a teacher."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from jdistill import models, pretrained, schema
from jdistill.base import Network, PyTree, UserError, Variables
from jdistill.config import Plain
from jdistill.language import Preflight, Tokenizer, check_same_tokenizer, preflight
from jdistill.models import DecoderConfig
from jdistill.models.decoder_slices import Blocks, Channels
from jdistill.runs.run import Run
from jdistill.schema import Count, Size
from jdistill.tasks import Task

_KEY, _STUDENT = "teachers.weights", "student_weights"
_OWN = ("dtype", "remat")  # how a network computes, not what: as the run says
_PROBE_TOKENS = 512
_WAY_OUT = (
  "losses on logits need one vocabulary: set task.tokenizer to the teacher's, or train on texts that the teacher writes"
)


class StudentWeights(NamedTuple):
  """What students begin with: a checkpoint, or a part of one. Sizes that are open are the checkpoint's."""

  path: str | None = None
  depth: Count | None = None
  width: Count | None = None
  hidden: Count | None = None
  heads: Count | None = None
  kv_heads: Count | None = None
  blocks: Annotated[str, schema.Choice(Blocks.__args__)] = "even"
  keep: tuple[Size, ...] = ()
  channels: Literal["first", "largest"] = Channels.__args__[0]


SECTION = Plain(schema.fields(StudentWeights))


def check_section(prefix: str, own: Mapping[str, Any]) -> None:
  """Refuses options of a checkpoint that is not given, and blocks that contradict each other."""
  if own["path"] is None:
    for key, value in own.items():
      if value not in (StudentWeights._field_defaults[key], []):  # records have lists
        raise UserError(f"{prefix}{_STUDENT}.{key}={value!r}: is a part of a checkpoint; give {_STUDENT}.path, too")
    return
  if not pretrained.is_language_checkpoint(own["path"]):
    raise UserError(
      f"{prefix}{_STUDENT}.path={own['path']!r}: is no language model; give 'smollm2', FILE.gguf, or a directory with "
      "config.json and model.safetensors"
    )
  if own["keep"] and own["depth"] not in (None, len(own["keep"])):
    raise UserError(
      f"{prefix}{_STUDENT}.keep={tuple(own['keep'])}: names {len(own['keep'])} blocks, and depth={own['depth']}; leave "
      "depth out"
    )


def is_language(path: str | None) -> bool:
  """Whether weights are those of a language model."""
  return path is not None and pretrained.is_language_checkpoint(path)


def teacher_section(section: Mapping[str, Any], path: str) -> dict[str, Any]:
  """The section `teacher` with the sizes of a checkpoint."""
  return _section(section, pretrained.load_checkpoint(path, _KEY).config)


def student_section(section: Mapping[str, Any], own: Mapping[str, Any] | None) -> Mapping[str, Any]:
  """The section `student`, with the sizes of what it begins with where that is a checkpoint."""
  if not own or own["path"] is None:
    return section
  return _section(section, _smaller(pretrained.load_checkpoint(own["path"], f"{_STUDENT}.path").config, own))


def _section(section: Mapping[str, Any], config: DecoderConfig) -> dict[str, Any]:
  sizes = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
  del sizes["num_classes"]
  return {"name": "decoder"} | sizes | {key: section[key] for key in _OWN if key in section}


def _smaller(config: DecoderConfig, own: Mapping[str, Any]) -> DecoderConfig:
  sizes = {key: own[key] for key in ("depth", "width", "hidden", "heads", "kv_heads")}
  if own["keep"]:
    sizes["depth"] = len(own["keep"])
    if (most := max(own["keep"])) >= config.depth:
      raise UserError(f"{_STUDENT}.keep: block {most} of {config.depth}, which count from 0; name others")
  return models.smaller_config(config, key=f"{_STUDENT}.", **sizes)


def check_student(own: Mapping[str, Any] | None, task: Task) -> None:
  """Refuses what students begin with where it is of another tokeniser than the task."""
  if not own or own["path"] is None:
    return
  key = f"{_STUDENT}.path"
  found, where = pretrained.load_checkpoint(own["path"], key), f"{key}={own['path']!r}"
  _same_tokens(found.tokenizer, found.config, task, where)
  if found.tokenizer is not None:
    try:
      check_same_tokenizer(found.tokenizer, task.text.tokenizer, task.text.probe)
    except UserError as error:
      raise UserError(f"{where}: {error}") from error


def student_params(own: Mapping[str, Any], task: Task) -> PyTree:
  """The parameters that students begin with; errors are those of `check_student`."""
  key = f"{_STUDENT}.path"
  check_student(own, task)
  found = pretrained.load_checkpoint(own["path"], key)
  smaller = dataclasses.replace(_smaller(found.config, own), num_classes=task.num_classes)
  blocks = tuple(own["keep"]) or own["blocks"]
  return models.decoder_slice(found.params, found.config, smaller, blocks=blocks, channels=own["channels"])


def teacher_variables(path: str, task: Task) -> Variables:
  """A checkpoint with the rows of the task's tokeniser; padded rows are cut off."""
  found = pretrained.load_checkpoint(path, _KEY)
  _same_tokens(found.tokenizer, found.config, task, f"{_KEY}={path!r}")
  smaller = dataclasses.replace(found.config, num_classes=task.num_classes)
  return Variables(models.decoder_slice(found.params, found.config, smaller))


def _same_tokens(own: Tokenizer | None, config: DecoderConfig, task: Task, where: str) -> None:
  """Refuses a checkpoint of another vocabulary, before anything is cut."""
  if task.text is None:
    raise UserError(f"{where}: is a language model, and the task has no text; set task.name='language'")
  words = task.text.tokenizer
  if own is None and config.num_classes != words.size:
    raise UserError(
      f"{where}: has {config.num_classes} rows and no tokeniser beside it, and task.tokenizer ({words.name}) has "
      f"{words.size} tokens; put its tokenizer.json there. {_WAY_OUT}"
    )
  if config.num_classes < task.num_classes:
    raise UserError(
      f"{where}: has {config.num_classes} rows, fewer than task.vocabulary={task.num_classes}; leave that out"
    )
  if own is not None and own.size != words.size:
    raise UserError(
      f"{where}: its tokeniser has {own.size} tokens, and task.tokenizer ({words.name}) {words.size}; {_WAY_OUT}"
    )


def check_teacher(
  run: Run, path: str, network: Network, variables: Variables, task: Task, worst_perplexity: float | None = None
) -> Preflight:
  """All checks of a teacher from a file, and a line about what they found; before any training.

  Raises:
    UserError: the first check that fails.
  """
  found, text = pretrained.load_checkpoint(path, _KEY), task.text
  context = min(_PROBE_TOKENS, found.config.context)
  own = found.tokenizer or text.tokenizer
  try:
    seen = preflight(
      network.apply,
      variables.params,
      own,
      text.tokenizer,
      teacher_rows=task.num_classes,
      student_rows=task.num_classes,
      probe=text.probe,
      context=context,
      worst_perplexity=worst_perplexity,
    )
  except UserError as error:
    raise UserError(f"{_KEY}={path!r}: {error}") from error
  seen = seen._replace(teacher_padding=found.config.num_classes - task.num_classes)
  compared = "the task's tokeniser" if found.tokenizer else "no tokeniser beside it"
  run.log(
    f"preflight of {path}: {compared}, {seen.vocabulary:,} ids, {seen.teacher_padding:,} padded rows cut; perplexity "
    f"{seen.perplexity:.2f} on {seen.tokens} held-out tokens; two passes differ by {seen.difference:.1g}; {seen.dtype}"
  )
  return seen
