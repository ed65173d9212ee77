"""A small chain of correlated tokens whose laws are known by enumeration, in NumPy and float64."""

import itertools

import numpy as np
from scipy import linalg

LENGTH, TOKENS = 3, 3
_RNG = np.random.default_rng(0)
INITIAL = _RNG.dirichlet(np.ones(TOKENS))
TRANSITION = _RNG.dirichlet(np.full(TOKENS, 0.4), TOKENS)


def generator(kind, tokens=TOKENS):
  """`Q[y, x]`, the rate from x to y."""
  if kind == "uniform":
    return np.full((tokens, tokens), 1 / tokens) - np.eye(tokens)
  q = np.zeros((tokens + 1, tokens + 1))
  q[tokens, :tokens], q[range(tokens), range(tokens)] = 1, -1
  return q


def rows(states, length=LENGTH):
  """All rows, the last token running fastest: the order of `law`."""
  return np.array(list(itertools.product(range(states), repeat=length)))


def data_law(states):
  """`[states] * LENGTH`, the probability of each row of the chain."""
  law = np.zeros((states,) * LENGTH)
  for row in itertools.product(range(TOKENS), repeat=LENGTH):
    p = INITIAL[row[0]]
    for a, b in itertools.pairwise(row):
      p *= TRANSITION[a, b]
    law[row] = p
  return law


def each_token(law, kernel):
  """Applies `kernel [states, states]` (to, from) to every token."""
  for axis in range(law.ndim):
    law = np.moveaxis(np.tensordot(kernel, law, (1, axis)), 0, axis)
  return law


def noisy_law(kind, sigma):
  q = generator(kind)
  return each_token(data_law(len(q)), linalg.expm(sigma * q))


def scores(law):
  """`[rows, LENGTH, states]`, the ratios of one changed token to the row itself; NaN where the row does not occur."""
  states = law.shape[0]
  found = []
  for row in itertools.product(range(states), repeat=law.ndim):
    ratios = np.zeros((law.ndim, states))
    for place in range(law.ndim):
      index = [*row[:place], slice(None), *row[place + 1 :]]
      with np.errstate(all="ignore"):
        ratios[place] = law[tuple(index)] / law[row]
    found.append(ratios)
  return np.array(found)


def product_matrix(probs):
  """`[from, to]` of rows whose tokens are drawn independently of each other with `probs [rows, LENGTH, states]`."""
  count, length, states = probs.shape
  return np.stack([np.prod(probs[:, range(length), to], axis=1) for to in rows(states, length)], axis=1).reshape(
    count, -1
  )
