"""DUMP: which distribution the next prompts come from, by how much a policy still learns from each."""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Block, DataPolicy, Key, Look, UserError
from jdistill.methods.language.grpo import Remembered
from jdistill.schema import Above, Count, Traced, validated
from jdistill.selection.curriculum import (
  Windows,
  curriculum_probs,
  curriculum_update,
  empty_windows,
  ucb_scores,
  window_means,
)
from jdistill.selection.mixtures import mixture_sampler


class Curriculum(NamedTuple):
  """What the policy remembers.

  Attributes:
    windows: of absolute advantages.
    read: scalar int32, how many groups of the method's memory are in them.
  """

  windows: Windows
  read: jax.Array


@validated("data_policy")
def dump(
  size: int,
  batch_size: int,
  domains: Sequence[str] = (),
  *,
  window: Count = 300,
  temperature: Annotated[float, Above(0), Traced] = 0.1,
  adaptive: bool = True,
  steps: Count = 1,
) -> DataPolicy:
  """Distributions by the upper confidence bound of their mean absolute advantage (arXiv 2504.09710).

  With `L(d)` the mean of the last `window` absolute advantages of distribution `d` and `n_d` its roll-outs so far, each
  example of a batch is from `d` with probability `softmax_d((L(d) + sqrt(2 ln(n + 1) / (n_d + 1))) / temperature)`, and
  within it any, uniformly and with replacement. The advantages are those that `grpo` remembers. An epoch is a block of
  `steps` steps: with 1, as in the paper, every step draws from the newest probabilities.

  `data/p/NAME` is the probability of a distribution, `data/advantage/NAME` its `L`. Where none of its windows has an
  advantage, a line of the log tells of it: nothing is learned.

  (The released code also enters rewards of validation examples into the windows; that is left out.)

  Args:
    size: how many examples there are; `domain` of their extra is the distribution of each.
    batch_size: per step.
    domains: names of the D distributions, which `domain` counts from 0; empty for one.
    window: k, in roll-outs.
    temperature: tau; the smaller, the greedier.
    adaptive: false draws all distributions equally often: the control.
    steps: of an epoch.

  Raises:
    UserError: from `check`, examples without domains, of a domain beyond D, or a domain without examples.

  References:
    Wang et al., "DUMP: Automated Distribution-Level Curriculum Learning for RL-based LLM Post-training"
    (arXiv 2504.09710).
  """
  batch_size, names = min(batch_size, size), tuple(domains) or ("all",)
  distributions = len(names)

  def init(key: Key) -> Curriculum:
    del key
    return Curriculum(empty_windows(distributions, window), jnp.zeros((), jnp.int32))

  def draw(key: Key, state: Curriculum, epoch: jax.Array, look: Look) -> tuple[Block, Curriculum]:
    del epoch
    every = look.examples(jnp.arange(size, dtype=jnp.int32))
    domain = every.extra.get("domain", jnp.zeros_like(every.ids)).astype(jnp.int32)
    if isinstance(look.memory, Remembered):
      state = _read(state, look.memory)
    elif adaptive:
      raise ValueError("data_policy.name='dump': needs a method that remembers advantages; use method.name='grpo'")
    means = window_means(state.windows)
    p = curriculum_probs(ucb_scores(means, state.windows.counts), temperature=temperature)
    p = p if adaptive else jnp.full(distributions, 1 / distributions, jnp.float32)
    sizes = jnp.sum(jax.nn.one_hot(domain, distributions, dtype=jnp.int32), axis=0)
    key_domain, key_example = jax.random.split(key)
    chosen, _ = mixture_sampler(key_domain, p, sizes, steps * batch_size)
    place = jax.random.randint(key_example, chosen.shape, 0, jnp.maximum(sizes[chosen], 1))
    by_domain = jnp.argsort(domain, stable=True).astype(jnp.int32)
    index = by_domain[(jnp.cumsum(sizes) - sizes)[chosen] + place].reshape(steps, batch_size)
    shown = {"p": p, "advantage": means}
    shown = {f"{kind}/{name}": values[i] for kind, values in shown.items() for i, name in enumerate(names)}
    shown["full"] = jnp.mean((state.windows.filled == window).astype(jnp.float32))
    return Block(index, jnp.ones(index.shape, jnp.float32), shown), state

  return DataPolicy(init, draw, steps, looks=True, remark=_no_signal, check=lambda data: _check(data, names))


def _read(state: Curriculum, memory: Remembered) -> Curriculum:
  """Enters the groups that came since the last look; of more than the method remembers, the last ones."""
  groups, capacity = memory.groups, memory.groups.capacity
  new = jnp.minimum(memory.total - state.read, groups.size)
  place = (groups.next - new + jnp.arange(capacity)) % capacity  # in the order in which they came
  rows = jax.tree.map(lambda leaf: leaf[place], groups.rows)
  each = rows.advantage.shape[1]
  where = jnp.repeat(jnp.arange(capacity) < new, each)
  windows = curriculum_update(state.windows, jnp.repeat(rows.domain, each), rows.advantage.reshape(-1), where)
  return Curriculum(windows, memory.total)


def _no_signal(metrics: Mapping[str, float]) -> str:
  """A line for the log, where nothing is learned."""
  silent = all(value == 0 for name, value in metrics.items() if name.startswith("advantage/"))
  if not silent or metrics["full"] < 1:
    return ""
  return "all responses to a prompt get the same reward, and nothing is learned; warm up longer, or take easier ones"


def _check(data: Batch, names: tuple[str, ...]) -> None:
  if "domain" not in data.extra:
    if len(names) > 1:
      raise UserError(
        "data_policy.name='dump': the examples have no domains; use a task that has, such as 'arithmetic'"
      )
    return
  counts = np.bincount(np.asarray(data.extra["domain"]), minlength=len(names))
  if len(counts) > len(names):
    raise UserError(
      f"data_policy.name='dump': an example is of domain {len(counts) - 1}, and the task names {len(names)}; name all"
    )
  if not counts.all():
    empty = names[int(counts.argmin())]
    raise UserError(f"data_policy.name='dump': the domain {empty!r} has no example; give it some, or leave it out")
