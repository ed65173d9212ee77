"""Static labels: looked up by name, interpolated under mixup, refused under cutmix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import augment
from jdistill.base import Batch, Network, Outputs, UserError, Variables
from jdistill.files import read_npz, write_npz
from jdistill.teachers import static
from jdistill.teachers.frozen import committee

RNG = np.random.default_rng(0)
N, CLASSES = 7, 3
X = np.float32(RNG.normal(size=(N, 2, 2, 1)))
IDS = np.int32(RNG.permutation(40)[:N])
EXAMPLES = Batch(X, np.zeros(N, np.int32), IDS)
WEIGHTS = [np.float32(RNG.normal(size=(4, CLASSES))) for _ in range(2)]
LINEAR = Network(None, lambda params, x, **_: Outputs(x.reshape(x.shape[0], -1) @ params, x.reshape(x.shape[0], -1)))
TEACHER = committee([LINEAR] * 2, [Variables(jnp.asarray(w)) for w in WEIGHTS])
MEAN = X.reshape(N, 4) @ (WEIGHTS[0] + WEIGHTS[1]) / 2


def recorded():
  return static.record_static(TEACHER, EXAMPLES, data="d", teacher_hash="t")


def targets(source, rows, record=None):
  batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[jnp.asarray(rows)], EXAMPLES)
  ask = jax.jit(lambda arrays, batch, record: source.targets(arrays, None, batch, record, jnp.int32(0))[0].logits)
  return ask(source.arrays, batch, record)


def test_the_mean_logits_of_every_image_and_their_interpolation():
  source, rows = static.interpolated(recorded(), data="d", teacher_hash="t"), np.array([5, 0, 2])
  np.testing.assert_allclose(targets(source, rows), MEAN[rows], rtol=1e-5, atol=1e-6)
  mix = augment.MixRecord(jnp.int32([1, 2, 0]), jnp.float32(0.3), jnp.zeros(4, jnp.int32))
  want = 0.3 * MEAN[rows] + 0.7 * MEAN[rows[[1, 2, 0]]]
  np.testing.assert_allclose(targets(source, rows, (jnp.zeros(3, bool), mix)), want, rtol=1e-5, atol=1e-6)
  unknown = EXAMPLES._replace(ids=IDS + 100)
  found = source.targets(source.arrays, None, unknown, None, jnp.int32(0))[0].logits
  assert np.isnan(found).all() and source.replay is None


def test_one_vector_per_image_is_all_that_is_kept(tmp_path):
  labels, path = recorded(), tmp_path / "labels.npz"
  static.save(labels, path)
  assert labels.nbytes == static.interpolated(labels).nbytes == N * (4 * CLASSES + 4)
  assert 0 < path.stat().st_size - labels.nbytes < 1500
  loaded = static.load(path)
  np.testing.assert_array_equal(loaded.logits, labels.logits)
  assert loaded[2:] == labels[2:] == ("d", "t")
  arrays = read_npz(path)
  write_npz(path, arrays | {"logits": arrays["logits"] + 1})
  with pytest.raises(UserError, match="damaged or edited"):
    static.load(path)
  write_npz(path, {"logits": arrays["logits"]})
  with pytest.raises(UserError, match="holds no static labels"):
    static.load(path)


def test_what_does_not_fit_is_refused():
  for options, match in (({"data": "e"}, "made for data d"), ({"teacher_hash": "u"}, "made for teacher t")):
    with pytest.raises(UserError, match=match):
      static.interpolated(recorded(), **options)
  with pytest.raises(UserError, match=r"relabel.mix='cutmix': static labels are of whole images"):
    static.refuse_cutmix("cutmix", "relabel.mix")
  static.refuse_cutmix("mixup", "relabel.mix")
  with pytest.raises(UserError, match="name occurs twice"):
    static.record_static(TEACHER, EXAMPLES._replace(ids=np.zeros(N, np.int32)), data="d", teacher_hash="t")
  broken = committee([LINEAR], [Variables(jnp.full((4, CLASSES), jnp.nan))])
  with pytest.raises(UserError, match="not all finite"):
    static.record_static(broken, EXAMPLES, data="d", teacher_hash="t")
