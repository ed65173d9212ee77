"""Programs in the place of teachers: responses to additions that are all right and differ in style."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from jdistill.selection.responses import Response
from jdistill.synthetic.arithmetic import addition_record

_SUM = re.compile(r"(?<![0-9])([0-9])\+([0-9])(?=[+=])")  # of two digits


def _digits(a: int, b: int) -> list[tuple[int, int, int]]:
  """Digits of both numbers and the carry of the place before, from the right."""
  out, carry = [], 0
  for place in range(max(len(str(a)), len(str(b)))):
    x, y = a // 10**place % 10, b // 10**place % 10
    out.append((x, y, carry))
    carry = (x + y + carry) // 10
  return out


def _steps(a: int, b: int) -> list[str]:
  return addition_record(a, b, scratchpad=True)[1].partition(";")[0].split(",")


def _answer(rng: np.random.Generator, a: int, b: int) -> str:
  return ""


def _steps_in_turn(rng: np.random.Generator, a: int, b: int) -> str:
  return ",".join(_steps(a, b))


def _carry_first(rng: np.random.Generator, a: int, b: int) -> str:
  """All carries from the right, then the digits of the sum from the right."""
  sums = [x + y + carry for x, y, carry in _digits(a, b)]
  return ",".join(str(total // 10) for total in sums) + "=" + ",".join(str(total % 10) for total in sums)


def _verbose(rng: np.random.Generator, a: int, b: int) -> str:
  """Every step after the problem once more."""
  return ",".join(f"{a}+{b}={step}" for step in _steps(a, b))


def _shuffled(rng: np.random.Generator, a: int, b: int) -> str:
  return ",".join(rng.permutation(_steps(a, b)).tolist())


def _distracting(rng: np.random.Generator, a: int, b: int) -> str:
  """A true addition of two other digits before every step."""
  others = rng.integers(0, 10, (len(_digits(a, b)), 2))
  return ",".join(f"{x}+{y}={x + y},{step}" for (x, y), step in zip(others, _steps(a, b), strict=True))


STYLES: dict[str, Callable[[np.random.Generator, int, int], str]] = {
  "answer": _answer,
  "steps": _steps_in_turn,
  "carry_first": _carry_first,
  "verbose": _verbose,
  "shuffled": _shuffled,
  "distracting": _distracting,
}


def addition_trace(a: int, b: int, style: str, *, seed: int = 0) -> tuple[str, str]:
  """A prompt `"a+b="` and a response `"TRACE;ANSWER"` in a style, as `check_addition` reads it with a scratchpad.

  Args:
    a, b: from 0 to 8 digits.
    style: one of `STYLES`: no trace, steps in turn, carries first, verbose, steps in random order, or distracting ones.
    seed: with the problem it decides what is random.

  Raises:
    ValueError: an unknown style, or numbers out of range.
  """
  if style not in STYLES:
    raise ValueError(f"addition_trace: style={style!r}; choose one of {', '.join(STYLES)}")
  prompt, _ = addition_record(a, b)
  trace = STYLES[style](np.random.default_rng((seed, a, b, list(STYLES).index(style))), a, b)
  return prompt, f"{trace};{a + b}"


def addition_responses(
  problems: Sequence[tuple[int, int]],
  style: str,
  encode: Callable[[str], Sequence[int]],
  *,
  tokenizer: str,
  seed: int = 0,
) -> list[Response]:
  """Records of one source, a question for each problem; `encode` makes ids of a text, without an end token."""
  out = []
  for question, (a, b) in enumerate(problems):
    prompt, response = addition_trace(a, b, style, seed=seed)
    own = (tuple(map(int, encode(text))) for text in (prompt, response))
    out.append(Response(question, *own, source=style, seed=seed, temperature=0.0, tokenizer=tokenizer))
  return out


def addition_samples(
  problems: Sequence[tuple[int, int]],
  style: str,
  encode: Callable[[str], Sequence[int]],
  *,
  tokenizer: str,
  samples: int,
  skill: float = 1.0,
  seed: int = 0,
) -> list[Response]:
  """Several responses of one source to each problem, as if they were sampled; some may be wrong.

  Of every step that adds two digits, these are in either order with the same probability.

  Args:
    problems: one question each.
    style: of `STYLES`.
    encode: makes ids of a text, without an end token.
    tokenizer: identity of the tokeniser.
    samples: of each question.
    skill: share of the responses whose answer is right; in others one digit of it is another.
    seed: with the problem and the number of the sample it decides what is random.

  Returns:
    Records, question by question.

  Raises:
    ValueError: an unknown style, no samples, or a skill that is no share.
  """
  if samples < 1 or not 0 <= skill <= 1:
    raise ValueError(f"addition_samples: samples={samples} must be at least 1, and skill={skill} from 0 to 1")
  out = []
  for question, (a, b) in enumerate(problems):
    for number in range(samples):
      prompt, response = addition_trace(a, b, style, seed=seed * samples + number)
      rng = np.random.default_rng((seed, a, b, list(STYLES).index(style), number, 1))
      trace, _, answer = response.partition(";")
      trace = _SUM.sub(lambda found, rng=rng: _either_order(rng, *found.groups()), trace)
      if rng.random() >= skill:
        place = rng.integers(len(answer))
        answer = f"{answer[:place]}{(int(answer[place]) + 1) % 10 or 1}{answer[place + 1 :]}"
      own = (tuple(map(int, encode(text))) for text in (prompt, f"{trace};{answer}"))
      out.append(Response(question, *own, source=style, seed=number, temperature=1.0, tokenizer=tokenizer))
  return out


def _either_order(rng: np.random.Generator, x: str, y: str) -> str:
  return f"{x}+{y}" if rng.random() < 0.5 else f"{y}+{x}"
