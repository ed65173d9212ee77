"""The contracts of the package: what a network, a method, a data policy and a target source are.

Everything above the ground floor speaks in these types, and nothing here knows about anything above it. All of them are
`NamedTuple`s of pure functions, so a value can be built anywhere, passed through `jax.jit` boundaries as a static
closure, and replaced piece by piece with `value._replace(...)`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

Key = jax.Array  # new-style typed PRNG key, `jax.random.key(seed)`
PyTree = Any
Metrics = dict[str, jax.Array]  # flat, scalars only; names are "family/name"
Sites = Mapping[str, Callable[[jax.Array], jax.Array]]
POOLED = "pooled"  # the site of a map whose mean over its places enters a linear head


class UserError(ValueError):
  """A mistake the user can cure. The message is one line: the key, the value found, and what to do about it."""


class Diverged(UserError):
  """Training whose numbers are not finite any more. Of many networks beside each other, the others go on."""


class Outputs(NamedTuple):
  """What one forward pass of a network gives.

  Attributes:
    logits: `[batch, classes]`, unnormalised log-probabilities.
    embedding: `[batch, features]`, exactly what enters the classification head.
    taps: named intermediate maps (`"block0"`, `"block1"`, ...), after the activation (where a stage ends in one) and
      before pooling; `docs/models.md` says which.
    norm_inputs: per batch-norm layer the `(mean, biased variance)` over batch and space of what enters it, `[channels]`
      each; empty for networks without batch norm.
    stats: the running statistics after this call: new ones when `train=True`, the ones given otherwise; `{}` for
      networks without batch norm.
    head: of targets that are stored as embeddings: `{"kernel": [features, classes]}` or, for a tied head,
      `{"table": [classes, features]}`, which gives the logits; `None` for all others.
  """

  logits: jax.Array
  embedding: jax.Array
  taps: Mapping[str, jax.Array] = {}
  norm_inputs: Mapping[str, tuple[jax.Array, jax.Array]] = {}
  stats: PyTree = {}
  head: Mapping[str, jax.Array] | None = None


class Apply(Protocol):
  """A forward pass as a pure function of its parameters."""

  def __call__(
    self,
    params: PyTree,
    x: jax.Array,
    *,
    train: bool = False,
    rngs: Mapping[str, Key] | None = None,
    stats: PyTree | None = None,
    sites: Sites | None = None,
  ) -> Outputs:
    """Runs the network.

    Args:
      params: the trainable parameters.
      x: `[batch, height, width, channels]` in the network's input space.
      train: batch norm uses the batch's own statistics and returns updated running ones; dropout is on.
      rngs: keys by name (`"dropout"`), only needed by networks that draw random numbers.
      stats: running statistics; `None` or `{}` for networks that have none.
      sites: functions by tap name; each replaces the value at that place by its result (masks, prompts, probes).

    Returns:
      `Outputs`.
    """
    ...


class Variables(NamedTuple):
  """Parameters and running statistics of one network (or of many, stacked on a leading axis)."""

  params: PyTree
  stats: PyTree = {}


class Network(NamedTuple):
  """A network as two pure functions: `init(key) -> Variables` and an `Apply`.

  Attributes:
    init, apply: these.
    language: the same network with a cache, where it can be sampled from.
    denoiser: a `jdistill.diffusion.Denoiser`, where it takes `Noisy` and its logits are predictions of `x_0`.
    token_score: a `jdistill.diffusion.discrete.TokenScore`, where it takes `NoisyTokens` and its logits are log-scores.
  """

  init: Callable[[Key], Variables]
  apply: Apply
  language: "LanguageModel | None" = None
  denoiser: Any = None
  token_score: Any = None


class LanguageModel(NamedTuple):
  """A network of tokens that can be sampled from; it serves wherever a `Network` does.

  `apply` gives logits `[B, T, V]` for the next token at every position, and as embedding `[B, T, features]` what enters
  the head. The others go through a text token by token and remember it in a cache, a pytree of fixed shapes.

  Attributes:
    init: as of a `Network`.
    apply: as of a `Network`; takes ids `[B, T]`.
    init_cache: `(batch, length) -> cache` for rows of at most `length` tokens.
    prefill: `(params, cache, tokens [B, T], mask [B, T] | None) -> (logits [B, V], cache)`: enters many tokens at once.
      The mask is false for padding, which may be on either side; `None` for none. The logits are those after the last
      token of each row.
    decode: `(params, cache, tokens [B]) -> (logits [B, V], cache)`: enters one token per row.
    context: the most tokens of a row.
    vocabulary: `V`.
  """

  init: Callable[[Key], Variables]
  apply: Apply
  init_cache: Callable[[int, int], PyTree]
  prefill: Callable[[PyTree, PyTree, jax.Array, jax.Array | None], tuple[jax.Array, PyTree]]
  decode: Callable[[PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]]
  context: int
  vocabulary: int


class Method(NamedTuple):
  """A distillation method as three pure functions.

  Attributes:
    init: `(key, example) -> State`. `example` is one batch of the stream that `step` consumes.
    step: `(key, state, batch) -> (State, Metrics)`. Pure and jit-able; the state keeps its tree, shapes and dtypes.
      The caller folds the step number into `key`, so a state never carries a key and a resumed run draws the same
      numbers.
    result: `(state) -> artefact`, what is exported and evaluated.
    figures: `(state, steps) -> numbers by name` that a report shows of the state after so many steps.
    steps: how many steps it takes by itself; `None` leaves that to the caller.
    stuck: `(metrics of some steps, oldest first) -> why nothing is learned`, with the key and the cure, or `""`.
    cure: what helps where its numbers are not finite, for messages; `""` for lower learning rates.
  """

  init: Callable[[Key, PyTree], PyTree]
  step: Callable[[Key, PyTree, PyTree], tuple[PyTree, Metrics]]
  result: Callable[[PyTree], PyTree]
  figures: Callable[[PyTree, int], Mapping[str, Any]] = lambda state, steps: {}
  steps: int | None = None
  stuck: Callable[[Sequence[Mapping[str, float]]], str] = lambda rows: ""
  cure: str = ""


class Augmentation(NamedTuple):
  """A random transformation split into what was drawn and what that does, so that a draw can be replayed.

  Attributes:
    sample: `(key, shape) -> record`. `shape` is `(batch, height, width, channels)`; the record is a pytree of arrays.
    apply: `(record, x) -> x`, deterministic and differentiable in `x`.
  """

  sample: Callable[[Key, tuple[int, ...]], PyTree]
  apply: Callable[[PyTree, jax.Array], jax.Array]


class View(NamedTuple):
  """What a method looks at in the place of a synthetic image, such as the image and its mirror image.

  Methods show themselves every synthetic image this way, before any augmentation; labels are those of the image.

  Attributes:
    copies: how many images are made of each.
    images: `[n, height, width, channels] -> [n, copies, height, width, channels]`, differentiable.
  """

  copies: int
  images: Callable[[jax.Array], jax.Array]


class Batch(NamedTuple):
  """Examples with all that is known of each: what every step sees, and what every split of a task is.

  Every leaf has the same leading axis.

  Attributes:
    x: `[n, ...]` inputs: images in network space, token ids, or a pytree of such.
    y: `[n]` integer labels, `[n, classes]` label logits, or a map or sequence of labels per example.
    ids: `[n]` int32, stable names of the examples; stored targets are looked up by these, never by position.
    weight: `[n]` or `None`; zero marks padding.
    extra: what else a method wants per example, by name (`"private"`, `"clean_labels"`).
  """

  x: PyTree
  y: jax.Array
  ids: jax.Array
  weight: jax.Array | None = None
  extra: Mapping[str, jax.Array] = {}


class Segment(NamedTuple):
  """A piece of a network's training, as methods that match trajectories see it.

  Attributes:
    start, target: flat parameters `[P]` at its two ends.
    between: those after every epoch in between, `[epochs - 1, P]`; `()` where nobody asked.
    loss_scale: scalar, a factor of the inner loss on this piece; `()` for 1.
  """

  start: jax.Array
  target: jax.Array
  between: jax.Array | tuple[()] = ()
  loss_scale: jax.Array | tuple[()] = ()


class Look(NamedTuple):
  """What a data policy may look at: networks in evaluation mode as functions of positions among a student's examples.

  Attributes:
    examples: `(positions [m]) -> Batch`.
    student: `(positions [m]) -> logits [m, ...]` of the student as it predicts now, computed in chunks.
    teacher: `(positions [m]) -> logits [m, ...]` of the first teacher, computed in chunks.
    constants: what was computed once before training (`Recipe.prepare`).
    memory: what the method remembers of its steps so far (`Recipe.memory`); `()` for one that remembers nothing.
    held_out: the same of the examples that choices are made on; `None` where a policy does not ask for them.
    size: how many examples there are.
  """

  examples: Callable[[jax.Array], Batch]
  student: Callable[[jax.Array], jax.Array]
  teacher: Callable[[jax.Array], jax.Array]
  constants: PyTree = ()
  memory: PyTree = ()
  held_out: "Look | None" = None
  size: int = 0


class Block(NamedTuple):
  """A block of steps, as a data policy draws it.

  Attributes:
    index: `[steps, B]` int32 positions among the student's examples.
    weight: `[steps, B]` float32; zero marks padding. A step without any weight does not happen: it is cut off before
      the block is run, so that fewer examples mean fewer steps.
    metrics: scalars worth showing, by name (`"selected"`). Those of one kind have its name in front
      (`"weight/markov1"`), and a report draws them together.
  """

  index: jax.Array
  weight: jax.Array
  metrics: Mapping[str, jax.Array] = {}


class DataPolicy(NamedTuple):
  """Which examples the next steps see: all of them in random order, a fresh subset, a curriculum, a selection.

  Attributes:
    init: `(key) -> state`, arrays only; `()` where a policy remembers nothing.
    next: `(key, state, epoch, look) -> (Block, state)`: the steps of one epoch. Pure and jit-able, of fixed shapes; the
      caller folds the number of the epoch into `key`. `epoch` is a scalar int32; `look` is a `Look`, or `None` for
      policies that do not look.
    steps: how many steps an epoch has at most.
    looks: whether `next` needs a `Look`; it is then called at the start of each epoch, with the networks of that time.
    hint: how to get examples where `next` left none, for the message.
    init_seeds: `(keys [seeds]) -> states`, with a leading axis of seeds, for a policy that was made for the seeds of
      one training and treats each in its own way; `None` maps `init` over the keys.
    held_out: whether it looks at held-out examples, `Look.held_out`, with student and teacher.
    remark: `(metrics of a block) -> a line for the log`, where a user should know; `""` for none.
    check: `(examples on the host)`, raises a `UserError` where they are none that this policy can draw from.
  """

  init: Callable[[Key], PyTree]
  next: Callable[[Key, PyTree, jax.Array, Look | None], tuple[Block, PyTree]]
  steps: int
  looks: bool = False
  hint: str = ""
  init_seeds: Callable[[jax.Array], PyTree] | None = None
  held_out: bool = False
  remark: Callable[[Mapping[str, float]], str] = lambda metrics: ""
  check: Callable[[Batch], None] = lambda data: None


class TargetSource(NamedTuple):
  """Where a student's targets come from: frozen networks that look at every batch, or what was stored of them.

  Attributes:
    targets: `(arrays, key, batch, record, step) -> tuple of Outputs`, one per teacher. `batch` holds the teacher's
      (augmented) inputs and the examples' ids, `record` the augmentation that was applied to them (`None` for none),
      `step` the number of the update, int32. Pure; the caller stops the gradient.
    arrays: what `targets` reads: parameters, or stored targets. An argument, so that it is no constant of a program.
    nbytes: bytes of `arrays` that must be kept for these targets to exist; part of every result.
    name: how reports call it (`"online"`, `"cached"`, `"cached top 5"`).
    replay: `(arrays, step) -> record`: the augmentation that the stored targets of a step belong to. `None` draws a new
      one in every step.
    same_pixels: whether they hold for what the student sees and nothing else; a recipe that shows its teachers other
      pixels is then refused.
    networks: the teachers themselves, where `arrays` are their `Variables` in the same order; `()` for stored targets.
  """

  targets: Callable[[PyTree, Key, Batch, PyTree, jax.Array], tuple[Outputs, ...]]
  arrays: PyTree
  nbytes: int
  name: str
  replay: Callable[[PyTree, jax.Array], PyTree] | None = None
  same_pixels: bool = False
  networks: "tuple[Network | LanguageModel, ...]" = ()

  @property
  def language(self) -> tuple[LanguageModel, ...]:
    """The teachers as networks that can be sampled from; `()` where one of them cannot write."""
    return writers(self.networks)


def writers(networks: "Sequence[Network | LanguageModel]") -> tuple[LanguageModel, ...]:
  """Networks as what can be sampled from; `()` where one of them cannot write."""
  found = [one if isinstance(one, LanguageModel) else one.language for one in networks]
  return () if None in found else tuple(found)


class Connector(NamedTuple):
  """A small network between a student and its teachers, trained with the student and in most methods thrown away.

  Attributes:
    init: `(key, student, teachers) -> Variables`; the outputs tell the shapes.
    apply: `(variables, student, teachers, *, train, key) -> (value, stats)`: any pytree of arrays, and the running
      statistics after this call.
  """

  init: Callable[[Key, Outputs, tuple[Outputs, ...]], Variables]
  apply: Callable[..., tuple[PyTree, PyTree]]
