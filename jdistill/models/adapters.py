"""Networks from elsewhere as `base.Network`: Linen and NNX modules, Equinox modules, bare functions.

A wrapped network may return logits `[batch, classes]`, which then stand for the embedding too, or a whole
`base.Outputs`, with which it chooses embedding, taps and norm inputs itself. Only `from_function` can offer sites.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from jdistill.base import Key, Network, Outputs, PyTree, UserError, Variables
from jdistill.models.layers import check_sites

_TRAIN_FLAGS = ("train", "training", "is_training")
_EVAL_FLAGS = ("deterministic", "use_running_average")


def from_function(init: Callable[[Key], PyTree], apply_logits: Callable[..., jax.Array | Outputs]) -> Network:
  """Wraps a pair of functions.

  Args:
    init: `key -> params`, or `key -> Variables`.
    apply_logits: `(params, x, **) -> logits` or `Outputs`. Of the keywords `train`, `rngs`, `stats` and `sites` it is
      given those that its signature names.

  Returns:
    A `Network`; its `Outputs.stats` are the ones given unless `apply_logits` returns others.
  """
  accepted = _accepted(apply_logits, ("train", "rngs", "stats", "sites"))

  def first(key: Key) -> Variables:
    value = init(key)
    return value if isinstance(value, Variables) else Variables(value, {})

  def apply(params: PyTree, x: jax.Array, *, train=False, rngs=None, stats=None, sites=None) -> Outputs:
    if "sites" not in accepted:
      check_sites(sites, [])
    given = {"train": train, "rngs": rngs, "stats": stats, "sites": sites}
    outputs = _outputs(apply_logits(params, x, **{name: given[name] for name in accepted}))
    return outputs if jax.tree.leaves(outputs.stats) else outputs._replace(stats=stats or {})

  return Network(first, apply)


def from_linen(module: nn.Module, example_x: jax.Array | jax.ShapeDtypeStruct) -> Network:
  """Wraps a Linen module called as `module(x)`.

  Of the flags `train`, `training`, `is_training`, `deterministic` and `use_running_average` the module is given those
  that its `__call__` names. `Variables.stats` holds its collections other than `params`, by collection name.

  Args:
    module: the unbound module.
    example_x: an input, or its shape and dtype; its values are not used.
  """
  flags = _accepted(type(module).__call__, (*_TRAIN_FLAGS, *_EVAL_FLAGS))

  def mode(train: bool) -> dict[str, bool]:
    return {flag: train if flag in _TRAIN_FLAGS else not train for flag in flags}

  @jax.jit
  def init(key: Key) -> Variables:
    variables = dict(module.init(key, jnp.zeros(example_x.shape, example_x.dtype), **mode(False)))
    return Variables(variables.pop("params", {}), variables)

  needs_stats = bool(jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)).stats))

  def apply(params: PyTree, x: jax.Array, *, train=False, rngs=None, stats=None, sites=None) -> Outputs:
    check_sites(sites, [])
    stats = _check_stats(stats, needs_stats)
    value, updated = module.apply(
      {"params": params, **stats}, x, rngs=rngs, mutable=list(stats) if train else [], **mode(train)
    )
    return _outputs(value)._replace(stats={**stats, **updated})

  return Network(init, apply)


def from_nnx(module: nnx.Module | Callable[[nnx.Rngs], nnx.Module]) -> Network:
  """Wraps an NNX module, split once here and merged again in every call.

  `nnx.Param`s become the params, everything else but random state the `stats`, as nested dicts by attribute name. Train
  and eval mode are set as by `module.train()` and `module.eval()`. A module that draws random numbers takes them from
  `rngs["dropout"]`.

  Args:
    module: a factory `rngs -> module`, or a module; `init` of the latter gives its own values whatever the key.

  Raises:
    UserError: from `apply`, where random numbers or statistics are needed and not given.
  """
  own = isinstance(module, nnx.Module)

  def split(instance: nnx.Module) -> tuple:
    return nnx.split(instance, nnx.Param, nnx.RngState, ...)

  template = module if own else nnx.eval_shape(lambda: module(nnx.Rngs(0)))
  graph, params_like, random_like, stats_like = split(template)
  as_params, as_stats = _Naming.of(params_like), _Naming.of(stats_like)

  def init(key: Key) -> Variables:
    _, params, _, stats = split(module if own else module(nnx.Rngs(key)))
    return Variables(as_params.to_dict(params), as_stats.to_dict(stats))

  def apply(params: PyTree, x: jax.Array, *, train=False, rngs=None, stats=None, sites=None) -> Outputs:
    check_sites(sites, [])
    stats = _check_stats(stats, bool(as_stats.paths))
    key = rngs.get("dropout") if rngs else None
    if train and key is None and jax.tree.leaves(random_like):
      raise UserError("rngs: no 'dropout' key for a network that draws random numbers in train mode; pass one")
    random = _fresh_random_state(random_like, jax.random.key(0) if key is None else key)
    instance = nnx.merge(graph, as_params.from_dict(params), random, as_stats.from_dict(stats))
    instance.train() if train else instance.eval()
    outputs = _outputs(instance(x))
    return outputs._replace(stats=as_stats.to_dict(split(instance)[3]) if train else stats)

  return Network(init, apply)


def from_equinox(module: Any, *, channels_first: bool = True) -> Network:
  """Wraps an Equinox module without state; it is called on one example at a time, under `jax.vmap`.

  The params are its floating-point arrays, as nested dicts by attribute name; dropout follows `train` and draws from
  `rngs["dropout"]` where the module's `__call__` takes a `key`.

  Args:
    module: a factory `key -> module`, or a module; `init` of the latter gives its own values whatever the key.
    channels_first: whether the module takes `[channels, height, width]`, as Equinox convolutions do.

  Raises:
    UserError: Equinox is not installed.
  """
  try:
    import equinox as eqx
  except ImportError as error:
    raise UserError("equinox: not installed; `pip install equinox` to use from_equinox") from error

  def partition(key: Key) -> tuple:
    return eqx.partition(module if isinstance(module, eqx.Module) else module(key), eqx.is_inexact_array)

  arrays, static = partition(jax.random.key(0))
  naming = _Naming.of(arrays)
  takes_key = bool(_accepted(type(static).__call__, ("key",)))

  def init(key: Key) -> Variables:
    return Variables(naming.to_dict(partition(key)[0]), {})

  def apply(params: PyTree, x: jax.Array, *, train=False, rngs=None, stats=None, sites=None) -> Outputs:
    check_sites(sites, [])
    instance = eqx.nn.inference_mode(eqx.combine(naming.from_dict(params), static), value=not train)
    x = jnp.moveaxis(x, -1, 1) if channels_first else x
    if takes_key and rngs and "dropout" in rngs:
      value = jax.vmap(lambda x, key: instance(x, key=key))(x, jax.random.split(rngs["dropout"], x.shape[0]))
    else:
      value = jax.vmap(instance)(x)
    return _outputs(value)._replace(stats=stats or {})

  return Network(init, apply)


class _Naming(NamedTuple):
  """A tree of any library as nested dicts of strings, and back: checkpoints and optimisers then see plain dicts."""

  paths: list[tuple[str, ...]]
  structure: Any

  @classmethod
  def of(cls, tree: PyTree) -> "_Naming":
    leaves, structure = jax.tree.flatten_with_path(tree)
    keys = [tuple(jax.tree_util.keystr((part,), simple=True) for part in path) for path, _ in leaves]
    # NNX variables add a last step of their own, from the variable to its value.
    wrapped = bool(keys) and all(path[-1] == "value" and len(path) > 1 for path in keys)
    return cls([path[:-1] if wrapped else path for path in keys], structure)

  def to_dict(self, tree: PyTree) -> dict[str, Any]:
    return traverse_util.unflatten_dict(dict(zip(self.paths, jax.tree.leaves(tree), strict=True)))

  def from_dict(self, nested: Mapping[str, Any]) -> PyTree:
    flat = traverse_util.flatten_dict(nested)
    return jax.tree.unflatten(self.structure, [flat[path] for path in self.paths])


def _fresh_random_state(like: PyTree, key: Key) -> PyTree:
  """Random state as after creation: a key of its own for every stream, counters at zero."""
  leaves, structure = jax.tree.flatten(like)

  def fresh(i: int, leaf: jax.Array) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jnp.zeros(leaf.shape, leaf.dtype)
    stream = jax.random.fold_in(key, i)
    return jax.random.split(stream, leaf.shape) if leaf.shape else stream

  return jax.tree.unflatten(structure, [fresh(i, leaf) for i, leaf in enumerate(leaves)])


def _accepted(function: Callable[..., Any], candidates: tuple[str, ...]) -> tuple[str, ...]:
  parameters = inspect.signature(function).parameters
  return tuple(name for name in candidates if name in parameters)


def _check_stats(stats: PyTree | None, needed: bool) -> PyTree:
  if needed and not stats:
    raise UserError("stats: none given to a network with running statistics; pass the `stats` of its Variables")
  return stats or {}


def _outputs(value: Any) -> Outputs:
  if isinstance(value, Outputs):
    return value
  if not isinstance(value, jax.Array):
    raise UserError(f"apply: a wrapped network returned {type(value).__name__}; return logits or jdistill.base.Outputs")
  return Outputs(logits=value, embedding=value)
