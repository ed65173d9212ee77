"""Addition of numbers as records of a prompt and a response, and a checker that reads rows of tokens."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

MOST_DIGITS = 8  # a sum of nine digits is the longest that int32 holds
_OTHER, _END = 0, 1  # codes of tokens that are no character, and of the one that ends a response


def addition_record(a: int, b: int, *, scratchpad: bool = False) -> tuple[str, str]:
  """`("12+39=", "51")`; with a scratchpad the response is `"2+9+0=11,1+3+1=5;51"`.

  The scratchpad adds digit by digit from the right, each with the carry of the one before; the answer is what comes
  after the semicolon.

  Raises:
    ValueError: a number below 0 or of more than 8 digits.
  """
  if not (0 <= a < 10**MOST_DIGITS and 0 <= b < 10**MOST_DIGITS):
    raise ValueError(f"addition_record: {a} and {b} must be from 0 to {10**MOST_DIGITS - 1}")
  steps, carry = [], 0
  for place in range(max(len(str(a)), len(str(b))) if scratchpad else 0):
    x, y = a // 10**place % 10, b // 10**place % 10
    steps.append(f"{x}+{y}+{carry}={x + y + carry}")
    carry = (x + y + carry) // 10
  return f"{a}+{b}=", f"{','.join(steps)};{a + b}" if scratchpad else str(a + b)


def addition_records(
  rng: np.random.Generator, count: int, *, digits: int, scratchpad: bool = False
) -> list[tuple[str, str]]:
  """Different problems of one difficulty: both numbers have exactly `digits` digits; 0 has one.

  Args:
    rng: of NumPy.
    count: how many; fewer where there are fewer different ones, of which there are 100 for one digit.
    digits: from 1 to 8.
    scratchpad: see `addition_record`.

  Raises:
    ValueError: an argument out of its range.
  """
  if not 1 <= digits <= MOST_DIGITS or count < 1:
    raise ValueError(f"addition_records: digits={digits} must be from 1 to {MOST_DIGITS}, and count={count} at least 1")
  low = 10 ** (digits - 1) if digits > 1 else 0
  span = 10**digits - low
  if span * span <= 2 * count:
    numbers = rng.permutation(span * span)[:count]
  else:
    numbers = np.empty(0, np.int64)
    while len(numbers) < count:  # at most every second one is drawn before
      drawn = np.concatenate([numbers, rng.integers(span * span, size=count)])
      numbers = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:count]
  pairs = (divmod(int(number), span) for number in numbers)
  return [addition_record(a + low, b + low, scratchpad=scratchpad) for a, b in pairs]


class Verdict(NamedTuple):
  """What a checker says of responses.

  Attributes:
    correct: `[B]` bool, the answer is the sum, written as one writes it.
    readable: `[B]` bool, there is an answer: digits and then the end. What is correct is readable.
  """

  correct: jax.Array
  readable: jax.Array


def character_codes(decode: Callable[..., str], size: int, end_token: int) -> np.ndarray:
  """What a checker reads in each token: `[size]` int32, an ASCII code, 1 for the end, 0 for all others.

  Args:
    decode: `(ids) -> text` of a tokeniser.
    size: how many ids it has.
    end_token: that ends a response.

  Raises:
    ValueError: a tokeniser without a token for each of the digits, `+`, `=`, `,` and `;`.
  """
  texts = [decode([one]) for one in range(size)]
  codes = np.array([ord(text) if len(text) == 1 and text.isascii() else _OTHER for text in texts], np.int32)
  codes[codes == _END] = _OTHER
  codes[end_token] = _END
  missing = [character for character in "0123456789+=,;" if ord(character) not in codes]
  if missing:
    raise ValueError(f"character_codes: no token is {missing[0]!r} alone; use a tokenizer of bytes or characters")
  return codes


class _Reading(NamedTuple):
  """How far a row is read: numbers so far, and where in the record it is."""

  a: jax.Array
  b: jax.Array
  answer: jax.Array
  length: jax.Array  # digits of the running number
  zero: jax.Array  # the answer began with 0
  place: jax.Array  # 0: first number, 1: second, 2: response before the answer, 3: answer, 4: after its end
  bad: jax.Array


def check_addition(
  tokens: jax.Array, where: jax.Array, response: jax.Array, codes: jax.Array, *, scratchpad: bool = False
) -> Verdict:
  """Whether responses are the sums that their prompts ask for.

  A response without an end token, without an answer, with a character that does not belong there, or whose prompt is
  no `a+b=` is not readable. Of a scratchpad the answer alone is checked: before the semicolon may be any digits, `+`,
  `=` and `,`.

  Args:
    tokens: `[B, T]` int, prompts and responses; padding may be on any side.
    where: `[B, T]` bool, false for padding.
    response: `[B, T]` bool, true for tokens of the response and its end.
    codes: see `character_codes`.
    scratchpad: whether the answer comes after a semicolon.

  Returns:
    `Verdict`, jit-able and without a gradient.

  Raises:
    ValueError: shapes that do not fit.
  """
  if not tokens.shape == where.shape == response.shape or tokens.ndim != 2:
    raise ValueError(
      f"check_addition: tokens {tokens.shape}, where {where.shape} and response {response.shape} must be one [B, T]"
    )
  read = jnp.asarray(codes)[jnp.clip(tokens, 0, len(codes) - 1)]
  zero = jnp.zeros(tokens.shape[0], jnp.int32)
  start = _Reading(zero, zero, zero, zero, zero > 0, zero, zero > 0)

  def step(state: _Reading, column: tuple) -> tuple[_Reading, None]:
    code, there, own = column
    return jax.tree.map(lambda new, old: jnp.where(there, new, old), _read(state, code, own, scratchpad), state), None

  columns = (jnp.swapaxes(leaf, 0, 1) for leaf in (read, where, response))
  end, _ = lax.scan(step, start, tuple(columns))
  readable = (end.place == 4) & ~end.bad & (end.length > 0)
  written = (end.length <= MOST_DIGITS + 1) & ~(end.zero & (end.length > 1))
  return Verdict(readable & written & (end.answer == end.a + end.b), readable)


def _read(state: _Reading, code: jax.Array, own: jax.Array, scratchpad: bool) -> _Reading:
  """One more character of every row; `own` is true in responses."""
  place, digit = state.place, (code >= ord("0")) & (code <= ord("9"))
  plus, equals, end = code == ord("+"), code == ord("="), code == _END
  value = code - ord("0")
  named = state.length > 0
  first, second = (place == 0) & plus & named, (place == 1) & equals & named
  enters = (place == 2) & (code == ord(";")) if scratchpad else jnp.zeros_like(own)
  answering = (place == 3) & digit
  # what is read past these lengths is no number that could be asked for
  a = jnp.where((place == 0) & digit, jnp.minimum(state.a, 10**MOST_DIGITS) * 10 + value, state.a)
  b = jnp.where((place == 1) & digit, jnp.minimum(state.b, 10**MOST_DIGITS) * 10 + value, state.b)
  fits = answering & (state.length <= MOST_DIGITS)
  after = jnp.where(first, 1, jnp.where(second, 2 if scratchpad else 3, place))
  after = jnp.where(enters, 3, jnp.where((place == 3) & end, 4, after))
  allowed = [
    digit | first,
    digit | second,
    digit | plus | equals | (code == ord(",")) | enters,
    digit | end,
    jnp.zeros_like(digit),
  ]
  good = jnp.select([place == n for n in range(5)], allowed, False) & (own == (place >= 2))
  big = (a >= 10**MOST_DIGITS) | (b >= 10**MOST_DIGITS)
  return _Reading(
    a,
    b,
    jnp.where(fits, state.answer * 10 + value, state.answer),
    jnp.where(first | second | enters, 0, state.length + (digit & (place != 2)).astype(jnp.int32)),
    state.zero | (answering & (state.length == 0) & (value == 0)),
    after,
    state.bad | ~good | big,
  )
