"""What LAD's teachers make of right and wrong label maps, and what its students see, from a finished run.

python -m benchmarks.lad_look --workdir=runs/lad --png=docs/images/lad.png
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from jdistill.files import read_json
from jdistill.jobs import arms, networks
from jdistill.stages import Run, tune
from jdistill.tasks.segmentation import scores, scores_with_labels


def ask(network, variables):
  """A network as `(x) -> logits`."""
  call = jax.jit(lambda v, x: network.apply(v.params, x, stats=v.stats).logits)
  return lambda x: np.asarray(call(variables, x))


def look_at_teachers(run: Run) -> None:
  """Prints every arm's teacher: mean IoU without labels, with the right and with wrong maps, on the test images."""
  for label, arm in run.config["arms"].items():
    if (found := networks.load(run, label, arm)) is None:
      continue
    predict, test = ask(found.networks[0], found.variables[0]), run.task(arm["task"]).test
    line = f"{label}: teacher {found.hash}: without labels {scores(predict, test)['miou']:.4f}"
    if arm["teacher_method"]["name"] == "lad":
      for codes in ("random", "fixed"):
        seen = scores_with_labels(predict, test, codes=codes, scale=arm["teacher_method"]["scale"])
        line += f"; {codes} codes: right {seen['miou_labels']:.4f}, wrong {seen['miou_wrong_labels']:.4f}"
    print(line)


def student_of(run: Run, label: str):
  """The first student of an arm, from its last checkpoint."""
  tuned, _ = tune.chosen(run)
  predict, _ = arms.trained(run, label, "", tuned[label], list(range(run.config["seeds"])), "students")
  return predict(0)


def picture(run: Run, path: Path, arms: tuple[str, ...], count: int) -> None:
  """The first test images, their masks, and the maps of one student of every arm."""
  test = run.task(run.config["task"]).test
  x, y = test.x[:count], test.y[:count]
  low, high = (np.quantile(x[..., :-1], q) for q in (0.01, 0.99))
  rows = [("image", np.clip((x[..., :-1] - low) / (high - low), 0, 1)), ("mask", y)]
  rows += [(label, np.argmax(student_of(run, label)(x), -1)) for label in arms]
  figure, axes = plt.subplots(len(rows), count, figsize=(count, len(rows) * 1.05))
  for line, (name, maps) in zip(axes, rows, strict=True):
    for axis, one in zip(line, maps, strict=True):
      limits = {} if one.ndim == 3 else {"vmin": -1, "vmax": 10, "cmap": "tab20", "interpolation": "nearest"}
      axis.imshow(one, **limits)
      axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, fontsize=9)
  figure.tight_layout(pad=0.2)
  figure.savefig(path, dpi=75)


def main() -> None:
  """Reads a finished run and prints what is known of its networks."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=Path, required=True)
  parser.add_argument("--artefacts", type=Path, help="where the run keeps its teachers")
  parser.add_argument("--png", type=Path)
  parser.add_argument("--arms", default="cwd,lad")
  parser.add_argument("--count", type=int, default=10)
  args = parser.parse_args()
  config = read_json(args.workdir / "config.json")
  run = Run(config, args.workdir, args.artefacts or args.workdir.parent / "artefacts")
  look_at_teachers(run)
  if args.png:
    picture(run, args.png, tuple(args.arms.split(",")), args.count)


if __name__ == "__main__":
  main()
