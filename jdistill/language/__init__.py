"""Text as rows of tokens: packing with document boundaries, prompts and responses, and sampling from a model."""

from jdistill.language.generate import Samples, generate, with_prompts
from jdistill.language.packing import Packed, join, next_tokens, pack, pad
from jdistill.language.sampling import restrict, sample
from jdistill.models.decoder_layers import Rows

__all__ = [
  "Packed",
  "Rows",
  "Samples",
  "generate",
  "join",
  "next_tokens",
  "pack",
  "pad",
  "restrict",
  "sample",
  "with_prompts",
]
