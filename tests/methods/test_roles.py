"""Named roles: each with its own optimiser and its own clock."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdistill.methods.optimizers import make_optimizer
from jdistill.methods.roles import init_roles, only_where, side_by_side, trainable_mask, update_roles

OPTIMIZERS = {"student": optax.sgd(0.5, 0.5), "critic": optax.chain(optax.clip(1.0), optax.sgd(0.1, 0.9))}
PARAMS = {"student": {"w": jnp.array([1.0, 2.0])}, "critic": jnp.array([3.0])}
GRADS = {"student": {"w": jnp.array([1.0, -1.0])}, "critic": jnp.array([2.0])}


def test_every_role_follows_its_own_optimiser():
  roles = init_roles(OPTIMIZERS, PARAMS)
  for _ in range(2):
    roles = update_roles(OPTIMIZERS, roles, GRADS)
  # 0.5 g, then 0.5 (0.5 g + g); the critic's gradient is clipped to one: 0.1, then 0.1 (0.9 + 1)
  np.testing.assert_allclose(roles["student"].params["w"], [1 - 1.25, 2 + 1.25], rtol=1e-6)
  np.testing.assert_allclose(roles["critic"].params, [3 - 0.29], rtol=1e-6)


def test_roles_without_gradients_stay():
  roles = init_roles(OPTIMIZERS, PARAMS)
  new = update_roles(OPTIMIZERS, roles, {"student": GRADS["student"]})
  assert new["critic"] is roles["critic"] and set(new) == set(roles)
  assert (new["student"].params["w"] != roles["student"].params["w"]).all()


def test_masks_hold_parameters_and_optimiser_state():
  roles = init_roles(OPTIMIZERS, PARAMS)
  held = jax.jit(lambda roles, ok: update_roles(OPTIMIZERS, roles, GRADS, ok))(roles, jnp.bool_(False))
  jax.tree.map(np.testing.assert_array_equal, held, roles)
  mixed = update_roles(OPTIMIZERS, roles, GRADS, {"student": jnp.bool_(False), "critic": jnp.bool_(True)})
  jax.tree.map(np.testing.assert_array_equal, mixed["student"], roles["student"])
  np.testing.assert_allclose(mixed["critic"].params, [2.9], rtol=1e-5)


def test_a_gradient_that_is_not_finite_cannot_leak_through_a_mask():
  roles = init_roles(OPTIMIZERS, PARAMS)
  broken = jax.tree.map(lambda g: g * jnp.nan, GRADS)
  jax.tree.map(np.testing.assert_array_equal, update_roles(OPTIMIZERS, roles, broken, jnp.bool_(False)), roles)


def test_rates_that_follow_the_epoch_are_told_it():
  optimizers = OPTIMIZERS | {"critic": make_optimizer("sgd", lambda epoch: 0.1 * epoch, momentum=0.0)}
  roles = update_roles(optimizers, init_roles(optimizers, PARAMS), GRADS, epoch=jnp.float32(3))
  np.testing.assert_allclose(roles["critic"].params, [3 - 0.3 * 2], rtol=1e-6)
  np.testing.assert_allclose(roles["student"].params["w"], [0.5, 2.5], rtol=1e-6)


def test_members_side_by_side_are_clipped_alone():
  optimizer = side_by_side(make_optimizer("sgd", lambda epoch: 0.5 * epoch, momentum=0.9, clip=1.0))
  params, grads = {"w": jnp.zeros((2, 2))}, {"w": jnp.array([[30.0, 40.0], [0.3, 0.4]])}
  roles = init_roles({"a": optimizer}, {"a": params})
  for _ in range(2):
    roles = update_roles({"a": optimizer}, roles, {"a": grads}, epoch=jnp.float32(2))
  # a large gradient of one member, of norm 50, leaves the other's, of norm 1/2, as it is: g, and then 1.9 g
  np.testing.assert_allclose(roles["a"].params["w"], -2.9 * np.array([[0.6, 0.8], [0.3, 0.4]]), rtol=1e-6)


def test_masks_select_parameters_by_their_names():
  params = {"film0": {"kernel": 1.0, "bias": 2.0}, "dense": {"kernel": 3.0}, "list": [4.0]}
  films = trainable_mask(params, lambda path: any("film" in name for name in path))
  assert films == {"film0": {"kernel": True, "bias": True}, "dense": {"kernel": False}, "list": [False]}
  assert trainable_mask(params, lambda path: path == ("dense", "kernel"))["dense"]["kernel"] is True
  assert trainable_mask(params, lambda path: path[-1] == "0")["list"] == [True]
  for empty, words in ((params, "there are dense, film0, list"), ({}, "there are none")):
    with pytest.raises(ValueError, match=f"trainable_mask: selects no parameters; {words}"):
      trainable_mask(empty, lambda path: "lora" in path)


def test_what_a_mask_leaves_out_stays_as_it_is():
  """Also under weight decay; a clipped norm is that of the selected part, and the rate follows the epoch."""
  params = {"film": jnp.array([1.0, -2.0]), "dense": jnp.array([3.0, 4.0])}
  grads = {"film": jnp.array([0.3, 0.4]), "dense": jnp.array([30.0, 40.0])}
  adam = make_optimizer("adamw", lambda epoch: 0.1 * (1 + epoch), weight_decay=0.5, clip=0.1, decay_all=True)
  masked = only_where(adam, lambda tree: trainable_mask(tree, lambda path: path == ("film",)))
  both, alone = init_roles({"a": masked}, {"a": params}), init_roles({"a": adam}, {"a": {"film": params["film"]}})
  for number in range(3):
    clock = {"epoch": jnp.float32(number), "scale": jnp.float32(0.5)}
    both = jax.jit(lambda roles, clock: update_roles({"a": masked}, roles, {"a": grads}, **clock))(both, clock)
    alone = update_roles({"a": adam}, alone, {"a": {"film": grads["film"]}}, **clock)
    np.testing.assert_array_equal(both["a"].params["dense"], params["dense"])
    np.testing.assert_allclose(both["a"].params["film"], alone["a"].params["film"], rtol=1e-6)
  assert (both["a"].params["film"] != params["film"]).all()
  sizes = [sum(leaf.size for leaf in jax.tree.leaves(roles["a"].opt_state)) for roles in (both, alone)]
  assert sizes[0] == sizes[1]
