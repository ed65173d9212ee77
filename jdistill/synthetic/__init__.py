"""What data-set distillation learns, and how it starts; texts that are generated, with what is known of them."""

from jdistill.synthetic.arithmetic import Verdict, addition_record, addition_records, character_codes, check_addition
from jdistill.synthetic.compensators import compensated, materialise
from jdistill.synthetic.corpora import Corpus, generated, is_generated
from jdistill.synthetic.features import feature_start
from jdistill.synthetic.feed import Feed, Materials
from jdistill.synthetic.initialise import Budget, Start, correctly_predicted, expert_label_logits, random_real, start
from jdistill.synthetic.markov import (
  MarkovSource,
  Oracle,
  document_entropy,
  entropy_rate,
  from_transitions,
  markov_oracle,
  markov_source,
  markov_text,
  next_log_probs,
  oracle_logits,
  sample_markov,
)
from jdistill.synthetic.set import SyntheticSet, to_arrays

__all__ = [
  "Budget", "Corpus", "Feed", "MarkovSource", "Materials", "Oracle", "Start", "SyntheticSet", "Verdict",
  "addition_record", "addition_records", "character_codes", "check_addition", "compensated", "correctly_predicted",
  "document_entropy", "entropy_rate", "expert_label_logits", "feature_start", "from_transitions", "generated",
  "is_generated", "markov_oracle", "markov_source", "markov_text", "materialise", "next_log_probs", "oracle_logits",
  "random_real", "sample_markov", "start", "to_arrays",
]  # fmt: skip
