"""Networks and language models with trained weights from files of other libraries, ready for use."""

from jdistill.pretrained.checkpoints import (
  checkpoint_digest,
  is_language_checkpoint,
  load_checkpoint,
  load_tokenizer,
)
from jdistill.pretrained.images import PREPROCESSING, load, read_weights
from jdistill.pretrained.language import (
  PretrainedLanguageModel,
  load_language_model,
  save_language_model,
  smollm2_file,
)

__all__ = [
  "PREPROCESSING",
  "PretrainedLanguageModel",
  "checkpoint_digest",
  "is_language_checkpoint",
  "load",
  "load_checkpoint",
  "load_language_model",
  "load_tokenizer",
  "read_weights",
  "save_language_model",
  "smollm2_file",
]
