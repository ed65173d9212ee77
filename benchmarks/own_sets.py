"""Six small real sets that no experiment here was tuned on, made from the files of a directory of public data.

  python -m benchmarks.own_sets --data=DIR --out=SETS

`DIR` holds `images/usps.npz`, `images/mnist.npz`, `images/omniglot_small.npz`, `audio/fsdd.npz`,
`segmentation/camvid96.npz` and `tfds/cifar10`. `SETS` gets `.npz` files and a folder of photographs as a user has
them; CIFAR-10 is read by its name.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from PIL import Image

_TILE = 32  # pixels of a photograph
_STREET = ("sky", "building", "road", "pavement", "tree", "car")  # classes of whole tiles


def write(data: Path, out: Path) -> dict[str, dict]:
  """Makes the sets that are not there.

  Args:
    data: the directory of public files.
    out: where sets go.

  Returns:
    Name -> values of `config` that name it.
  """
  out.mkdir(parents=True, exist_ok=True)
  made = {
    "usps": lambda: _digits(data, "usps"),
    "mnist": lambda: _digits(data, "mnist"),
    "spoken_digits": lambda: _spoken(data),
  }
  made["alphabets"] = lambda: _alphabets(data)
  found = {}
  for name, make in made.items():
    path = out / f"{name}.npz"
    if not path.exists():
      np.savez_compressed(path, **make())
    found[name] = {"dataset": str(path)}
  street = out / "street"
  if not street.exists():
    _street(data, street)
  found["street"] = {"dataset": str(street)}
  cifar = {"dataset": "cifar10", "data_dir": str(data / "tfds"), "train_size": 5000, "test_size": 2000}
  return found | {"cifar10": cifar}


def _digits(data: Path, name: str) -> dict[str, np.ndarray]:
  """Hand-written digits as they are."""
  return dict(np.load(data / "images" / f"{name}.npz"))


def _alphabets(data: Path) -> dict[str, np.ndarray]:
  """Which of eight alphabets a character belongs to; tested on the hands of five people who are not in training."""
  found = np.load(data / "images" / "omniglot_small.npz")
  test = found["drawer"] > 15
  images, labels = found["images"], found["alphabet"].astype(np.int64)
  return {
    "train_images": images[~test],
    "train_labels": labels[~test],
    "test_images": images[test],
    "test_labels": labels[test],
    "class_names": found["alphabet_names"],
  }


def _spoken(data: Path) -> dict[str, np.ndarray]:
  """Spoken digits as log spectrograms `[32 bands, 32 moments]`."""
  found = np.load(data / "audio" / "fsdd.npz")
  waves, ends = found["waveform"], found["offsets"]
  images = np.stack([_spectrogram(waves[a:b]) for a, b in itertools.pairwise(ends)])
  labels, test = found["label"].astype(np.int64), found["is_test"]
  return {
    "train_images": images[~test],
    "train_labels": labels[~test],
    "test_images": images[test],
    "test_labels": labels[test],
  }


def _spectrogram(wave: np.ndarray, size: int = 32, window: int = 256) -> np.ndarray:
  """uint8 `[size, size]`: the upper 60 dB of a recording, whatever its length."""
  wave = wave.astype(np.float64)
  wave = np.pad(wave, (0, max(0, window - len(wave))))
  starts = np.linspace(0, len(wave) - window, size).astype(int)
  frames = np.stack([wave[start : start + window] for start in starts]) * np.hanning(window)
  power = np.abs(np.fft.rfft(frames, axis=1)[:, 1:]) ** 2
  bands = power.reshape(size, size, -1).mean(-1).T  # 128 bins in 32 bands
  decibel = 10 * np.log10(bands + 1e-9)
  return np.uint8(np.round(255 * np.clip((decibel - decibel.max() + 60) / 60, 0, 1)))[::-1]


def _street(data: Path, out: Path) -> None:
  """Tiles of street photographs in which one class covers at least 70 %, as PNG folders `train/CLASS`, `test/CLASS`."""
  found = np.load(data / "segmentation" / "camvid96.npz")
  names = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
  rng = np.random.default_rng(0)
  for part, sources in (("train", ("train", "val")), ("test", ("test",))):
    images = np.concatenate([found[f"{source}_images"] for source in sources])
    masks = np.concatenate([found[f"{source}_masks"] for source in sources])
    by_class: dict[str, list[np.ndarray]] = {name: [] for name in _STREET}
    for image, mask in zip(images, masks, strict=True):
      for top in range(0, 96 - _TILE + 1, _TILE // 2):
        for left in range(0, 96 - _TILE + 1, _TILE // 2):
          kinds, counts = np.unique(mask[top : top + _TILE, left : left + _TILE], return_counts=True)
          most = kinds[counts.argmax()]
          if most < len(names) and names[most] in by_class and counts.max() >= 0.7 * _TILE**2:
            by_class[names[most]].append(image[top : top + _TILE, left : left + _TILE])
    most = 400 if part == "train" else 150
    for name, tiles in by_class.items():
      folder = out / part / name
      folder.mkdir(parents=True)
      for index, tile in enumerate(rng.permutation(len(tiles))[:most]):
        Image.fromarray(tiles[tile]).save(folder / f"{index:04d}.png")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--data", type=Path, required=True)
  parser.add_argument("--out", type=Path, required=True)
  arguments = parser.parse_args()
  for name, values in write(arguments.data, arguments.out).items():
    print(name, values)


if __name__ == "__main__":
  main()
