"""KRR-ST: Self-Supervised Dataset Distillation for Transfer Learning (arXiv 2310.06511, ICLR 2024).

  python -m jdistill.run --config=experiments/krr_st.py               MNIST to scikit-learn's digits (extra `mnist`)
  python -m jdistill.run --config=experiments/krr_st.py:usps --config.dataset=SETS/usps.npz    USPS to four other sets
      --config.transfer.targets="('digits','SETS/mnist.npz','SETS/alphabets.npz','SETS/spoken_digits.npz')"
  python -m jdistill.run --config=experiments/krr_st.py:digits        scikit-learn digits to themselves
  python -m jdistill.run --config=experiments/krr_st.py:cifar100      the published values, for accelerators

A target model learns without labels (Barlow Twins); images and feature targets are learned, from which ridge regression
predicts its features of real images; fresh networks are trained on them and judged by a linear probe on other data,
beside those trained on as many random and k-means images with the target model's features, and untrained ones. The
files of `usps` are made by `python -m benchmarks.own_sets`; they hold drawings and spectrograms in grey.

The paper fine-tunes (`--config.transfer.by=finetune`) and counts iterations, not epochs; its target model is a
ResNet-18 with 512 features, and its networks double their width in every block. The figures of its tables were not at
hand.
"""

from . import common


def presets() -> list[str]:
  """The names after the colon."""
  return ["mnist5k", "usps", "digits", "cifar100", "tiny_imagenet", "tiny"]


def get_config(preset: str = "mnist5k") -> common.ConfigDict:
  """The experiment; `preset` is `mnist5k`, `usps`, `digits`, `cifar100`, `tiny_imagenet` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.base("krr_st", {"name": "krr_st"})
  config.dataset, config.preprocessing, config.ipc, config.validation_size = "mnist5k", "channel", 10, 500
  config.teacher = common.network("convnet_bn", width=32, depth=3)
  config.model = common.network("convnet_bn", width=32, depth=3)
  config.teacher_method = common.method(
    "barlow_twins", features=256, crop_scale=0.4, flip_images=False, operators="rotate_scale"
  )
  config.teacher_train = common.schedule(epochs=15, batch_size=256, lr=0.002)
  config.method.update({"batch_real": 256, "iterations": 600, "outer_lr": 0.003, "augment": "none"})
  config.method.update({"pool_size": 3, "reset_after": 200})
  config.pretrain.update({"epochs": 600, "batch_size": 100})
  config.transfer.update({"targets": ("digits",), "train_size": 1000, "test_size": 1000, "seeds": 3})
  config.probe.epochs = 100
  if preset == "usps":
    _usps(config)
  if preset in ("digits", "tiny"):
    _digits(config)
  if preset in ("cifar100", "tiny_imagenet"):
    _published(config, preset)
  if preset == "tiny":
    config.update({"ipc": 1, "train_size": 200, "test_size": 100, "validation_size": 40, "log_every": 1})
    config.teacher, config.model = (common.network("mlp", widths=(16,)) for _ in range(2))
    config.teacher_method.features = 8
    config.teacher_train.update({"epochs": 6, "batch_size": 40})
    config.method.update({"batch_real": 20, "iterations": 2, "reset_after": 2, "pool_size": 2})
    config.transfer.update({"seeds": 2, "train_size": 100, "test_size": 50})
    config.pretrain.epochs, config.probe.epochs, config.finetune.epochs = 2, 2, 2
  return config


def _usps(config: common.ConfigDict) -> None:
  """2,000 images of 16x16 without labels, 50 learned ones, and small networks: a few minutes on a CPU."""
  config.dataset, config.train_size, config.test_size, config.ipc = "usps.npz", 2000, 1000, 5
  config.validation_size = 100
  config.teacher, config.model = (common.network("convnet_bn", width=16, depth=2) for _ in range(2))
  config.teacher_method.features = 128
  config.teacher_train.update({"epochs": 20, "batch_size": 128})
  config.method.update({"batch_real": 128, "iterations": 400, "reset_after": 100, "outer_lr": 0.03})
  config.pretrain.update({"epochs": 300, "batch_size": 50})
  config.transfer.update({"targets": ("digits", "mnist.npz", "alphabets.npz", "spoken_digits.npz")})
  config.transfer.update({"train_size": 400, "test_size": 300, "seeds": 5})


def _digits(config: common.ConfigDict) -> None:
  """8x8 images, in a minute or two."""
  config.dataset, config.preprocessing, config.validation_size = "digits", "standardize", 100
  config.teacher, config.model = (common.network("convnet_bn", width=32, depth=2) for _ in range(2))
  config.teacher_train.update({"epochs": 40, "batch_size": 128})
  config.transfer.train_size = config.transfer.test_size = None
  config.transfer.targets = ("digits",)


def _published(config: common.ConfigDict, preset: str) -> None:
  """The paper's values as far as they are known; the target model's schedule is not from the paper."""
  config.update({"dataset": preset, "preprocessing": "channel", "validation_size": 1000})
  config.teacher, config.model = common.network("resnet18_bn"), common.network("convnet_bn", width=256, depth=3)
  config.teacher_method = common.method("barlow_twins", features=2048)
  config.teacher_train = common.schedule(epochs=1000, batch_size=256, optimizer="adam", lr=1e-3)
  config.method.update({"batch_real": 1024, "iterations": 160_000, "augment": "crop_flip", "outer_lr": 1e-4})
  config.method.update({"pool_size": 10, "reset_after": 1000})
  config.ipc, config.snapshot_every = 10, 20_000
  if preset == "tiny_imagenet":
    config.model.depth, config.method.outer_lr = 4, 1e-5
  config.pretrain.update({"epochs": 1000, "batch_size": 256})
  config.finetune.update({"batch_size": 256, "augment": "crop_flip"})
  config.transfer.update({"targets": ("cifar10",), "train_size": None, "test_size": None, "by": "finetune"})
