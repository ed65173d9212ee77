"""KD^3: its loss, its selection and its deployed student against NumPy; what is trained, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import update_of

from jdistill import models
from jdistill.base import Batch, Look, Outputs, UserError, Variables
from jdistill.data.policies import cut
from jdistill.methods import knowledge
from jdistill.methods.knowledge import StepOutputs
from jdistill.methods.knowledge.kd3 import kd3, kd3_policy
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import ask, committee

RNG = np.random.default_rng(11)
B, C, D = 4, 3, 5
KERNEL, BIAS = RNG.normal(size=(D, C)), RNG.normal(size=C)
CONSTANTS = {"kernel": jnp.float32(KERNEL), "bias": jnp.float32(BIAS)}
MOVED = RNG.normal(size=(B, 2, 2, D))  # the student's map after the transfer block
STUDENT, TEACHER = RNG.normal(size=(2 * B, C)), RNG.normal(size=(2 * B, C))
HEADS = {name: RNG.normal(size=(2 * B, 6)) for name in ("student_head", "teacher_head")}


def view(teacher_map, where=None, connectors=None):
  """A step as the terms see it: an image in the first half of the rows, its mixed version in the second."""
  student = Outputs(jnp.float32(STUDENT), jnp.zeros((2 * B, 2)))
  teacher = Outputs(jnp.float32(TEACHER), jnp.float32(teacher_map.mean((1, 2))), {"block0": jnp.float32(teacher_map)})
  batch = Batch(jnp.zeros((B, 1)), jnp.zeros(B, jnp.int32), jnp.arange(B, dtype=jnp.int32))
  given = {"transfer": jnp.float32(MOVED)} | {name: jnp.float32(value) for name, value in HEADS.items()}
  where = jnp.ones(B, bool) if where is None else jnp.asarray(where)
  return StepOutputs(
    batch,
    student,
    (teacher,),
    connectors or given,
    {},
    (),
    CONSTANTS,
    where,
    jnp.float32(0),
    jax.random.key(0),
    batch.ids,
  )


def nt_xent(both, temperature):
  """One number per image: the mean over its two views."""
  unit = both / np.linalg.norm(both, axis=1, keepdims=True)
  scores = unit @ unit.T / temperature
  n, out = len(both), np.zeros(len(both))
  for i in range(n):
    others = [scores[i, j] for j in range(n) if j != i]
    out[i] = np.log(np.exp(others).sum()) - scores[i, (i + n // 2) % n]
  return out.reshape(2, -1).mean(0)


def kl(z_s, z_t, temperature):
  p, q = (np.exp(z / temperature) for z in (z_t, z_s))
  p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
  return temperature**2 * (p * np.log(p / q)).sum(1)


def test_features_are_weighed_by_the_gap_of_the_logits_and_the_larger_map_is_averaged():
  large = RNG.normal(size=(2 * B, 4, 4, D))
  pooled = large.reshape(2 * B, 2, 2, 2, 2, D).mean((2, 4))[:B]
  logits = MOVED.mean((1, 2)) @ KERNEL + BIAS
  weights = 1 / (1 + np.exp(-np.linalg.norm(logits - TEACHER[:B], axis=1)))
  errors = ((MOVED - pooled) ** 2).mean((1, 2, 3))
  np.testing.assert_allclose(kd3().terms["feature"].value(view(large)), weights * errors, rtol=1e-5)
  np.testing.assert_allclose(kd3(weighted=False).terms["feature"].value(view(large)), errors, rtol=1e-5)
  own = kd3(shared_classifier=False, kd_weight=1.0)
  weights = 1 / (1 + np.exp(-np.linalg.norm(STUDENT[:B] - TEACHER[:B], axis=1)))
  np.testing.assert_allclose(own.terms["feature"].value(view(large)), weights * errors, rtol=1e-5)


def test_a_larger_map_of_the_student_is_averaged_too():
  small = RNG.normal(size=(2 * B, 1, 1, D))
  errors = ((MOVED.mean((1, 2), keepdims=True) - small[:B]) ** 2).mean((1, 2, 3))
  np.testing.assert_allclose(kd3(weighted=False).terms["feature"].value(view(small)), errors, rtol=1e-5)


def test_contrast_is_of_both_heads_and_minds_padding():
  term = kd3(contrast_temperature=0.5).terms["contrast"]
  want = sum(nt_xent(both, 0.5) for both in HEADS.values())
  square = RNG.normal(size=(2 * B, 2, 2, D))
  np.testing.assert_allclose(term.value(view(square)), want, rtol=1e-5)
  rows = [0, 2, 4, 6]  # the first and third image and their mixed versions
  want = sum(nt_xent(both[rows], 0.5) for both in HEADS.values())
  got = np.asarray(term.value(view(square, where=[True, False, True, False])))
  np.testing.assert_allclose(got[[0, 2]], want, rtol=1e-5)
  assert (term.weight, kd3().terms["feature"].weight) == (0.001, 1.0)


def test_kd_compares_what_is_deployed():
  square = RNG.normal(size=(2 * B, 2, 2, D))
  shared, own = kd3(kd_weight=2.0, temperature=3.0), kd3(kd_weight=2.0, temperature=3.0, shared_classifier=False)
  logits = MOVED.mean((1, 2)) @ KERNEL + BIAS
  np.testing.assert_allclose(shared.terms["kd"].value(view(square)), kl(logits, TEACHER[:B], 3.0), rtol=1e-4)
  np.testing.assert_allclose(own.terms["kd"].value(view(square)), kl(STUDENT[:B], TEACHER[:B], 3.0), rtol=1e-4)
  assert shared.terms["kd"].weight == 2.0 and "kd" not in kd3().terms


def test_components_go_away_with_their_parts():
  assert set(kd3().connectors) == {"transfer", "student_head", "teacher_head"} and kd3().keeps == ("transfer",)
  assert set(kd3(contrast_weight=0.0).connectors) == {"transfer"}
  plain = kd3(shared_classifier=False, feature_weight=0.0, contrast_weight=0.0, kd_weight=1.0)
  assert (set(plain.terms), set(plain.connectors), plain.keeps) == ({"kd"}, set(), ())
  batch = Batch(jnp.float32(RNG.normal(size=(3, 2, 2, 1))), jnp.zeros(3, jnp.int32), jnp.arange(3))
  student, teacher = plain.augmented_inputs(jax.random.key(0), batch)
  np.testing.assert_array_equal(student, batch.x)
  student, teacher = kd3().augmented_inputs(jax.random.key(0), batch)
  assert student.shape == teacher.shape == (6, 2, 2, 1)
  np.testing.assert_array_equal(student[:3], batch.x)
  assert not np.allclose(student[3:], batch.x)


# selection ----------------------------------------------------------------------------------------------------------

N = 12
Z_T, Z_S = 3 * RNG.normal(size=(N, C)), 3 * RNG.normal(size=(N, C))


def block_of(epoch, batch_size=5, z_t=Z_T, seed=0, **options):
  data = Batch(
    jnp.zeros((N, 1)), jnp.zeros(N, jnp.int32), jnp.arange(N), extra={"inside": jnp.asarray(np.arange(N) % 2 == 0)}
  )
  look = Look(
    lambda i: jax.tree.map(lambda leaf: leaf[i], data), lambda i: jnp.float32(Z_S)[i], lambda i: jnp.float32(z_t)[i]
  )
  policy = kd3_policy(N, batch_size, **options)
  block, state = policy.next(jax.random.key(seed), policy.init(jax.random.key(1)), jnp.int32(epoch), look)
  assert state == () and block.index.shape == block.weight.shape == (policy.steps, batch_size)
  return block


def seen(block):
  return np.asarray(block.index)[np.asarray(block.weight) > 0].tolist()


def selected(epoch, cutoff, ramp, until):
  """KD^3's selection in NumPy: positions that are kept."""
  a = 1 - np.exp(-5 * ((epoch + 1) / ramp - 1) ** 2) if epoch < until else 0.0
  z = a * Z_T + (1 - a) * Z_S
  p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
  counts = np.bincount(p.argmax(1), minlength=C)
  share = counts / counts.max()
  return set(np.flatnonzero(p.max(1) > (cutoff * share / (2 - share))[p.argmax(1)]))


