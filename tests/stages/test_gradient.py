"""Which way the gradient is taken: the usual one, what fits into a limit, and what is refused."""

import functools
import io
import pathlib

import pytest

from jdistill import cli, run
from jdistill.base import UserError
from jdistill.stages.dataset import build, gradient, outer
from jdistill.stages.dataset.build import Way

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG = ("--config.method.inner_steps=64", "--config.parallel.data=1")


def context(*arguments, preset=":tiny"):
  arguments = ["run", f"--config={ROOT / 'experiments' / 'datm.py'}{preset}", *arguments]
  return run.make_context(cli.parse(arguments)["config"].value, stream=io.StringIO())


def need(ctx, way):
  return sum(outer.memory(outer.compile_step(ctx, None, way)).values())


@functools.cache
def needs():
  """Bytes of the two exact routes; 64 steps of one keep eight times what the other keeps."""
  ctx = context(*LONG)
  found = {route: need(ctx, Way(route, None)) for route in ("mixed", "nested_remat")}
  assert found["nested_remat"] < found["mixed"]
  return found


def test_without_a_limit_nothing_is_compiled(monkeypatch):
  monkeypatch.setattr(outer, "compile_step", lambda *a: pytest.fail("compiled"))
  assert gradient.choose(context(*LONG), None) == Way("mixed", None)
  assert gradient.choose(context(*LONG, "--config.method.gradient=remat"), None) == Way("remat", None)


def test_auto_takes_the_fastest_where_there_is_room():
  ctx = context(*LONG, "--config.method.gradient=auto")
  assert gradient.choose(ctx, None) == Way("mixed", None)
  assert ctx.stream.getvalue().startswith("gradient: mixed, ")


def test_a_limit_between_two_routes_takes_the_smaller():
  limit = (needs()["mixed"] + needs()["nested_remat"]) // 2
  ctx = context(
    *LONG, "--config.method.gradient=auto", f"--config.memory_limit={limit}", "--config.method.chunk_size=10"
  )
  assert gradient.choose(ctx, None) == Way("nested_remat", None)
  assert "gradient: nested_remat, " in ctx.stream.getvalue()


def test_a_limit_below_the_smallest_says_what_is_the_least():
  ctx = context(*LONG, "--config.method.gradient=auto", "--config.memory_limit=1kB")
  with pytest.raises(UserError, match=r"memory_limit=1kB: the least that the outer step takes is [\d.]+ kB per device"):
    gradient.choose(ctx, None)


def test_a_route_of_the_user_stays():
  limit = (needs()["mixed"] + needs()["nested_remat"]) // 2
  ctx = context(*LONG, f"--config.memory_limit={limit}", "--config.method.chunk_size=10")
  with pytest.raises(UserError, match=r"\(mixed\); raise it"):
    gradient.choose(ctx, None)


def test_smaller_chunks_are_tried_before_a_slower_route():
  ctx = context(*LONG, "--config.method.gradient=auto")
  ways = gradient._candidates(ctx, None, build.usual_way(ctx))
  assert ways == [Way(route, chunk) for route in ("mixed", "nested_remat") for chunk in (None, 2, 1)]


def test_the_limit_is_no_part_of_the_configuration():
  assert context().hash == context("--config.memory_limit=4GB", "--config.parallel.data=1").hash


@pytest.mark.parametrize("text", ["lots", "-1GB", "0", "4 parsecs"])
def test_limits_that_are_none(text):
  with pytest.raises(UserError, match=r"memory_limit: .* is no number of bytes; write it like '2GB'"):
    context(f"--config.memory_limit={text}")


def test_a_chunk_must_divide_the_rows():
  ctx = context("--config.method.chunk_size=3", "--config.parallel.data=1")
  with pytest.raises(UserError, match=r"method.chunk_size=3: does not divide the 10 images of an inner step; use"):
    ctx.check()


def test_chunks_of_the_usual_way():
  big = context("--config.model.width=128", "--config.ipc=20", preset="")
  assert build.usual_way(big).chunk_size == 50  # 20 x 10 images of 8x8 pixels; 50 of their maps fit
  assert build.usual_way(context("--config.method.chunk_size=5")).chunk_size == 5
  assert build.usual_way(context("--config.method.chunk_size=10")).chunk_size is None
