"""What `gkd_step` trains on both sides: two decoders, rows of prompts and responses, and the same numbers in Torch."""

import json
from pathlib import Path

import numpy as np

VOCABULARY, BATCH, PROMPT, NEW = 2048, 16, 32, 64
LENGTH, STEPS = PROMPT + NEW, 2  # updates of one measurement
SIZES = {"student": {"width": 128, "depth": 4, "heads": 4}, "teacher": {"width": 256, "depth": 4, "heads": 4}}
LR, WEIGHT_DECAY, CLIP = 1e-4, 0.01, 1.0
CONTEXT, POSITIONS, TOKENS = 1024, (16, 256, 512, 768, 960), 32  # of the sampling alone


def tokens() -> np.ndarray:
  """`[STEPS, BATCH, LENGTH]`, prompts first."""
  return np.random.default_rng(0).integers(1, VOCABULARY, (STEPS, BATCH, LENGTH)).astype(np.int32)


def models(scratch: Path) -> dict:
  """Ours by role, `(model, params)`; written to `scratch` for `transformers`."""
  import jax

  from jdistill import models, pretrained

  found = {}
  for number, (name, sizes) in enumerate(SIZES.items()):
    config = models.DecoderConfig(VOCABULARY, context=LENGTH, **sizes)
    model = models.language_model(config)
    params = model.init(jax.random.key(number)).params
    pretrained.save_language_model(scratch / name, config, params)
    found[name] = model, params
  return found


def batches():
  """The rows of all steps as one `Batch` with a leading axis of steps."""
  import jax
  import jax.numpy as jnp

  from jdistill import language
  from jdistill.base import Batch

  found = []
  for rows in tokens():
    packed = language.pad(list(rows), LENGTH, counted=[np.arange(LENGTH) >= PROMPT] * BATCH)
    own = jax.tree.map(jnp.asarray, packed.rows)
    targets, mask = language.next_tokens(own, packed.counted)
    found.append(Batch(own, targets, jnp.arange(BATCH, dtype=jnp.int32), extra={"mask": mask}))
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def method(case: str, scratch: Path):
  """`(method, state, function of a batch and a step number -> what a step takes)`."""
  import jax
  import jax.numpy as jnp

  from jdistill.base import Network, Variables
  from jdistill.methods.knowledge import StudentInput, student_method
  from jdistill.methods.language.divergences import sft
  from jdistill.methods.language.gkd import gkd
  from jdistill.methods.optimizers import make_optimizer
  from jdistill.teachers.frozen import committee

  found = models(scratch)
  frozen = committee([found["teacher"][0]], [Variables(found["teacher"][1])])
  recipe = gkd(student_share=1.0, max_new=NEW, end_token=None) if case == "gkd" else sft()
  optimizer = make_optimizer("adamw", LR, weight_decay=WEIGHT_DECAY, clip=CLIP)
  student = found["student"][0]
  targets = frozen.targets if case == "gkd" else None
  built = student_method(Network(student.init, student.apply, student), recipe, optimizer=optimizer, targets=targets)
  start = Variables(found["student"][1])

  def inputs(batch, number):
    arrays = frozen.arrays if case == "gkd" else ()
    return StudentInput(batch, number, jnp.float32(0), targets=arrays, start=start)

  first = jax.tree.map(lambda leaf: leaf[0], batches())
  return built, built.init(jax.random.key(0), inputs(first, jnp.int32(0))), inputs


def agreement(scratch: Path) -> dict:
  """Ours: the loss of both cases on the first rows, and the norm of its gradient."""
  import jax
  import optax

  from jdistill import losses

  found = models(scratch)
  (student, params), (teacher, fixed) = found["student"], found["teacher"]
  batch = jax.tree.map(lambda leaf: leaf[0], batches())
  mask = batch.extra["mask"]

  def gkd(params):
    z_s, z_t = student.apply(params, batch.x).logits, teacher.apply(fixed, batch.x).logits
    return losses.reduce_tokens(losses.generalized_jsd(z_s, z_t, beta=0.5, where=mask), mask)

  def sft(params):
    return losses.reduce_tokens(losses.cross_entropy(student.apply(params, batch.x).logits, batch.y, where=mask), mask)

  out = {}
  for name, loss in (("gkd", gkd), ("sft", sft)):
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    out[name] = [float(value), float(optax.global_norm(gradient))]
  (scratch / "ours.json").write_text(json.dumps(out))
  return out


def torch_models(scratch: Path) -> dict:
  """The same in `transformers`, by role, without an end of generation."""
  import transformers

  found = {}
  for name in SIZES:
    module = transformers.AutoModelForCausalLM.from_pretrained(scratch / name, dtype="float32")
    module.config.eos_token_id = module.generation_config.eos_token_id = None
    module.config.pad_token_id = module.generation_config.pad_token_id = 0
    found[name] = module
  return found


def torch_inputs(torch) -> list[dict]:
  """What TRL's collator gives, one per step."""
  found = []
  for rows in tokens():
    ids = torch.from_numpy(rows.astype(np.int64))
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    prompts = ids[:, :PROMPT]
    found.append(
      {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "prompts": prompts,
        "prompt_attention_mask": torch.ones_like(prompts),
      }
    )  # fmt: skip
  return found


def trl_trainer(scratch: Path):
  """TRL's trainer as its users build it, fully on-policy."""
  import datasets
  import tokenizers
  import transformers
  from trl.experimental.gkd import GKDConfig, GKDTrainer

  words = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
  tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1")
  found = torch_models(scratch)
  arguments = GKDConfig(
    output_dir=str(scratch / "trl"), lmbda=1.0, beta=0.5, temperature=1.0, max_new_tokens=NEW, learning_rate=LR,
    weight_decay=WEIGHT_DECAY, per_device_train_batch_size=BATCH, use_cpu=True, bf16=False, report_to=[],
    gradient_checkpointing=False, disable_tqdm=True,
  )  # fmt: skip
  rows = {"input_ids": tokens()[0].tolist(), "labels": tokens()[0].tolist()}  # never asked: batches are handed over
  table = datasets.table.InMemoryTable.from_pydict(rows)
  data = datasets.Dataset(table, fingerprint="rows")  # without one it would be pickled
  trainer = GKDTrainer(
    model=found["student"], teacher_model=found["teacher"], args=arguments, processing_class=tokenizer,
    data_collator=lambda rows: rows, train_dataset=data,
  )  # fmt: skip
  for module in found.values():  # the tokenizer's end token must not end a response on this side alone
    module.config.eos_token_id = module.generation_config.eos_token_id = None
  trainer.generation_config.eos_token_id = None
  trainer.current_gradient_accumulation_steps = 1  # its loop sets this
  return trainer