SHORT = {"cutoff": 0.9, "ramp": 8, "until": 6}


@pytest.mark.parametrize("epoch", [0, 3, 9])
def test_the_selection_goes_over_from_the_teacher_to_the_student(epoch):
  want = selected(epoch, 0.9, 8, 6)
  assert 0 < len(want) < N
  block = block_of(epoch, **SHORT)
  assert sorted(seen(block)) == sorted(want)  # each once
  assert set(np.asarray(block.index).ravel()) == want  # the filling is of kept images, too: batch norm sees it
  assert len(cut(block)[0]) == -(-len(want) // 5)
  assert float(block.metrics["selected"]) == pytest.approx(len(want) / N)
  assert float(block.metrics["inside"]) == pytest.approx(np.mean([i % 2 == 0 for i in want]))


def test_epochs_differ_in_what_they_select():
  assert selected(0, 0.9, 8, 6) != selected(9, 0.9, 8, 6)


def test_the_other_selections():
  confidence = (np.exp(Z_T) / np.exp(Z_T).sum(1, keepdims=True)).max(1)
  block = block_of(9, select="teacher", cutoff=0.9)
  assert set(seen(block)) == set(np.flatnonzero(confidence > 0.9)) and 0 < len(seen(block)) < N
  assert float(block.metrics["confidence_median"]) == pytest.approx(np.percentile(confidence, 50), rel=1e-5)
  assert sorted(seen(block_of(0, select="all"))) == list(range(N))
  sets = [frozenset(seen(block_of(9, select="random", seed=seed, **SHORT))) for seed in range(4)]
  assert {len(s) for s in sets} == {len(selected(9, 0.9, 8, 6))} and len(set(sets)) > 1
  assert kd3_policy(N, 5).looks and not kd3_policy(N, 5, select="all").looks


def test_repeated_epochs_have_whole_batches_of_kept_images():
  block = block_of(9, repeat=True, **SHORT)
  assert np.asarray(block.weight).all()
  counts = np.bincount(np.asarray(block.index).ravel(), minlength=N)
  assert set(np.flatnonzero(counts)) == selected(9, 0.9, 8, 6)
  assert counts[counts > 0].max() - counts[counts > 0].min() <= 1


@pytest.mark.parametrize("repeat", [False, True])
def test_an_empty_selection_shows_and_has_no_steps(repeat):
  block = block_of(0, z_t=np.zeros_like(Z_T), select="teacher", repeat=repeat)
  assert not np.asarray(block.weight).any() and len(cut(block)[0]) == 0
  assert (float(block.metrics["selected"]), float(block.metrics["empty"])) == (0.0, 1.0)
  assert float(block.metrics["confidence_high"]) == pytest.approx(1 / 3)
  assert float(block.metrics["empty_classes"]) == 2.0  # ties go to class 0
  assert kd3_policy(N, 5).hint == "lower data_policy.cutoff, or give a pool the teacher knows"


# training -----------------------------------------------------------------------------------------------------------


def built(recipe, widths=(2, 4)):
  """A tiny student, a random teacher, and an update on six images."""
  student, teacher = (
    models.build("convnet_bn", num_classes=3, image_shape=(2, 2, 1), width=width, depth=1) for width in widths
  )
  x = jnp.float32(RNG.normal(size=(6, 2, 2, 1)))
  data = Batch(x, jnp.zeros(6, jnp.int32), jnp.arange(6, dtype=jnp.int32))
  frozen = committee([teacher], [teacher.init(jax.random.key(1))])
  constants = recipe.prepare(ask(frozen, x, data.ids), data.y, frozen.arrays)
  optimizer = make_optimizer("sgd", 0.1)
  method = knowledge.student_method(student, recipe, optimizer=optimizer, targets=frozen.targets)
  return method, student, frozen, update_of(data, targets=frozen.arrays, constants=constants)


def test_the_student_is_its_network_the_block_and_the_teachers_classifier():
  recipe = kd3(contrast_size=4)
  method, student, frozen, update = built(recipe)
  before = method.init(jax.random.key(2), update)
  after, metrics = jax.jit(method.step)(jax.random.key(3), before, update)
  assert float(metrics["method/embedding_gap"]) == pytest.approx(0, abs=1e-6)
  changed = {
    name: any(
      not np.array_equal(a, b)
      for a, b in zip(jax.tree.leaves(role.params), jax.tree.leaves(after.roles[name].params), strict=True)
    )
    for name, role in before.roles.items()
  }
  assert changed == {"student": True, "transfer": True, "student_head": True, "teacher_head": True}
  head = [state.roles["student"].params["head"] for state in (before, after)]
  jax.tree.map(np.testing.assert_array_equal, *head)  # nobody asks the student's own classifier

  trained = method.result(after)
  assert set(trained.variables) == {"student", "transfer"}
  got = knowledge.predictor(student, recipe)(trained, update.constants, update.batch.x)
  params, stats = trained.variables["student"]
  x = np.asarray(student.apply(params, update.batch.x, stats=stats).taps["block0"], np.float64)
  block = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trained.variables["transfer"])
  for n, size in enumerate((1, 3, 1)):
    kernel, pad = block.params[f"conv{n}"]["kernel"], size // 2
    wide = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    places = [(i, j) for i in range(size) for j in range(size)]
    x = sum(np.einsum("bhwi,io->bhwo", wide[:, i : i + 2, j : j + 2], kernel[i, j]) for i, j in places)
    moments = block.stats[f"norm{n}"]
    x = (x - moments["mean"]) / np.sqrt(moments["var"] + 1e-5)
    x = np.maximum(x * block.params[f"norm{n}"]["scale"] + block.params[f"norm{n}"]["bias"], 0)
  classifier = frozen.arrays[0].params["head"]
  want = x.mean((1, 2)) @ np.asarray(classifier["kernel"]) + np.asarray(classifier["bias"])
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_without_sharing_the_students_own_classifier_is_deployed():
  recipe = kd3(shared_classifier=False, kd_weight=1.0, contrast_weight=0.0)
  variables = {"student": Variables({}), "transfer": Variables({})}
  out = Outputs(jnp.ones((2, 3)), jnp.zeros((2, 1)))
  np.testing.assert_array_equal(recipe.predict(out, variables, CONSTANTS), out.logits)


