"""Students whose rows several devices share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdistill import models
from jdistill.base import Batch
from jdistill.methods.knowledge import StudentInput, logits, student_method
from jdistill.teachers.frozen import committee
from jdistill.training import parallel, run_loop

CLASSES, SHAPE = 3, (8, 8, 3)


def _network():
  return models.build("convnet_bn", num_classes=CLASSES, image_shape=SHAPE, width=4, depth=1)


def _train(mesh):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(16, *SHAPE)), jnp.float32)
  data = Batch(x, jnp.asarray(rng.integers(0, CLASSES, 16), jnp.int32), jnp.arange(16, dtype=jnp.int32))
  teacher = committee([_network()], [_network().init(jax.random.key(7))])
  method = student_method(
    _network(),
    logits.dist(),  # couples the batch
    optimizer=optax.sgd(0.1, momentum=0.9),
    targets=teacher.targets,
    constrain=(lambda batch: parallel.constrain_rows(mesh, batch)) if mesh else lambda batch: batch,
  )

  def batch(step):
    rows = jax.tree.map(lambda leaf: leaf[8 * step : 8 * step + 8], data)
    return StudentInput(rows, jnp.int32(step), jnp.float32(step / 2), targets=teacher.arrays)

  return run_loop(method, batch, key=jax.random.key(1), steps=2, steps_per_call=2, mesh=mesh, route="jit").state


def test_a_student_on_two_devices_computes_what_it_does_on_one():
  one, two = _train(None), _train(parallel.make_mesh(data=2))
  start = _network().init(jax.random.key(0)).params
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    # rounding of a bias in front of batch norm, whose gradient is zero, is all that there is of it
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  kernels = [tree["conv0"]["kernel"] for tree in (start, one.roles["student"].params)]
  assert not np.allclose(*kernels)
