"""How steep divergences are in the student's logits while it overlaps less and less with its teacher.

  python -m benchmarks.divergence_gradients

A teacher is sure of its class (16 examples, each of one of 10 classes, a margin of 25 in the logits). The student is
undecided at first, then more and more sure of one class for all examples, that of the first example. Norms are those
of `method/gradient_...` of SinKD's recipe: per example, at temperature 2, without weights.
"""

from benchmarks import _reports

EXAMPLES, CLASSES, TEACHER_MARGIN = 16, 10, 25.0
MARGINS = (0.0, 2.0, 5.0, 10.0, 20.0)


def norms(margin: float) -> dict[str, float]:
  """Mean gradient norms over the examples whose class the student does not name, by divergence."""
  import jax
  import jax.numpy as jnp

  from jdistill.base import Batch, Outputs
  from jdistill.methods.knowledge import StepOutputs
  from jdistill.methods.knowledge.sinkd import sinkd

  rows = jnp.arange(EXAMPLES, dtype=jnp.int32)
  labels = rows % CLASSES
  teacher = TEACHER_MARGIN * jax.nn.one_hot(labels, CLASSES)
  student = margin * jax.nn.one_hot(jnp.zeros_like(labels), CLASSES)
  outputs = [Outputs(z, z) for z in (student, teacher)]
  where, zero = labels != 0, jnp.float32(0)
  view = StepOutputs(
    Batch(student, labels, rows), outputs[0], (outputs[1],), {}, {}, (), (), where, zero, jax.random.key(0), rows
  )
  found = jax.jit(sinkd(gradient_norms=True).metrics)(view)
  return {name.removeprefix("gradient_"): float(value) for name, value in found.items()}


def main() -> None:
  import jax

  arguments = _reports.parser(__doc__).parse_args()
  jax.config.update("jax_platforms", "cpu")
  found = {margin: norms(margin) for margin in MARGINS}
  names = [name for name in found[MARGINS[0]] if name != "overlap"]
  header = ["student's margin", "overlap", *names]
  rows = [[f"{m:g}", *(f"{one[name]:.2e}" for name in ("overlap", *names))] for m, one in found.items()]
  print(_reports.table(header, rows))
  figures = {"machine": _reports.machine(arguments.threads), "norms": {f"{m:g}": one for m, one in found.items()}}
  _reports.write("divergence_gradients", figures, arguments.out)


if __name__ == "__main__":
  main()
