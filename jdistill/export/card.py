"""The README that travels with a distilled set, so that nobody has to guess its space, labels or rate."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jdistill
from jdistill.export.distilled_set import DistilledSet
from jdistill.files import to_jsonable
from jdistill.reporting.table import format_table, literal

_UNDO = {
  "none": ("pixels = images",),
  "standardize": ('pixels = images * data["preprocessing/inverse"] + data["preprocessing/mean"]',),
  "zca": (
    'vectors, inverse = data["preprocessing/vectors"], data["preprocessing/inverse"]',
    "flat = images.reshape(len(images), -1)  # height, width, channels",
    "pixels = flat * inverse[-1] + (flat @ vectors * (inverse[:-1] - inverse[-1])) @ vectors.T",
    'pixels = (pixels + data["preprocessing/mean"]).reshape(images.shape)',
  ),
}
_UNDO["channel"] = _UNDO["standardize"]
_DO = {
  "standardize": "`(x - mean) * scale`",
  "channel": "`(x - mean) * scale` per channel",
  "zca": "`c * scale[-1] + (c @ vectors * (scale[:-1] - scale[-1])) @ vectors.T` with `c = x - mean`, on images"
  " flattened in the order height, width, channels",
}


def card(distilled: "DistilledSet", digest: str, picture: str | None) -> str:
  """Writes the card of a checked distilled set.

  Args:
    distilled: the set.
    digest: its `artefact_sha256`.
    picture: file name of its PNG, if there is one.

  Returns:
    Markdown.
  """
  kind = str(distilled.preprocessing["kind"])
  count, height, width, channels = distilled.images.shape
  soft = distilled.labels.ndim == 2
  source = distilled.provenance.get("dataset", "images")
  title = str(source.get("name", "images") if isinstance(source, Mapping) else source)
  labels = "label logits, one row per image (softmax gives the target probabilities)" if soft else "integer classes"
  use = "their label logits as soft targets" if soft else "their labels"
  if distilled.protocol.get("loss") == "mse":
    labels = "regression targets, one row per image, the largest that of its class" if soft else labels
    use = "the squared error of a network's outputs to their labels" + ("" if soft else " (centred one-hot)")
  purpose, load = "train a network from scratch in place of the whole data set", "print(distilled.evaluate())"
  rate = "start from the learned rate", "images, labels and rate were learned together, and each is worth less alone"
  if distilled.protocol.get("loss") == "features":
    labels, use = (
      "feature targets, one row per image; they belong to no classes",
      "the mean squared error to its labels",
    )
    use = f"{use}, through a head of {distilled.labels.shape[-1]} outputs that is thrown away afterwards"
    purpose, load = "pre-train a network whose features are used elsewhere", "network = distilled.pretrain()[0]"
    rate = "take the rate", "images and labels were learned together, and each is worth less alone"
  blocks = [
    f"# Distilled set: {literal(title)}",
    f"{count} synthetic images of {height} x {width} x {channels}, made to {purpose}.",
    *([f"![the images, preprocessing undone]({picture})"] if picture else []),
    "## Before you use it",
    "\n".join(
      (
        f"- {_space(kind)}",
        f"- **Train with {use} and {rate[0]}** {distilled.learned_lr:.6g}: {rate[1]}.",
        f"- `labels` are {labels}.",
        *_tiles(distilled.protocol),
        *_sums(distilled),
      )
    ),
    "## Load it",
    "With jdistill:",
    _code("import jdistill", "", 'distilled = jdistill.load(".")', load),
    "With NumPy alone, preprocessing undone:",
    _code(
      "import numpy as np",
      "",
      'data = np.load("distilled.npz")',
      'images, labels, rate = data["images"], data["labels"], float(data["learned_lr"])',
      *_UNDO[kind],
      "pixels = pixels.clip(0, 1)",
    ),
    "## Provenance",
    _table({"sha256": digest, "card written by": f"jdistill {jdistill.__version__}", **distilled.provenance}),
  ]
  if distilled.protocol:
    blocks += ["## Evaluation protocol", _table(distilled.protocol)]
  if distilled.class_names:
    names = ", ".join(f"{index} {literal(name)}" for index, name in enumerate(distilled.class_names))
    blocks += ["## Classes", names]
  return "\n\n".join(blocks) + "\n"


def _sums(distilled: DistilledSet) -> list[str]:
  """A line about images that are added to the others, where there are some."""
  if isinstance(distilled.compensators, tuple):
    return []
  slices, each = distilled.compensators.shape[:2]
  return [
    f"- **Networks are trained on {len(distilled.images) * (1 + each)} images**: those of the file, of which each "
    f"class has {slices} in a row, and the sums `images[c * {slices} + k] + compensators[k, m]` for every class `c`, "
    f"slice `k` and `m` below {each}, clipped to the range of pixels, with the labels of the former. jdistill adds "
    "them up.",
  ]


def _tiles(protocol: Mapping[str, Any]) -> list[str]:
  """A line about what is shown in the place of an image, where it is not the image."""
  name, cells = protocol.get("view", "none"), protocol.get("cells", 1)
  view = [] if name == "none" else [f"- Networks are shown the view {literal(str(name))} in the place of each image."]
  one = f"one of the {cells} x {cells} cells of each image, enlarged, and never parts of two"
  return view if cells == 1 else [*view, f"- Networks are shown random crops of {one}."]


def _space(kind: str) -> str:
  if kind == "none":
    return (
      "**The images are plain pixels**, without preprocessing, though learned values may leave [0, 1]. Real images that"
      " a network trained on them is to classify must be scaled to [0, 1]."
    )
  return (
    f"**The images live in the preprocessed space** (`{kind}`), not in [0, 1]. Real images that a network trained on"
    f" them is to classify need the same preprocessing first: {_DO[kind]}, for pixels `x` in [0, 1] and the arrays"
    " `preprocessing/...` of the archive."
  )


def _code(*lines: str) -> str:
  return "\n".join(("```python", *lines, "```"))


def _table(mapping: Mapping[str, Any]) -> str:
  rows = [[literal(name), literal(value)] for name, value in _flatten(to_jsonable(mapping))]
  return format_table(("what", "value"), rows, align="ll")


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
  for name, value in mapping.items():
    if isinstance(value, dict) and value:
      yield from _flatten(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
