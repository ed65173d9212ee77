"""Image-classification sets of TensorFlow Datasets, read without TensorFlow.

Only array_record files are random-access without TensorFlow. Images are taken from the records still encoded and
decoded with Pillow, and only those that a subset asks for.
"""

import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.data import images, raw
from jdistill.files import user_path


def base_name(name: str) -> str:
  """The name of a set without config, version and parts: `"imagenet_resized/8x8:0.1.0" -> "imagenet_resized"`."""
  return re.split("[/:@]", name)[0]


def known_names() -> list[str]:
  """The names of all sets that the installed TFDS has code for; asks no network."""
  import tensorflow_datasets as tfds

  return tfds.list_builders(with_community_datasets=False)


def is_known(name: str, data_dir: str | os.PathLike | None) -> bool:
  """Whether TFDS has code for a set, or `data_dir` holds a folder of that name."""
  base = base_name(name)
  in_folder = data_dir is not None and bool(base.strip(".")) and (user_path(data_dir, "data_dir") / base).is_dir()
  return in_folder or base in known_names()


def read(name: str, data_dir: str | os.PathLike | None) -> raw.RawSet:
  """Opens a set and reads its labels; pixels are decoded when asked for.

  Args:
    name: TFDS's name, with config and version where wanted (`"cifar10"`, `"imagenet_resized/8x8"`); after an `@` the
      parts to train and to test on, in TFDS's words, for sets with one split (`"eurosat@train[:80%],train[80%:]"`).
    data_dir: a folder of prepared sets; nothing is downloaded then. Without it TFDS uses its own default folder and
      downloads what is missing.

  Returns:
    The set, not yet checked. The test split is `test`, else `validation`, if no parts are named.

  Raises:
    UserError: not prepared under `data_dir`, not array_record, no network, no test split, parts that are not there or
      overlap, or not a set of 8-bit images with one label each.
  """
  name, _, parts = name.partition("@")
  builder = _default_builder(name) if data_dir is None else _prepared_builder(name, user_path(data_dir, "data_dir"))
  splits = builder.info.splits
  train, test = _parts(name, parts, splits) if parts else _usual_splits(name, splits)
  image_key, label_key, channels = _features(name, builder.info.features)
  class_names = tuple(builder.info.features[label_key].names or ()) or tuple(
    str(label) for label in range(builder.info.features[label_key].num_classes)
  )
  return raw.RawSet(
    *(_split(name, builder, split, image_key, label_key, channels) for split in (train, test)), class_names
  )


def _usual_splits(name: str, splits: Collection[str]) -> tuple[str, str]:
  """`train`, and `test` or `validation`."""
  if "train" not in splits:
    raise UserError(f"dataset={name!r}: has no split 'train' (it has {sorted(splits)}); choose another set")
  test = next((split for split in ("test", "validation") if split in splits), None)
  if test is None:
    raise UserError(
      f"dataset={name!r}: has neither a 'test' nor a 'validation' split (it has {sorted(splits)}); name the parts to "
      f"train and to test on: dataset='{name}@train[:80%],train[80%:]'"
    )
  return "train", test


def _parts(name: str, text: str, splits: Mapping[str, Any]) -> tuple[str, str]:
  """The two parts that a name asks for, which must not share examples."""
  import tensorflow_datasets as tfds

  parts, taken = text.split(","), []
  if len(parts) != 2:
    raise UserError(f"dataset='{name}@{text}': name two parts, such as '{name}@train[:80%],train[80%:]'")
  for part in parts:
    try:
      found = tfds.core.ReadInstruction.from_spec(part).to_absolute(splits)
    except (ValueError, KeyError, AssertionError, TypeError) as error:
      raise UserError(
        f"dataset='{name}@{text}': {part!r} is no part of {sorted(splits)} ({_line(error)}); write 'train[:80%]'"
      ) from error
    taken.append(
      [
        (one.splitname, one.from_ or 0, splits[one.splitname].num_examples if one.to is None else one.to)
        for one in found
      ]
    )
  for split, first, last in taken[0]:
    if any(split == other and max(first, begin) < min(last, end) for other, begin, end in taken[1]):
      raise UserError(
        f"dataset='{name}@{text}': the parts share examples of {split!r}; test on others than you train on"
      )
  return parts[0], parts[1]


def require_directory(name: str, data_dir: str | os.PathLike) -> None:
  """Refuses a `data_dir` that is not there, or is a level too deep or too high for a set of this name.

  Raises:
    UserError: naming the directory to give.
  """
  data_dir, base = user_path(data_dir, "data_dir"), base_name(name)
  if not data_dir.is_dir():
    raise UserError(f"data_dir={str(data_dir)!r}: there is no such directory; create it or choose another data_dir")
  above = [parent.parent for parent in (data_dir, *data_dir.parents[:2]) if parent.name == base]
  below = [path for path in data_dir.iterdir() if (path / base).is_dir()] if base.strip(".") else []
  for right, word in ((above, "deep"), (below, "high")):
    if right:
      raise UserError(
        f"data_dir={str(data_dir)!r}: is a level too {word} for dataset={name!r}; give data_dir={str(right[0])!r}"
      )


