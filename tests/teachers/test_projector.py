"""A label projector: its head, its bytes, the same pixels for both, and its file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import Batch, UserError, Variables
from jdistill.files import write_npz
from jdistill.ops import lora as lora_lib
from jdistill.ops.lora import LowRank
from jdistill.teachers import projector
from jdistill.teachers.frozen import ask, averaged, committee, drawn
from jdistill.teachers.zero_shot import zero_shot_logits

RNG = np.random.default_rng(0)
SHAPE = (4, 4, 1)
NETWORK = models.build("mlp", num_classes=3, image_shape=SHAPE, widths=(5,), act="sigmoid")
BODY = NETWORK.init(jax.random.key(0))
PROTOTYPES = RNG.normal(size=(3, 5)).astype(np.float32)
X, IDS = jnp.float32(RNG.normal(size=(6, *SHAPE))), jnp.arange(6)
FACTORS = {
  "dense0/kernel": LowRank(np.float32(RNG.normal(size=(16, 2))), np.float32(RNG.normal(size=(2, 5)))),
  "head/kernel": np.float32(RNG.normal(size=(5, 3))),
}


def wrapped(**options):
  return lora_lib.with_lora(NETWORK, lambda params: projector.ranks(params, encoder=2, head=None), **options)


def test_the_head_is_that_of_a_zero_shot_classifier():
  kernel = projector.head_kernel(PROTOTYPES, scale=7.0)
  base = projector.with_head(BODY, kernel)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
  out = NETWORK.apply(base.params, X, sites={"embedding": lambda e: e / jnp.linalg.norm(e, axis=1, keepdims=True)})
  embedded = np.asarray(NETWORK.apply(BODY.params, X).embedding)
  want = zero_shot_logits(unit(embedded), unit(PROTOTYPES), scale=7.0)
  np.testing.assert_allclose(out.logits, want, rtol=1e-4, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, base.params["dense0"], BODY.params["dense0"])


def test_heads_that_do_not_fit():
  with pytest.raises(UserError, match="embeddings have 5 numbers and the prototypes 4"):
    projector.with_head(BODY, jnp.zeros((4, 3)))
  with pytest.raises(UserError, match="has no layer 'head'"):
    projector.with_head(Variables({"last": {}}), jnp.zeros((4, 3)))


def test_ranks_by_part():
  names = {"dense0/kernel", "head/kernel"}
  assert projector.ranks(BODY.params, encoder=2, head=3) == dict(zip(sorted(names), (2, 3), strict=True))
  assert projector.ranks(BODY.params, encoder=None, head=None) == {"head/kernel": None}


@pytest.mark.parametrize("head", [None, PROTOTYPES.T])
def test_the_public_network_is_not_counted(head):
  labels = projector.ProjectorLabels(FACTORS, head, "hash")
  base = projector.with_head(BODY, projector.head_kernel(PROTOTYPES))
  source = projector.projected(wrapped(alpha=0.5), base, labels, "mlp")
  count = 2 * (16 + 5) + 15 + (0 if head is None else 15)
  assert source.nbytes == labels.nbytes == 4 * count and source.same_pixels and "public mlp" in source.name
  (got,) = ask(source, X, IDS)
  want = NETWORK.apply(lora_lib.apply_lora(base.params, FACTORS, alpha=0.5), X).logits
  np.testing.assert_allclose(got.logits, want, rtol=1e-5, atol=1e-6)


def test_a_file_and_back(tmp_path):
  path = tmp_path / "labels.npz"
  for head in (None, PROTOTYPES.T):
    labels = projector.ProjectorLabels(FACTORS, head, "some hash")
    projector.save(labels, path)
    found = projector.load(path)
    assert found.projector == "some hash" and (found.head is None) == (head is None)
    jax.tree.map(np.testing.assert_array_equal, (found.factors, found.head), (labels.factors, labels.head))
  with np.load(path) as stored:
    arrays = dict(stored)
  write_npz(path, arrays | {"head": 2 * arrays["head"]})
  with pytest.raises(UserError, match="damaged or edited"):
    projector.load(path)
  write_npz(path, {"head": arrays["head"]})
  with pytest.raises(UserError, match=r"holds no label projector \(projector, sha256 missing\)"):
    projector.load(path)


def test_names_of_classes_in_a_file(tmp_path):
  path, names = tmp_path / "names.npz", ("cat", "dog", "owl")
  write_npz(path, {"names": np.array(names), "prompts": RNG.normal(size=(3, 2, 5)).astype(np.float32)})
  found = projector.read_prototypes(path, 3, names, "key")
  assert found.shape == (3, 5)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
  assert projector.read_prototypes(path, 3, (), "key").shape == (3, 5)  # data without names
  for classes, own, words in (
    (4, (), "3 names and 3 embeddings for 4 classes"),
    (3, ("cat", "owl", "dog"), "class 1 is called 'dog' there and 'owl' in the data"),
  ):
    with pytest.raises(UserError, match=words):
      projector.read_prototypes(path, classes, own, "key")
  write_npz(path, {"names": np.array(names)})
  with pytest.raises(UserError, match="has no array 'prompts'"):
    projector.read_prototypes(path, 3, names, "key")


def test_one_of_several_teachers_is_drawn():
  networks = (NETWORK,) * 3
  variables = [NETWORK.init(jax.random.key(seed)) for seed in range(3)]
  several = committee(networks, variables)
  own, batch = drawn(several), Batch(X, jnp.zeros(6, jnp.int32), IDS)
  each = np.stack([out.logits for out in ask(several, X, IDS)])
  asked = (own.targets(own.arrays, jax.random.key(n), batch, None, jnp.int32(0)) for n in range(12))
  found = [np.asarray(one.logits) for (one,) in asked]
  places = [int(np.argmin(np.abs(each - one).max((1, 2)))) for one in found]
  assert set(places) == {0, 1, 2}
  np.testing.assert_array_equal(found, each[places])
  np.testing.assert_allclose(ask(averaged(several), X, IDS)[0].logits, each.mean(0), rtol=1e-5, atol=1e-6)
