"""An on-policy step of GKD beside TRL's trainer, a step of SFT beside PyTorch, and tokens of sampling by position.

  pip install torch==2.13.0 transformers==5.24.0 trl==1.16.0
  python -m benchmarks.gkd_step [--repeats=5] [--cases=gkd,sft,sampling]

Needs the extra `bench`. A Llama of 4 layers and width 128 learns from one of width 256, 2,048 tokens, batches of 16
prompts of 32 tokens and responses of 64 without an end, float32, AdamW, clipping at 1. Both sides start from the same
weights.

  gkd        the student writes, the teacher scores, the student is updated: `student_method` as a run compiles it, and
             `training_step` of TRL's `GKDTrainer` followed by PyTorch's AdamW, without the loop and logs around them
  sft        an update by cross entropy on the responses; PyTorch's is `transformers`' Llama, eager or compiled,
             whichever is faster
  sampling   ours alone: milliseconds per token from a cache of 1,024 places, by the position in it

Processes take turns, one measurement each. Before anything is timed both sides must have the same loss and the same
norm of its gradient on the same rows. Tokens are those of responses.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import _language, _reports, _torch, _workers

AGREEMENT = 1e-4
CASES = ("gkd", "sft", "sampling")
SWITCHES = ("contiguous", "contiguous, compiled")


def jax_worker(case: str, scratch: Path) -> None:
  """Ours."""
  import jax
  import jax.numpy as jnp

  jax.block_until_ready(jnp.zeros(()) + 1)
  baseline = _workers.peak_rss()
  _language.agreement(scratch)
  method, state, inputs = _language.method(case, scratch)
  batches, numbers = _language.batches(), jnp.arange(_language.STEPS)

  @jax.jit
  def steps(state, key):
    def one(state, given):
      batch, number = given
      return method.step(jax.random.fold_in(key, number), state, inputs(batch, number))

    return jax.lax.scan(one, state, (batches, numbers))

  def step():
    step.state, metrics = jax.block_until_ready(steps(step.state, jax.random.key(step.count)))
    step.count += 1
    del metrics

  step.state, step.count = state, 0
  _workers.serve(step, baseline, version=jax.__version__)


def torch_worker(case: str, scratch: Path, switches: str) -> None:
  """Theirs."""
  torch, _, compiled = _torch.prepare(switches, int(os.environ["OMP_NUM_THREADS"]))
  torch.zeros(()) + 1
  baseline = _workers.peak_rss()
  given = _language.torch_inputs(torch)
  if case == "gkd":
    import trl

    trainer = _language.trl_trainer(scratch)
    module, version = trainer.model, trl.__version__

    def loss(inputs):
      return trainer.compute_loss(module, inputs)

    def learn(inputs):
      trainer.training_step(module, dict(inputs))
  else:
    module, version = _language.torch_models(scratch)["student"], torch.__version__
    forward = compiled(module)

    def loss(inputs):
      logits = forward(input_ids=inputs["input_ids"]).logits[:, :-1]
      return torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"][:, 1:].flatten())

    def learn(inputs):
      loss(inputs).backward()

  module.train()
  check(torch, case, module, loss(given[0]), scratch)
  optimizer = torch.optim.AdamW(module.parameters(), lr=_language.LR, weight_decay=_language.WEIGHT_DECAY)

  def step():
    for inputs in given:
      learn(inputs)
      torch.nn.utils.clip_grad_norm_(module.parameters(), _language.CLIP)
      optimizer.step()
      optimizer.zero_grad()

  _workers.serve(step, baseline, version=version)


def check(torch, case: str, module, value, scratch: Path) -> None:
  """Raises `SystemExit` unless loss and norm of the gradient are ours."""
  value.backward()
  norm = torch.nn.utils.clip_grad_norm_(module.parameters(), float("inf"))
  module.zero_grad()
  found, own = [float(value.detach()), float(norm)], json.loads((scratch / "ours.json").read_text())[case]
  if any(abs(a - b) > AGREEMENT * abs(b) for a, b in zip(found, own, strict=True)):
    raise SystemExit(f"gkd_step: the two sides compute different things: {found} and {own}")


def measure(case: str, repeats: int, threads: int) -> dict:
  """Both sides in turn."""
  with tempfile.TemporaryDirectory() as scratch:
    command = ["-m", "benchmarks.gkd_step", f"--cases={case}", f"--scratch={scratch}"]
    ours = _workers.Worker([*command, "--worker=ours"], threads)
    ours.wait()
    switches, tried = SWITCHES[0], {}
    if case == "sft":
      switches, tried = _torch.fastest([*command, "--worker=torch"], threads, SWITCHES)
    theirs = _workers.Worker([*command, "--worker=torch", f"--switches={switches}"], threads)
    _workers.interleave([ours, theirs], repeats)
    facts = {"ours": ours.stop(), "theirs": theirs.stop()}
  count = _language.STEPS * _language.BATCH * _language.NEW
  rates = {name: count / worker.median for name, worker in (("ours", ours), ("theirs", theirs))}
  return {
    "tokens_per_second": rates,
    "speedup": rates["ours"] / rates["theirs"],
    "all_seconds": {"ours": ours.seconds, "theirs": theirs.seconds},
    "torch_switches": switches,
    "torch_tried": tried,
    "facts": facts,
  }


def sampling(repeats: int) -> dict:
  """Milliseconds per decoded token of a batch, by the position of the first of them."""
  import jax
  import jax.numpy as jnp

  from jdistill import models

  size = _language.SIZES["student"]
  config = models.DecoderConfig(_language.VOCABULARY, context=_language.CONTEXT, **size)
  model = models.language_model(config)
  params = model.init(jax.random.key(0)).params

  @jax.jit
  def decode(params, cache, last):
    def one(carry, _):
      logits, cache = model.decode(params, *carry)
      return (cache, jnp.argmax(logits, -1).astype(jnp.int32)), None

    return jax.lax.scan(one, (cache, last), None, length=_language.TOKENS)[0]

  starts, seconds = {}, {position: [] for position in _language.POSITIONS}
  for position in _language.POSITIONS:
    prompt = jax.random.randint(jax.random.key(position), (_language.BATCH, position), 1, _language.VOCABULARY)
    logits, cache = model.prefill(params, model.init_cache(_language.BATCH, _language.CONTEXT), prompt, None)
    starts[position] = cache, jnp.argmax(logits, -1).astype(jnp.int32)
    jax.block_until_ready(decode(params, *starts[position]))
  for _ in range(repeats):  # in turn
    for position, start in starts.items():
      begin = time.perf_counter()
      jax.block_until_ready(decode(params, *start))
      seconds[position].append(time.perf_counter() - begin)
  per_token = {n: 1e3 * statistics.median(s) / _language.TOKENS for n, s in seconds.items()}
  least = min(per_token.values())
  return {"milliseconds_per_token": per_token, "greatest_over_least": max(per_token.values()) / least}


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.add_argument("--cases", default=",".join(CASES))
  parser.add_argument("--worker", choices=("ours", "torch"))
  parser.add_argument("--scratch", type=Path)
  parser.add_argument("--switches", default=SWITCHES[0])
  arguments = parser.parse_args()
  if arguments.worker == "torch":
    return torch_worker(arguments.cases, arguments.scratch, arguments.switches)
  if arguments.worker:
    return jax_worker(arguments.cases, arguments.scratch)
  figures = {"machine": _reports.machine(arguments.threads), "repeats": arguments.repeats, "cases": {}}
  rows = []
  for case in arguments.cases.split(","):
    if case == "sampling":
      figures["cases"][case] = sampling(arguments.repeats)
      continue
    found = figures["cases"][case] = measure(case, arguments.repeats, arguments.threads)
    rows.append([case, *found["tokens_per_second"].values(), found["speedup"], found["torch_switches"]])
  print(f"load {figures['machine']['load_at_start'][0]}")
  if rows:
    print(_reports.table(["step", "ours tokens/s", "theirs tokens/s", "speedup", "theirs"], rows))
  if "sampling" in figures["cases"]:
    found = figures["cases"]["sampling"]
    print(_reports.table(["position", "ms per token"], [list(one) for one in found["milliseconds_per_token"].items()]))
    print(f"greatest over least: {found['greatest_over_least']:.3g}")
  _reports.write("gkd_step", figures, arguments.out)
  return None


if __name__ == "__main__":
  main()