# what cannot work ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"shared_classifier": False}, "nothing trains the student's classifier; set method.kd_weight"),
    ({"feature_weight": 0.0}, "nothing teaches the student; set method.kd_weight"),
  ],
)
def test_options_that_train_nothing_are_refused(options, message):
  with pytest.raises(ValueError, match=message) as caught:
    kd3(**options)
  assert "\n" not in str(caught.value)


def prepare(params, embedding, logits):
  return kd3().prepare((Outputs(logits, embedding),), None, (Variables(params),))


def test_the_teachers_classifier_must_be_its_last_dense_layer():
  embedding = RNG.normal(size=(7, D)).astype(np.float32)
  head = {"kernel": np.float32(KERNEL), "bias": np.float32(BIAS)}
  logits = embedding @ head["kernel"] + head["bias"]
  found = prepare({"head": head}, embedding, logits)
  assert set(found) == {"kernel", "bias"}
  with pytest.raises(UserError, match=r"teacher: has no dense layer from its embedding \(5,\) .* such as resnet8"):
    prepare({"other": head}, embedding, logits)
  with pytest.raises(UserError, match="has no dense layer"):
    prepare({"head": head}, embedding[:, :4], logits)
  with pytest.raises(UserError, match="teacher: its logits differ from its last dense layer by up to"):
    prepare({"head": head}, embedding, 2 * logits)


