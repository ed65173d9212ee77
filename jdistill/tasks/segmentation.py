"""A class per pixel, and room for one more input channel in which a privileged teacher sees a noised label map."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import ops
from jdistill.base import Batch, Key, UserError
from jdistill.data import masks, preprocess
from jdistill.evaluation.segmentation import confusion_matrix, mean_iou
from jdistill.schema import Size, validated
from jdistill.tasks.task import Predict, Request, Task, take

_TOGETHER = 64  # images that are scored at one time


@validated("task")
def segmentation(request: Request, *, ignore: Size | None = None) -> Task:
  """Images with label maps; teachers and students share the training images.

  Inputs are `[H, W, channels + 1]`: the last channel is zero, for students always, and the method LAD writes its noised
  label maps there for the teacher. Labels are `[H, W]` classes, or -1 where a pixel has none. `Batch.extra["present"]`
  `[n, classes]` says which classes an image shows, and so how many there are.

  Choices are made on the file's own validation images, or on training images that are held out.

  Args:
    request: which images: `"shapes"` (drawn, 32x32), or a `.npz` file (`jdistill.data.masks`).
    ignore: the mask value of pixels that belong to no class; a file has to say it.

  Raises:
    UserError: whatever `jdistill.data.masks.load` refuses, or too few images for the validation part.
  """
  sizes = {"train_size": request.train_size, "test_size": request.test_size, "seed": request.seed}
  found = masks.load(request.dataset, ignore=ignore, **sizes)
  fitted = request.fit(request.preprocessing, found.train.images)
  num_classes = len(found.class_names)

  def data(split: masks.Split) -> Batch:
    pixels = np.asarray(preprocess.transform(fitted, split.images), np.float32)
    x = np.concatenate([pixels, np.zeros((*pixels.shape[:3], 1), np.float32)], axis=-1)
    present = np.stack([np.any(split.masks == c, axis=(1, 2)) for c in range(num_classes)], axis=1)
    return Batch(x, split.masks, split.ids, extra={"present": present})

  train, source = data(found.train), data(found.validation or found.train)
  count = len(source.ids)
  if request.validation_size > count or (found.validation is None and request.validation_size == count):
    raise UserError(f"validation_size={request.validation_size}: there are {count} images; hold out fewer")
  held = np.sort(np.random.default_rng(request.seed).permutation(count)[: request.validation_size])
  if found.validation is None:
    train = take(source, np.setdiff1d(np.arange(count), held))
  validation, test = take(source, held), data(found.test)
  everyone = np.arange(len(train.ids))
  ignored = float(np.mean(train.y == masks.IGNORE))
  return Task(
    data=train,
    members=lambda seed: everyone,
    teacher=train,
    validation=validation,
    test=test,
    num_classes=num_classes,
    input_shape=train.x.shape[1:],
    kind="maps",
    score=scores,
    metric="miou",
    notes=(
      f"teacher and students: {len(train.ids)} training images of {train.x.shape[1]}x{train.x.shape[2]}; choices on"
      f" {len(validation.ids)} held-out ones; test: {len(test.ids)}",
      f"{num_classes} classes ({', '.join(found.class_names)}); {100 * ignored:.1f}% of the training pixels have none",
      "one more input channel, zero for students and whenever a network is scored",
    ),
  )


def scores(predict: Predict, data: Batch) -> dict[str, float]:
  """Mean intersection over union and the share of pixels that are right, of predictions without any help.

  Pixels without a class do not count. The mean is over classes that occur or are predicted, from counts over all
  images.

  Args:
    predict: `(x [n, H, W, channels + 1]) -> logits [n, H, W, classes]`.
    data: examples of the task.

  Raises:
    ValueError: the label channel is not zero, so that a score would be of a network that is told the answer; or logits
      are not one vector per pixel.
  """
  if np.any(data.x[..., -1]):
    raise ValueError("segmentation: the label channel is not zero; students are scored without labels")
  return _figures(_confusion(predict, data.x, data))


def scores_with_labels(
  predict: Predict,
  data: Batch,
  *,
  codes: str = "random",
  scale: float = 1.5,
  sigma: float = 0.01,
  key: Key | None = None,
) -> dict[str, float]:
  """What a privileged teacher makes of the label channel: the scores with the right maps in it, and with wrong ones.

  The wrong map of an image is that of the next one. Neither figure is a score of segmentation, as the first network is
  told and the second is misled: a teacher that copies its input has a high first and a very low second one.

  Args:
    predict, data: as for `scores`.
    codes, scale: as the teacher was trained (`jdistill.methods.knowledge.lad`).
    sigma: of the noise; 0.01 in LAD's evaluations.
    key: for codes and noise.

  Returns:
    `miou_labels` and `miou_wrong_labels`.
  """
  num_classes = data.extra["present"].shape[1]
  table = ops.fixed_codes(num_classes) if codes == "fixed" else None
  out = {}
  for name, maps in {"miou_labels": data.y, "miou_wrong_labels": np.roll(data.y, -1, axis=0)}.items():
    channel = ops.encode_noised_labels(
      jax.random.key(0) if key is None else key, maps, num_classes, sigma=sigma, scale=scale, codes=table
    )
    x = np.concatenate([data.x[..., :-1], np.asarray(channel)], axis=-1)
    out[name] = _figures(_confusion(predict, x, data))["miou"]
  return out


def _confusion(predict: Predict, x: np.ndarray, data: Batch) -> np.ndarray:
  """`[C, C]` int64 counts, some images at a time."""
  num_classes = data.extra["present"].shape[1]
  count = jax.jit(lambda logits, y: confusion_matrix(jnp.argmax(logits, -1), y, num_classes))
  size = min(_TOGETHER, len(x))
  total = np.zeros((num_classes, num_classes), np.int64)
  for begin in range(0, len(x), size):
    rows = np.arange(begin, begin + size)
    y = np.where((rows < len(x))[:, None, None], data.y[rows % len(x)], masks.IGNORE)
    logits = predict(x[rows % len(x)])
    if logits.shape != (*y.shape, num_classes):
      raise ValueError(
        f"segmentation: logits of shape {logits.shape} for maps {y.shape} of {num_classes} classes; take a network that"
        " classifies every pixel, such as 'segnet'"
      )
    total += np.asarray(count(logits, y), np.int64)
  return total


def _figures(confusion: np.ndarray) -> dict[str, float]:
  miou = float(mean_iou(confusion.astype(np.float32)))
  return {"miou": miou, "pixel_accuracy": float(np.trace(confusion) / max(1, confusion.sum()))}
