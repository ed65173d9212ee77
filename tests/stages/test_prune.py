"""Stage `prune` and PCA on it: what a set is made of, how it is trained on, what it costs, what is refused before."""

import functools
import io
import json

import jax
import numpy as np
import pytest
from tiny_experiments import tiny

import jdistill
from jdistill import augment, run, stages
from jdistill.base import UserError
from jdistill.files import read_npz
from jdistill.selection import Evidence, select
from jdistill.stages import labels, real_images, sets, shown

pytestmark = pytest.mark.usefixtures("compiled_once")
SOFT = ("teachers", "prune", "distill", "relabel", "evaluate", "export", "report")


def small(**changes):
  """Two tiles along an axis of 40 digits, and one network per set."""
  config = tiny("pca", eval__seeds=1, eval__sets=("distilled", "initial"))
  config.teacher, config.teacher_train.epochs = {"name": "mlp", "widths": (16,)}, 8
  config.relabel.update({"epochs": 2, "cells": 2, "crop_scale": 0.5, "mix": "cutmix"})
  for name, value in changes.items():
    section, _, key = name.partition("__")
    if key:
      config[section][key] = value
    else:
      config[section] = value
  return config


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A finished run: its directory and its summary. Not to be written to."""
  root = tmp_path_factory.mktemp("prune")
  return root, run.run_experiment(small(), root / "work", stream=io.StringIO())


def made(root, config=None):
  """The run again, as stages see it."""
  found = stages.Run(stages.resolve(config or small()), root / "work", root / "artefacts", io.StringIO())
  found.read()
  return found


def test_the_set_is_made_of_what_networks_find_easy(done):
  """The lowest EL2N of every class, by its formula, and the tiles of these images."""
  root, _ = done
  (proxies,) = (root / "artefacts" / "proxies").iterdir()
  one = made(root)
  y, z = one.task().teacher.y, read_npz(proxies / "answers0.npz")["logits"].astype(np.float64)
  p = np.exp(z - z.max(-1, keepdims=True))
  error = np.linalg.norm(p / p.sum(-1, keepdims=True) - np.eye(10)[y], axis=-1).mean(0)
  assert z.shape == (2, 160, 10)
  want = np.concatenate(
    [own[np.argsort(error[own], kind="stable")[:4]] for own in (np.flatnonzero(y == c) for c in range(10))]
  )
  np.testing.assert_array_equal(real_images.positions(one), want)
  np.testing.assert_array_equal(sets.started_from(one), want)
  tiles = one.task().teacher.x[want].reshape(10, 2, 2, 8, 8)
  halves = np.zeros((4, 8))
  for i in range(4):
    halves[i, max(0, 2 * i - 1) : 2 * i + 3] = np.array([1, 3, 3, 1])[max(0, 1 - 2 * i) : 8 + 1 - 2 * i]
  halves /= halves.sum(1, keepdims=True)
  grid = np.einsum("ip,jq,cabpq->caibj", halves, halves, tiles).reshape(10, 8, 8, 1)
  np.testing.assert_allclose(jdistill.load(root / "work").images, grid, rtol=1e-4, atol=1e-5)


def test_the_stored_protocol_is_that_of_the_run(done):
  root, _ = done
  one = made(root)
  found = sets.Sets(one).make("distilled", 0).protocol
  whole = sets.Sets(one).make("initial", 0).protocol  # pruning alone: whole images have no cells
  shape = (3, 8, 8, 1)
  assert isinstance(found.augment.sample(jax.random.key(0), shape)[0], augment.CellRecord)
  assert isinstance(whole.augment.sample(jax.random.key(0), shape)[0], augment.CropRecord)
  loaded = jdistill.load(root / "work")
  stored = jdistill.distilled._rules(loaded._protocol, epochs=None)
  assert stored._replace(augment=found.augment) == found and found.schedule == "cosine"
  drawn = [one.augment.sample(jax.random.key(1), shape) for one in (stored, found)]
  jax.tree.map(np.testing.assert_array_equal, *drawn)
  assert loaded.learned_lr == pytest.approx(0.003) and loaded.evaluate(seeds=1, epochs=1).accuracies[0] >= 0
  card = (root / "work" / "result" / "README.md").read_text()
  assert "one of the 2 x 2 cells" in card


def test_what_proxies_cost_is_told(done):
  root, summary = done
  (found,) = summary["choices"].values()
  assert found["selector"] == "el2n" and found["kept"] == [40] and found["examples"] == 160
  assert summary["seconds"]["prune"] > found["proxy_seconds"] > 0
  assert "40 of 160" in (root / "work" / "report.md").read_text()
  assert not (root / "artefacts" / "teachers").exists()  # hard labels need none


def test_the_same_command_again_chooses_nothing_and_a_lost_choice_is_made_again(done):
  root, _ = done
  said = io.StringIO()
  run.run_experiment(small(), root / "work", stream=said)
  assert "prune:" not in said.getvalue()
  (path,) = (root / "artefacts" / "choices").glob("*/choice.npz")
  before = path.read_bytes()
  path.unlink()
  run.run_experiment(small(), root / "work", stream=said)
  assert "choice.npz is missing; it is made again" in said.getvalue() and path.read_bytes() == before


def test_soft_labels_are_asked_of_teachers_about_one_cell_at_a_time(done):
  root, _ = done
  config = small(stages=SOFT, eval__sets=("distilled",))
  summary = run.run_experiment(config, root / "soft", stream=io.StringIO())
  assert summary["store"] == "online" and summary["label_bytes"] > 0 and summary["failed"] == []
  options = made(root, config).config["relabel"]
  cell, *_ = shown.augmentation(options).sample(jax.random.key(0), (3, 8, 8, 1))
  assert isinstance(cell, augment.CellRecord)
  crop, *_ = shown.augmentation(labels.options(options, real=True)).sample(jax.random.key(0), (3, 8, 8, 1))
  assert isinstance(crop, augment.CropRecord)


REFUSED = {
  "too few images": (
    {"ipc": 5},
    r"ipc=5: images of 4 tiles are made of 20 real ones per class, and class 0 has only 16",
  ),
  "tiles": ({"method__factor": 3}, r"method\.factor=3: images of 8 x 8 pixels cannot be made of 3 x 3 equal tiles"),
  "cells": ({"eval__cells": 3}, r"eval\.cells=3: images of 8 x 8 pixels cannot be cut into 3 x 3 equal cells"),
  "cells of soft labels": (
    {"stages": SOFT, "relabel__cells": 5, "eval__sets": ("distilled",)},
    r"relabel\.cells=5: images of 8 x 8 pixels cannot be cut into 5 x 5 equal cells",
  ),
  "soft labels of nobody": (
    {"stages": tuple(name for name in SOFT if name != "teachers"), "eval__sets": ("distilled",)},
    r"stages=\[.*\]: relabel asks teachers, and no stage trains them; add 'teachers', or leave 'relabel' out",
  ),
  "a set with soft labels": ({"eval__sets": ("distilled", "random_soft")}, r"eval\.sets: pca has no set 'random_soft'"),
  "mixing": ({"eval__augment": "cutmix"}, r"eval\.augment='cutmix': unknown operator 'cutmix'"),
  "a budget": ({"select__per_class": 3}, r"select\.per_class=3: ipc says how many images of each class"),
  "a share": ({"select__fraction": 0.5}, r"select\.fraction=0\.5: ipc says how many images of each class"),
  "no balance": ({"select__balanced": False}, r"select\.balanced=False: a set is made of equally many"),
  "a choice that nobody makes": (
    {"stages": ("distill", "evaluate", "export", "report")},
    r"select\.name='el2n': is read by the stage prune, without which images are random",
  ),
  "a part of the data": ({"task__student_size": 100}, r"task\.student_size, task\.teacher_size: leave 100 of 160"),
  "no proxies": ({"select__runs": 0}, r"select\.runs=0: el2n needs logits of a network"),
  "an epoch that there is not": ({"select__at_epoch": 9}, r"select\.at_epoch=9: proxies have proxy_train\.epochs=2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_one_line_before_anything_is_written(case, tmp_path):
  changes, message = REFUSED[case]
  with pytest.raises(UserError, match=f"^{message}") as caught:
    run.run_experiment(small(**changes), tmp_path / "work", stream=io.StringIO())
  assert "\n" not in str(caught.value) and not (tmp_path / "work").exists()


def test_scores_that_are_not_numbers_are_refused():
  y, logits = np.arange(8) % 2, np.zeros((3, 8, 2))
  logits[1, 5, 0] = np.nan
  choose = functools.partial(select, 0, "el2n", per_class=2, keep="lowest")
  with pytest.raises(UserError, match=r"evidence\.logits: nan for example"):
    choose(Evidence(y, logits=logits))
  with pytest.raises(UserError, match=r"evidence\.logits: shape \(3, 7, 2\) for 8 examples"):
    choose(Evidence(y, logits=logits[:, :7]))


def test_random_images_where_nothing_chooses(tmp_path):
  config = small(stages=("distill",), select__name="random", select__keep=None)
  run.run_experiment(config, tmp_path / "work", stream=io.StringIO())
  found = real_images.positions(made(tmp_path, config))
  assert len(set(found.tolist())) == 40 and not (tmp_path / "artefacts").exists()
  assert json.loads((tmp_path / "work" / "stages" / "distill.json").read_text())["steps"] == 10