def test_a_classifier_on_flattened_maps_cannot_be_shared():
  recipe = kd3(contrast_size=4)
  student, teacher = (
    models.build("convnet_bn", num_classes=3, image_shape=(4, 4, 1), width=2, depth=1) for _ in range(2)
  )
  x = jnp.float32(RNG.normal(size=(4, 4, 4, 1)))
  data = Batch(x, jnp.zeros(4, jnp.int32), jnp.arange(4, dtype=jnp.int32))
  frozen = committee([teacher], [teacher.init(jax.random.key(1))])
  constants = recipe.prepare(ask(frozen, x, data.ids), data.y, frozen.arrays)
  options = {"optimizer": make_optimizer("sgd", 0.1), "targets": frozen.targets}
  method = knowledge.student_method(student, recipe, **options)
  update = update_of(data, targets=frozen.arrays, constants=constants)
  state = jax.eval_shape(method.init, jax.random.key(0), update)
  with pytest.raises(ValueError, match="its classifier takes 8 numbers and its last map has 2 channels; choose"):
    jax.eval_shape(method.step, jax.random.key(0), state, update)


def test_networks_without_maps_and_batches_of_one_are_refused():
  recipe = kd3(contrast_size=4)
  flat = Outputs(jnp.zeros((2, 3)), jnp.zeros((2, 4)), {"block0": jnp.zeros((2, 4))})
  with pytest.raises(ValueError, match="teacher: shows no feature map; choose a convolutional network"):
    recipe.connectors["transfer"].init(jax.random.key(0), flat, (flat,))
  one = Batch(jnp.zeros((1, 2, 2, 1)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
  with pytest.raises(UserError, match="a batch of 1; mixing needs at least 2 images"):
    recipe.augmented_inputs(jax.random.key(0), one)
