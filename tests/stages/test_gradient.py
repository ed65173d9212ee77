"""Which gradient route a run takes: the usual one, what fits into a limit, and what is refused."""

import functools
import io
import pathlib

import pytest

from jdistill import cli, run, stages
from jdistill.base import UserError
from jdistill.reporting.cost import program_memory
from jdistill.stages import build, gradient
from jdistill.stages.build import Route

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG = ("--config.method.inner_steps=64", "--config.parallel.data=1")


def make(*arguments, preset=":tiny", experiment="datm"):
  arguments = ["run", f"--config={ROOT / 'experiments' / experiment}.py{preset}", *arguments]
  return run.make_run(cli.parse(arguments)["config"].value, stream=io.StringIO())


def need(one, route):
  return sum(program_memory(build.compile_step(one, None, route)).values())


@functools.cache
def needs():
  """Bytes of the two exact routes; 64 steps of one keep eight times what the other keeps."""
  one = make(*LONG)
  found = {route: need(one, Route(route, None)) for route in ("mixed", "nested_remat")}
  assert found["nested_remat"] < found["mixed"]
  return found


def test_without_a_limit_nothing_is_compiled(monkeypatch):
  monkeypatch.setattr(build, "compile_step", lambda *a: pytest.fail("compiled"))
  assert gradient.choose(make(*LONG), None) == Route("mixed", None)
  assert gradient.choose(make(*LONG, "--config.unroll.gradient=remat"), None) == Route("remat", None)


def test_methods_without_inner_steps_have_no_route():
  assert gradient.choose(make("--config.memory_limit=1kB", experiment="dm"), None) is None


def test_auto_takes_the_fastest_where_there_is_room():
  one = make(*LONG, "--config.unroll.gradient=auto")
  assert gradient.choose(one, None) == Route("mixed", None)
  assert one.stream.getvalue().startswith("gradient: mixed, ")


def test_a_limit_between_two_routes_takes_the_smaller():
  limit = (needs()["mixed"] + needs()["nested_remat"]) // 2
  one = make(*LONG, "--config.unroll.gradient=auto", f"--config.memory_limit={limit}", "--config.unroll.chunk_size=10")
  assert gradient.choose(one, None) == Route("nested_remat", None)
  assert "gradient: nested_remat, " in one.stream.getvalue()


def test_a_limit_below_the_smallest_says_what_is_the_least():
  one = make(*LONG, "--config.unroll.gradient=auto", "--config.memory_limit=1kB")
  with pytest.raises(UserError, match=r"memory_limit=1kB: the least that the outer step takes is [\d.]+ kB per device"):
    gradient.choose(one, None)


def test_a_route_of_the_user_stays():
  limit = (needs()["mixed"] + needs()["nested_remat"]) // 2
  one = make(*LONG, f"--config.memory_limit={limit}", "--config.unroll.chunk_size=10")
  with pytest.raises(UserError, match=r"\(mixed\); raise it"):
    gradient.choose(one, None)


def test_smaller_chunks_are_tried_before_a_slower_route():
  one = make(*LONG, "--config.unroll.gradient=auto")
  routes = gradient._candidates(one, None, build.usual_route(one))
  assert routes == [Route(route, chunk) for route in ("mixed", "nested_remat") for chunk in (None, 2, 1)]


def test_the_limit_is_no_part_of_the_configuration():
  assert make().hash == make("--config.memory_limit=4GB", "--config.parallel.data=1").hash


@pytest.mark.parametrize("text", ["lots", "-1GB", "0", "4 parsecs"])
def test_limits_that_are_none(text):
  with pytest.raises(UserError, match=r"memory_limit: .* is no number of bytes; write it like '2GB'"):
    make(f"--config.memory_limit={text}")


def test_a_chunk_must_divide_the_rows():
  one = make("--config.unroll.chunk_size=3", "--config.parallel.data=1")
  with pytest.raises(UserError, match=r"unroll.chunk_size=3: does not divide the 10 images of an inner step; use"):
    stages.check(one)


def test_chunks_of_the_usual_route():
  big = make("--config.model.width=128", "--config.ipc=20", preset="")
  assert build.usual_route(big).chunk_size == 50  # 20 x 10 images of 8x8 pixels; 50 of their maps fit
  assert build.usual_route(make("--config.unroll.chunk_size=5")).chunk_size == 5
  assert build.usual_route(make("--config.unroll.chunk_size=10")).chunk_size is None
