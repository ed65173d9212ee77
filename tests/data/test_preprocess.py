"""Every kind: literal numbers, round trips, storage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from jdistill.base import UserError
from jdistill.data import preprocess, zca

X = np.random.default_rng(0).random((12, 3, 4, 2)).astype(np.float32) * np.array([1.0, 0.3], np.float32)


def test_channel_equals_scikit_learn():
  pre = preprocess.fit("channel", X)
  expected = StandardScaler().fit_transform(X.reshape(-1, 2).astype(np.float64)).reshape(X.shape)
  np.testing.assert_allclose(preprocess.transform(pre, X), expected, rtol=1e-5, atol=1e-6)
  assert pre.mean.shape == pre.scale.shape == pre.inverse.shape == (2,)
  assert pre.nbytes == preprocess.nbytes(pre) == 24


def test_standardize_is_one_mean_and_deviation():
  x = np.array([0.1, 0.3, 0.5, 0.7], np.float32).reshape(2, 1, 1, 2)  # mean 0.4, population deviation sqrt(0.05)
  pre = preprocess.fit("standardize", x)
  np.testing.assert_allclose(pre.mean, [0.4], rtol=1e-6)
  np.testing.assert_allclose(pre.inverse, [0.05**0.5], rtol=1e-6)
  expected = np.array([-0.3, -0.1, 0.1, 0.3]).reshape(2, 1, 1, 2) / 0.05**0.5
  np.testing.assert_allclose(preprocess.transform(pre, x), expected, rtol=1e-5)


def test_chunks_change_nothing(monkeypatch):
  whole = preprocess.fit("channel", X)
  monkeypatch.setattr(preprocess, "_CHUNK", 5)
  for a, b in zip(whole[1:], preprocess.fit("channel", X)[1:], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_zca_is_the_zca_room():
  pre = preprocess.fit("zca", X)
  fitted = zca.fit(X, 0.1)
  for value, expected in zip(pre[1:], fitted, strict=True):
    np.testing.assert_array_equal(value, expected)
  mean, scale, _, vectors = fitted
  np.testing.assert_array_equal(preprocess.transform(pre, X), zca.apply(X, mean, scale, vectors))


def test_none_changes_nothing():
  pre = preprocess.fit("none", X)
  assert preprocess.transform(pre, X) is X and preprocess.invert(pre, X) is X
  assert pre.nbytes == 0 and pre.mean.shape == (0,)


@pytest.mark.parametrize("kind", preprocess.KINDS)
def test_the_inverse_is_not_clipped_and_both_libraries_agree(kind):
  pre = preprocess.fit(kind, X)
  x = 2 * X[:3] - 0.5  # partly outside [0, 1]
  z = preprocess.transform(pre, x)
  np.testing.assert_allclose(preprocess.invert(pre, z), x, atol=3e-6)
  z_jax = jax.jit(lambda pixels: preprocess.transform(pre, pixels))(jnp.asarray(x))
  assert isinstance(z, np.ndarray) and isinstance(z_jax, jax.Array) and z.dtype == z_jax.dtype == np.float32
  np.testing.assert_allclose(z, z_jax, atol=1e-5)
  np.testing.assert_allclose(preprocess.invert(pre, z_jax), x, atol=3e-6)


@pytest.mark.parametrize("kind", preprocess.KINDS)
def test_storage_without_pickles(kind, tmp_path):
  pre = preprocess.fit(kind, X)
  np.savez(tmp_path / "pre.npz", **preprocess.to_arrays(pre))
  with np.load(tmp_path / "pre.npz", allow_pickle=False) as stored:
    assert stored["kind"].dtype.kind == "U"
    back = preprocess.from_arrays(stored)
  assert back.kind == kind
  for a, b in zip(pre[1:], back[1:], strict=True):
    np.testing.assert_array_equal(a, b)


def test_bad_input():
  with pytest.raises(UserError, match=r"preprocessing='standardise': unknown; did you mean 'standardize'\?"):
    preprocess.fit("standardise", X)
  constant = X.copy()
  constant[..., 1] = 0.1
  with pytest.raises(UserError, match=r"preprocessing='channel': channel 1 is constant.*'none' or 'standardize'"):
    preprocess.fit("channel", constant)
  with pytest.raises(UserError, match=r"preprocessing='standardize': channel 0 is constant"):
    preprocess.fit("standardize", np.full((2, 2, 2, 1), 0.1, np.float32))
  with pytest.raises(UserError, match=r"images have 3 channels, but it was fitted on 2"):
    preprocess.transform(preprocess.fit("channel", X), np.zeros((1, 3, 4, 3), np.float32))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"kind": np.array("zcb")}, r"preprocessing='zcb': unknown; did you mean 'zca'"),
    ({"kind": np.array("zca")}, r"preprocessing='zca': arrays of shape \(2,\), \(2,\), \(2,\), \(0, 0\) do not fit"),
    ({"kind": np.array("none")}, r"preprocessing='none': arrays of shape"),
    ({"kind": np.array("standardize")}, r"preprocessing='standardize': arrays of shape"),
    ({"inverse": np.zeros(3)}, r"preprocessing='channel': arrays of shape \(2,\), \(2,\), \(3,\)"),
    ({key: np.zeros(0) for key in ("mean", "scale", "inverse")}, r"preprocessing='channel': arrays of shape \(0,\)"),
    ({"vectors": np.zeros((2, 1))}, r"arrays of shape \(2,\), \(2,\), \(2,\), \(2, 1\) do not fit"),
    ({"mean": np.array([np.nan, 0])}, r"preprocessing='channel': mean holds values that are not finite"),
    ({"scale": np.array([1.0, -1.0])}, r"scale holds values that are not finite or not above 0"),
    ({"inverse": np.array(["a", "b"])}, r"arrays that are not numbers"),
    ({"kind": np.zeros(0)}, r"preprocessing='': unknown"),
  ],
)
def test_stored_arrays_that_do_not_fit(changes, message):
  with pytest.raises(UserError, match=message):
    preprocess.from_arrays({**preprocess.to_arrays(preprocess.fit("channel", X)), **changes})


def test_a_missing_array_is_named():
  arrays = preprocess.to_arrays(preprocess.fit("channel", X))
  del arrays["scale"]
  with pytest.raises(UserError, match=r"the stored arrays miss scale"):
    preprocess.from_arrays(arrays)
