"""Costs read from compiled programs: a literal one counted by hand, and what XLA makes of real ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jdistill.reporting import cost, hlo

# Two loops (one whose length stands in its condition, one that states it), a choice, slices, near and padded memory.
PROGRAM = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[4,8]{1,0})->f32[4,8]{1,0}}, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%cond (p: (s32[], f32[4,8], f32[100,4,8])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, f32[4,8]{1,0}, /*index=2*/f32[100,4,8]{2,1,0}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %limit = s32[]{:T(128)} constant(100), metadata={op_name="jit(step)/(while)"}
  ROOT %less = pred[]{:T(512)} compare(%n, %limit), direction=LT
}

%picks (q: f32[100,4,8], n: s32[]) -> f32[4,8] {
  %q = f32[100,4,8]{2,1,0} parameter(0)
  %n.2 = s32[] parameter(1)
  %z = s32[] constant(0)
  %cut = f32[1,4,8]{2,1,0} dynamic-slice(%q, %n.2, %z, %z), dynamic_slice_sizes={1,4,8}
  ROOT %flat = f32[4,8]{1,0} bitcast(%cut)
}

%body (p: (s32[], f32[4,8], f32[100,4,8])) -> (s32[], f32[4,8], f32[100,4,8]) {
  %p.2 = (s32[], f32[4,8]{1,0}, f32[100,4,8]{2,1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%p.2), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%p.2), index=1
  %stack = f32[100,4,8]{2,1,0} get-tuple-element(%p.2), index=2
  %row = f32[4,8]{1,0} fusion(%stack, %n.1), kind=kLoop, calls=%picks
  %all = f32[4,8]{1,0} all-reduce(%row), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %more = s32[] add(%n.1, %n.1)
  ROOT %out = (s32[], f32[4,8]{1,0}, f32[100,4,8]{2,1,0}) tuple(%more, %all, %stack)
}

%body.2 (r: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %r = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%r), index=0
  %y = f32[4,8]{1,0} get-tuple-element(%r), index=1
  %w = f32[8,8]{1,0} constant({...})
  %d = f32[4,8]{1,0} dot(%y, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %back = (s32[], f32[4,8]{1,0}) tuple(%i, %d)
}

%cond.2 (r: (s32[], f32[4,8])) -> pred[] {
  %r.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

%small (s: f32[4,8]) -> f32[4,8] {
  ROOT %s = f32[4,8]{1,0} parameter(0)
}

%large (t: f32[4,8]) -> f32[4,8] {
  %t = f32[4,8]{1,0} parameter(0)
  ROOT %copy = f32[4,8]{1,0} copy(%t)
}

ENTRY %main (x: f32[4,8], stack: f32[100,4,8], which: s32[]) -> f32[4,8] {
  %x.3 = f32[4,8]{1,0} parameter(0)
  %stack.3 = f32[100,4,8]{2,1,0} parameter(1)
  %which = s32[] parameter(2)
  %near = f32[4,8]{1,0:T(8,128)S(1)} copy(%x.3)
  %tiled = f32[4,8]{1,0:T(8,128)} copy(%near)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4,8]{1,0}, f32[100,4,8]{2,1,0}) tuple(%zero, %x.3, %stack.3)
  %loop = (s32[], f32[4,8]{1,0}, f32[100,4,8]{2,1,0}) while(%start), condition=%cond, body=%body
  %start.2 = (s32[], f32[4,8]{1,0}) tuple(%zero, %x.3)
  %loop.2 = (s32[], f32[4,8]) while(%start.2), condition=%cond.2, body=%body.2, config={"known_trip_count":{"n":"7"}}
  %chosen = f32[4,8]{1,0} conditional(%which, %x.3, %x.3), branch_computations={%small, %large}
  %wide = (f32[4,64]{1,0}, f32[4,64]{1,0}) all-gather-start(%x.3), replica_groups=[1,8]<=[8], dimensions={1}
  %wide.1 = f32[4,64]{1,0} all-gather-done(%wide)
  ROOT %result = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_the_literal_program_by_hand():
  found = cost.cost(PROGRAM, devices=8)
  row = 4 * 8 * 4
  reduce, gather = cost.Collective("all-reduce", row, 4), cost.Collective("all-gather", 8 * row, 8)
  assert found.collectives == {reduce: 100, gather: 1}
  assert found.flops == 7 * 2 * 4 * 8 * 8
  entry = row + 8 * 128 * 4 + 2 * row  # to near memory, from there to a padded tile, and the gather
  loop = 100 * (2 * row + 4 + 2 * row + 3 * 4)  # slice and its place, sum over devices, counter
  dots = 7 * (2 * row + 8 * 8 * 4)
  assert found.moved == entry + loop + dots  # the cheapest branch moves nothing
  assert found.sent == pytest.approx(100 * 2 * row * 3 / 4 + 8 * row * 7 / 8)


def test_a_text_without_a_program_is_refused():
  with pytest.raises(ValueError, match="no ENTRY"):
    cost.cost("HloModule nothing")


@pytest.mark.parametrize(
  ("text", "size", "held", "near"),
  [
    ("f32[10,3]{1,0:T(8,128)}", 120, 16 * 128 * 4, False),
    ("f32[10,3]{0,1:T(4,128)}", 120, 4 * 128 * 4, False),  # the first axis is the innermost
    ("bf16[125,40,40,3]{0,2,3,1:T(8,128)(2,1)S(1)}", 2 * 600_000, 2 * 128 * 40 * 3 * 40, True),
    ("f32[1210]{0:T(1024)}", 4840, 8192, False),
    ("pred[]{:T(512)}", 1, 1, False),
    ("s4[6]{0}", 3, 3, False),
  ],
)
def test_shapes_and_their_tiles(text, size, held, near):
  program = hlo.parse(f"ENTRY %main (a: f32[]) -> f32[] {{\n  ROOT %a = {text} parameter(0)\n}}\n")
  (leaf,) = program.computations["main"]["a"].shape
  assert (leaf.size, leaf.held, leaf.near) == (size, held, near)


@pytest.mark.parametrize(
  ("x", "k", "stride", "pad", "lhs", "rhs"),
  [
    ((2, 8, 8, 3), (3, 3, 3, 5), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1)),
    ((1, 9, 7, 2), (3, 2, 2, 4), (2, 1), ((1, 0), (0, 2)), (1, 1), (1, 1)),
    ((1, 4, 4, 2), (4, 4, 2, 1), (1, 1), ((3, 3), (3, 3)), (2, 1), (1, 1)),
    ((1, 9, 9, 1), (3, 3, 1, 1), (1, 1), ((-1, 2), (2, -1)), (1, 1), (2, 3)),
  ],
)
def test_convolutions_count_only_what_meets_an_element(x, k, stride, pad, lhs, rhs):
  """Every product of two ones adds one to the sum of the result."""
  numbers = ("NHWC", "HWIO", "NHWC")
  y = lax.conv_general_dilated(np.ones(x, np.float32), np.ones(k, np.float32), stride, pad, lhs, rhs, numbers)
  by = ["x".join(map(str, values)) for values in (k[:2], stride, lhs, rhs)]
  pads = "x".join(f"{low}_{high}" for low, high in pad)
  window = f"window={{size={by[0]} stride={by[1]} pad={pads} lhs_dilate={by[2]} rhs_dilate={by[3]}}}"
  shapes = [f"f32[{','.join(map(str, shape))}]{{3,2,1,0}}" for shape in (x, k, y.shape)]
  text = "\n".join(
    [
      "ENTRY %main (a: f32[], b: f32[]) -> f32[] {",
      f"  %a = {shapes[0]} parameter(0)",
      f"  %b = {shapes[1]} parameter(1)",
      f"  ROOT %c = {shapes[2]} convolution(%a, %b), {window}, dim_labels=b01f_01io->b01f",
      "}",
    ]
  )
  assert cost.cost(text).flops == 2 * float(y.sum())


def test_a_real_loop_counts_as_often_as_it_runs():
  """XLA's own analysis gives the flops of one pass."""

  def loop(x, w):
    return lax.scan(lambda c, row: (c @ w + row, None), x, jnp.ones((13, 40, 40), jnp.float32))[0]

  shape = jax.ShapeDtypeStruct((40, 40), jnp.float32)
  compiled = jax.jit(loop).lower(shape, shape).compile()
  assert cost.cost(compiled.as_text()).flops == 13 * 2 * 40**3
  assert compiled.cost_analysis()["flops"] < 2 * 2 * 40**3


def test_real_exchanges_between_eight_devices():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

  def step(x):
    def body(c, row):
      return c + lax.psum(row, "data"), None

    total = lax.scan(body, jnp.zeros(30, jnp.float32), x)[0]
    return lax.all_gather(total[:3], "data")

  spec = jax.sharding.PartitionSpec
  spread = jax.shard_map(step, mesh=mesh, in_specs=spec(None, "data"), out_specs=spec(), check_vma=False)
  compiled = jax.jit(spread).lower(jax.ShapeDtypeStruct((11, 240), jnp.float32)).compile()
  found = cost.cost(compiled.as_text(), 8).collectives
  assert found == {cost.Collective("all-reduce", 120, 8): 11, cost.Collective("all-gather", 96, 8): 1}