def _recipe(name: str, data_dir: str) -> str:
  """The command that prepares a set; with a data_dir the format must be named, since TFDS's default is tfrecord."""
  where = f", data_dir='{data_dir}'" if data_dir else ""
  return (
    'python -c "import tensorflow_datasets as tfds; '
    f"tfds.builder('{name}'{where}, file_format='array_record').download_and_prepare()\""
  )


def _prepared_builder(name: str, data_dir: Path) -> Any:
  """The builder of a set that lies under `data_dir`: by its code, or by its files if those are of another version."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import read_only_builder

  if not (data_dir / base_name(name)).is_dir():
    require_directory(name, data_dir)
  try:
    if (data_dir / base_name(name)).is_dir():
      if base_name(name) in known_names():
        builder = tfds.builder(name, data_dir=str(data_dir))
        if (builder.data_path / "dataset_info.json").exists():
          return builder
      return read_only_builder.builder_from_files(name, data_dir=str(data_dir))
  except Exception as error:  # TFDS wraps errors in types of its own; anything here means "not readable from there"
    if not isinstance(error, tfds.core.registered.DatasetNotFoundError):
      raise UserError(
        f"dataset={name!r}: cannot be opened under data_dir={str(data_dir)!r} ({_line(error)});"
        " check config and version"
      ) from error
  raise UserError(
    f"dataset={name!r}: not found under data_dir={str(data_dir)!r}; choose another data_dir, or on a machine with"
    f" network run `{_recipe(name, str(data_dir))}`"
  )


def _default_builder(name: str) -> Any:
  """The builder of a set in TFDS's own folder, downloaded and prepared as array_record if it is not there yet."""
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, file_format="array_record")
    if not (builder.data_path / "dataset_info.json").exists():
      _require_network(builder.url_infos)
      builder.download_and_prepare()
  except Exception as error:  # download errors come as types of requests, urllib3, TFDS and each set's own code
    cure = "give data_dir=... of a prepared copy, or check the network and proxy"
    if isinstance(error, ImportError):
      cure = "its one-time preparation needs that package: prepare it where it is installed and give data_dir=..."
    raise UserError(
      f"dataset={name!r}: TFDS could not get it ({type(error).__name__}: {_line(error)}); {cure}; it is prepared by"
      f" `{_recipe(name, '')}`"
    ) from error
  return builder


def _require_network(url_infos: Any) -> None:
  """Fails at once if no host of the set's files has an address; TFDS itself would retry for minutes."""
  hosts = sorted({urllib.parse.urlsplit(url).hostname for url in url_infos or ()} - {None})
  if not hosts or urllib.request.getproxies():  # a proxy looks names up for us
    return
  for host in hosts:
    try:
      socket.getaddrinfo(host, 443)
    except OSError:
      continue
    return
  raise ConnectionError(f"no network: cannot find {hosts[0]}")


def _features(name: str, features: Any) -> tuple[str, str, int]:
  """The keys of the image and of the label, and the number of channels."""
  import tensorflow_datasets as tfds

  cure = "only sets of 8-bit images with one class label are supported; write others as .npz"
  if not isinstance(features, tfds.features.FeaturesDict):
    raise UserError(f"dataset={name!r}: has features {type(features).__name__}; {cure}")
  keys = []
  for usual, kind in (("image", tfds.features.Image), ("label", tfds.features.ClassLabel)):
    found = sorted(key for key, feature in features.items() if type(feature) is kind)
    if usual not in found and len(found) != 1:
      raise UserError(f"dataset={name!r}: has {len(found)} {kind.__name__} features among {sorted(features)}; {cure}")
    keys.append(usual if usual in found else found[0])
  image = features[keys[0]]
  channels = image.shape[-1] or 3
  if np.dtype(image.np_dtype) != np.uint8 or channels not in images.MODES:
    raise UserError(f"dataset={name!r}: images are {image.np_dtype} of shape {image.shape}; {cure}")
  return keys[0], keys[1], channels


def _split(name: str, builder: Any, split: str, image_key: str, label_key: str, channels: int) -> raw.RawSplit:
  import tensorflow_datasets as tfds

  try:
    source = builder.as_data_source(split=split, decoders={image_key: tfds.decode.SkipDecoding()})
    records = source.__getitems__(range(len(source)))
  except NotImplementedError as error:  # how TFDS itself says that a format has no random access without TensorFlow
    raise UserError(
      f"dataset={name!r}: the copy at {builder.data_path} is in the format {builder.info.file_format.value!r}, which"
      f" needs TensorFlow; choose another data_dir and prepare it with file_format='array_record'"
    ) from error
  except (OSError, RuntimeError, ValueError) as error:
    raise UserError(
      f"dataset={name!r}: split {split!r} at {builder.data_path} cannot be read ({_line(error)}); prepare it again"
    ) from error
  labels = np.array([record[label_key] for record in records])
  encoded = [record[image_key] for record in records]

  def name_of(index: int) -> str:
    return f"{name} {split} image {index}"

  def pixels(indices: np.ndarray) -> np.ndarray:
    return images.stack(lambda index: images.decode(encoded[index], channels, name_of(index)), indices, name_of)

  return raw.RawSplit(labels, pixels, len(encoded))


def _line(error: BaseException) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip(" *")]
  return lines[0][:300] if lines else type(error).__name__
