"""The contract of tasks."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import numpy as np

from jdistill.base import Batch, LanguageModel, PyTree
from jdistill.data import Dataset, load, preprocess
from jdistill.evaluation.scores import classification_scores
from jdistill.language import Tokenizer

Predict = Callable[[np.ndarray], np.ndarray]  # inputs [n, ...] -> logits [n, ..., classes], in batches


class Request(NamedTuple):
  """Which data an experiment names.

  Attributes:
    dataset: a name, a file or a folder.
    data_dir: folder of prepared TFDS sets, or `None`.
    train_size, test_size: class-balanced subsets, or `None` for all.
    preprocessing: `"none"`, `"standardize"`, `"channel"` or `"zca"`.
    validation_size: training examples that are held out for choices and outer updates.
    seed: decides all subsets.
    load: reads the data set; the arguments are those of `jdistill.data.load`.
    fit: `(kind, training images) -> Preprocessing`.
  """

  dataset: str
  data_dir: str | None
  train_size: int | None
  test_size: int | None
  preprocessing: str
  validation_size: int
  seed: int
  load: Callable[..., Dataset] = load
  fit: Callable[[str, np.ndarray], preprocess.Preprocessing] = preprocess.fit


class Writer(NamedTuple):
  """A frozen teacher that can be sampled from, as scores that compare students with it take it.

  Attributes:
    model: see `LanguageModel`.
    params: of it.
  """

  model: LanguageModel
  params: PyTree


class Verifier(NamedTuple):
  """How roll-outs of a student are judged.

  Attributes:
    end_token: that ends a response.
    right: `(Rows [n, T], mask of the response [n, T]) -> [n]` in [0, 1].
  """

  end_token: int
  right: Callable[[PyTree, np.ndarray], np.ndarray]


class Text(NamedTuple):
  """What a task of tokens knows of its text.

  Attributes:
    tokenizer: whose ids the tokens are.
    probe: a held-out piece of the text, for a look at teachers before training.
  """

  tokenizer: Tokenizer
  probe: str


class Finished(NamedTuple):
  """A trained student, as exhibits take it.

  Attributes:
    predict: inputs to outputs, as for scores.
    language: its network, where that can write; `None` for others.
    params: of its network.
  """

  predict: Predict
  language: LanguageModel | None
  params: PyTree


class Exhibit(NamedTuple):
  """What a reader of the report sees of finished students, beside their figures.

  Attributes:
    kind: `"text"`, `"images"` or `"points"` of the plane.
    about: what is shown, in a sentence or two.
    make: `(Finished) -> a text, pixels [n, height, width, channels] in [0, 1], or [n, 2]`, on the host.
    real: the same of real data, shown beside them; `None` for none.
    columns: images in a row.
  """

  kind: Literal["text", "images", "points"]
  about: str
  make: Callable[[Finished], str | np.ndarray]
  real: np.ndarray | None = None
  columns: int = 8


class Task(NamedTuple):
  """Data and score of an experiment, by default the accuracy on labelled images; all arrays on the host.

  Attributes:
    data: all examples that a student may see, whoever it is.
    members: `(seed) -> positions in data` of one student's examples; the same number for every seed.
    teacher: what teachers are trained on.
    validation: held out from both; choices are made here.
    test: looked at once, at the end.
    num_classes: length of the logits.
    input_shape: of one example.
    kind: which networks fit: `"images"`, `"maps"` (a class per pixel), `"tokens"`, `"samples"` (denoisers), or
      `"token_samples"` (score networks of tokens).
    score: `(predict, data) -> figures by name`.
    against: `(Writer, data) -> ((predict) -> figures by name)` that tell how far a student is from its first teacher;
      what the teacher writes is written once. `None` for none.
    reading: `(steps [E], curves by name [E, seeds]) -> columns of the result` that a curve of scores tells by its form.
    metric: the figure that counts.
    higher: whether more of it is better.
    notes: lines for the report (how many examples, what was done to them).
    class_names: in the order of the labels; empty where there are no classes with names.
    domains: names of what `extra["domain"]` numbers; empty where examples have none.
    beside: `(figures of a student, figures of its teacher) -> figures by name` that tell of both; `None` for none.
    preprocessing: how pixels in [0, 1] became inputs, and back; `None` for inputs that are no images.
    source: the name of the data set, its fingerprint and the subsets taken.
    text: what tasks of tokens know of their text; `None` for others.
    exhibit: what of finished students the report shows; `None` for nothing.
    floor: what real training data get as test scores in the place of predictions, where that tells something.
    judged_by: `(seed, held-out examples) -> those that a student of this seed is judged by`, where students learn
      different things; `None` for all of them.
    verifier: of responses to the prompts of the examples; `None` where these cannot be checked.
  """

  data: Batch
  members: Callable[[int], np.ndarray]
  teacher: Batch
  validation: Batch
  test: Batch
  num_classes: int
  input_shape: tuple[int, ...]
  kind: str = "images"
  score: Callable[[Predict, Batch], Mapping[str, float]] = classification_scores
  against: Callable[[Writer, Batch], Callable[[Predict], Mapping[str, float]]] | None = None
  reading: Callable[[np.ndarray, Mapping[str, np.ndarray]], Mapping[str, str]] | None = None
  metric: str = "accuracy"
  higher: bool = True
  notes: tuple[str, ...] = ()
  class_names: tuple[str, ...] = ()
  domains: tuple[str, ...] = ()
  beside: Callable[[Mapping[str, float], Mapping[str, float]], Mapping[str, float]] | None = None
  preprocessing: preprocess.Preprocessing | None = None
  source: Mapping[str, object] = {}
  text: Text | None = None
  exhibit: Exhibit | None = None
  floor: Mapping[str, float] = {}
  judged_by: Callable[[int, Batch], Batch] | None = None
  verifier: Verifier | None = None

  def pixels(self, x: np.ndarray) -> np.ndarray:
    """Inputs back as pixels, clipped to [0, 1]."""
    return np.clip(np.asarray(preprocess.invert(self.preprocessing, np.asarray(x))), 0, 1)


def fingerprint(data: Batch) -> str:
  """A short name of examples: SHA-256 over all arrays."""
  digest = hashlib.sha256()
  inputs = [(f"x{jax.tree_util.keystr(path)}", leaf) for path, leaf in jax.tree.leaves_with_path(data.x)]
  for name, leaf in [*inputs, ("y", data.y), ("ids", data.ids), *sorted(data.extra.items())]:
    array = np.ascontiguousarray(leaf)
    digest.update(f"{name} {array.dtype} {array.shape};".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]


def take(data: Batch, positions: np.ndarray) -> Batch:
  """The examples at these positions, with their names."""
  extra = {name: np.asarray(value)[positions] for name, value in data.extra.items()}
  x = jax.tree.map(lambda leaf: leaf[positions], data.x)
  return Batch(x, data.y[positions], data.ids[positions], extra=extra)


def numbered(x: PyTree, y: np.ndarray, **extra: np.ndarray) -> Batch:
  """Examples that are named by their positions."""
  return Batch(x, y, np.arange(len(y), dtype=np.int32), extra=extra)
