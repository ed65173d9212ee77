"""Addition: problems of several difficulties, whose answers can be checked."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from jdistill.base import Batch
from jdistill.language import byte_tokenizer
from jdistill.schema import Range, validated
from jdistill.tasks.records import corpus_of, divide, rows_of
from jdistill.tasks.task import Predict, Request, Task


@validated("task")
def arithmetic(request: Request, *, context: Annotated[int, Range(4)] | None = None) -> Task:
  """Additions `a+b=`, one to a row; `domain` of the extra is how many digits they have, less the fewest.

  The score is `accuracy`, the mean over all N of `accuracy_N`: the share of problems of N digits to which the likeliest
  tokens, one after the other, are the right answer and its end. With a scratchpad its steps must be right, too.

  Args:
    request: `dataset` is `"addition"`, with options as in `"addition:digits=3"` (`jdistill.synthetic.generated`). Sizes
      count problems; held-out ones have every difficulty in its share, and none is trained on.
    context: tokens of a row; open for the longest problem with its answer.

  Raises:
    UserError: another data set, sizes that do not fit, or an option out of its range.
  """
  corpus, words = corpus_of(request, "addition"), byte_tokenizer()
  train, validation, test = divide(rows_of(corpus, words, context), request)
  least = len(corpus.records[0][0].partition("+")[0])

  def score(predict: Predict, data: Batch) -> Mapping[str, float]:
    # where all of a response are the likeliest tokens, it is what a model writes at temperature 0, and only then
    found = np.argmax(predict(data.x), axis=-1)
    right = np.where(data.extra["mask"], found == data.y, True).all(axis=1)
    domain = data.extra["domain"]
    each = {f"accuracy_{least + number}": float(right[domain == number].mean()) for number in np.unique(domain)}
    return {"accuracy": float(np.mean(list(each.values())))} | each

  counts = np.bincount(train.extra["domain"])
  return Task(
    data=train,
    members=lambda seed: np.arange(len(train.y)),
    teacher=train,
    validation=validation,
    test=test,
    num_classes=words.size,
    input_shape=(train.y.shape[1],),
    kind="tokens",
    score=score,
    domains=tuple(f"{least + i} digit{'s' if least + i > 1 else ''}" for i in range(max(corpus.difficulty) + 1)),
    notes=(
      f"{len(train.y):,} additions for teacher and students "
      f"({', '.join(f'{count:,} of {least + i}' for i, count in enumerate(counts))} digits), choices on "
      f"{len(validation.y):,} held-out ones; test: {len(test.y):,}",
    ),
  )
