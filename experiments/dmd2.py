"""DMD2: Improved Distribution Matching Distillation for Fast Image Synthesis (arXiv 2405.14867).

python -m jdistill.run --config=experiments/dmd2.py           25 Gaussians in the plane
python -m jdistill.run --config=experiments/dmd2.py:digits    scikit-learn's digits, by class
python -m jdistill.run --config=experiments/dmd2.py:mnist     MNIST by class, with small transformers: an hour
python -m jdistill.run --config=experiments/dmd2.py:imagenet64 --dry_run --topology=v5e:2x4

One step of a student beside 1, 4, 16 and 64 steps of its teacher. `one_to_one` lets the two time scales be one, which
the paper finds unstable (FID 3.48 against 2.61 on ImageNet-64, the former unverified); `gan` adds the adversarial part
(1.51). Its weight is chosen on held-out examples: the paper's 3e-3 brought from 12,288 numbers per example to the size
of these, and a tenth, a hundredth and a thousandth of that. Held-out scores while training tell whether a figure is
steady.

`imagenet64` is a plan for `--dry_run`, with the paper's batches, rates and 400,000 updates (their number unverified)
and EDM's network for ImageNet-64, ADM with 295.9 million parameters; it computes in bfloat16, as the paper's code, and
what its blocks compute is computed again for gradients. No image is read: the shapes are known, and a step sees its
batch alone, of 8,960 images that are held. The teacher is a file of EDM's weights with

    --config.teachers.weights=FILE.safetensors --config.teachers.tune=False

(docs/diffusion.md tells how it is made), and is trained as EDM's was without: 2,500 million images, 4,096 a batch.
"""

from . import common_diffusion as common
from . import common_knowledge

_UPDATES, _BATCH, _EPOCH = 400_000, 280, 32  # of the plan; the last is updates in a pass over its images
_EDM = {"images": 2_500e6, "batch": 4096, "warm_up": 10e6, "half_life": 50e6}  # EDM's training of ADM; in images


def presets() -> list[str]:
  """The names after the colon."""
  return [*common.PRESETS[:-1], "mnist", "imagenet64", "tiny"]


def get_config(preset: str = "grid") -> common.ConfigDict:
  """The experiment; `preset` is `grid`, `digits`, `mnist`, `imagenet64` or `tiny`."""
  common.check_preset(preset, presets())
  if preset == "imagenet64":
    return _imagenet()
  if preset == "mnist":
    return _mnist()
  weight = 3e-3 * 12288 / (64 if preset == "digits" else 2)
  controls = {"one_to_one": {"method/ratio": 1}, "gan": {"method/gan_weight": round(weight, 4)}}
  config = common.experiment(preset, {"name": "dmd2", "ratio": 5}, controls)
  if preset != "tiny":
    common_knowledge.tune(config, {"gan": {"method/gan_weight": tuple(round(weight * 10.0**-n, 4) for n in range(4))}})
  config.score_every = 4 if preset == "tiny" else 600
  return config


def _mnist() -> common.ConfigDict:
  """One seed of transformers of half a million parameters: 6,084 updates of the teacher, 2,808 of the students."""
  config = common.experiment("digits", {"name": "dmd2", "ratio": 5}, {"one_to_one": {"method/ratio": 1}})
  config.dataset, config.validation_size, config.seeds, config.score_every = "mnist", 1000, 1, 468
  config.task = common.task("samples", draws=1000)
  for section in ("teacher", "student"):
    config[section] = common.network("dit", patch=4, dim=96, depth=4, heads=4, features=96, t_min=0.02, t_max=20.0)
  config.teacher_train.epochs, config.train.epochs = 13, 6
  config.teacher_train.warmup_epochs, config.train.warmup_epochs = 0.5, 0.5
  return config


def _imagenet() -> common.ConfigDict:
  """The paper's settings for ImageNet-64 with both losses."""
  own = {"name": "dmd2", "ratio": 5, "gan_weight": 3e-3, "critic_weight": 1e-2}
  config = common.experiment("grid", own, {})
  config.order = ("dmd2", "teacher_1")
  for label in set(config.arms) - set(config.order):
    del config.arms[label]
  config.dataset, config.train_size, config.test_size, config.validation_size = "imagenet64", _EPOCH * _BATCH, 1000, 0
  config.task = common.task("samples", draws=1000, scaling="pixels")
  config.seeds, config.reference = 1, "teacher_1"
  for section in ("teacher", "student"):
    config[section] = common.network("adm", remat=True, dtype="bfloat16")
  config.teacher_train = common.schedule(
    epochs=round(_EDM["images"] / config.train_size),
    optimizer="adam",
    lr=1e-4,
    schedule="constant",
    warmup_epochs=_EDM["warm_up"] / config.train_size,
    batch_size=_EDM["batch"],
    ema_decay=0.5 ** (_EDM["batch"] / _EDM["half_life"]),
  )
  config.train = common.schedule(
    epochs=_UPDATES // _EPOCH,
    optimizer="adamw",
    lr=2e-6,
    schedule="constant",
    warmup_epochs=500 / _EPOCH,
    weight_decay=0.01,
    clip=10.0,
    batch_size=_BATCH,
  )
  return config
