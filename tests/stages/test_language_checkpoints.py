"""Runs whose teachers and students are language models of files: one whole run, and what is refused before any work."""

import functools
import io

import jax
import numpy as np
import pytest

from experiments import smollm2
from jdistill import pretrained, run, stages
from jdistill.base import UserError
from jdistill.data.text import read_text
from jdistill.files import read_json
from jdistill.jobs import networks, targets
from jdistill.language import byte_tokenizer, train_bpe
from jdistill.models import DecoderConfig, language_model

WEAK = {"teachers__worst_perplexity": 1e6}
PADDED = 4  # rows of the embedding beyond the tokens


@functools.cache
def words(size=300):
  return train_bpe([read_text("descriptions")[:20000]], size)


def saved(path, tokenizer, rows, **options):
  """A decoder with new parameters in a directory, with its tokeniser unless that is of bytes."""
  config = DecoderConfig(rows, **{"width": 16, "depth": 3, "heads": 2, "context": 32} | options)
  params = language_model(config).init(jax.random.key(0)).params
  pretrained.save_language_model(path, config, params, tokenizer=tokenizer)
  return str(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  return saved(tmp_path_factory.mktemp("model"), words(), words().size + PADDED)


def experiment(**changes):
  config = smollm2.get_config("tiny")
  config.train.epochs = 1
  with config.unlocked():
    for path, value in changes.items():
      section, _, key = path.partition("__")
      if key:
        config[section][key] = value
      else:
        config[section] = value
  return config


def made(tmp_path, **changes):
  return run.make_run(experiment(**changes), tmp_path / "work", artefacts=tmp_path / "artefacts", stream=io.StringIO())


def taught(path, **changes):
  return {"task__tokenizer": path, "teachers__weights": path, "teachers__tune": False} | WEAK | changes


def refused(tmp_path, match, **changes):
  """One line, before any training."""
  with pytest.raises(UserError, match=match) as caught:
    one = made(tmp_path, **changes)
    stages.STAGES["teachers"].check(one)
    stages.STAGES["students"].check(one)
  assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_from_a_file_to_the_sample_of_its_students(tmp_path, checkpoint):
  own = {"student_weights__path": checkpoint, "student_weights__depth": 2}
  config = experiment(**taught(checkpoint, **own))
  stream = io.StringIO()
  run.run_experiment(config, tmp_path / "work", stream=stream)
  said = stream.getvalue()
  assert f"the task's tokeniser, 300 ids, {PADDED} padded rows cut; perplexity" in said
  assert said.index("preflight") < said.index("students")
  found = read_json(tmp_path / "work" / "summary.json")["arms"]
  assert found["fkl"]["parameters"] == found["sft"]["parameters"] < 3 * 16 * 16 * 12 + 300 * 16  # two blocks of three
  assert found["fkl"]["targets"]["store"] == "float16" and "targets" not in found["sft"]
  assert found["fkl"]["sample"] and set(found["fkl"]["scores"]) == {"nats", "perplexity", "bits_per_byte"}
  report = (tmp_path / "work" / "report.md").read_text()
  assert "## Samples" in report and "on the prompt 'The'" in report and "## Stored targets" in report


def test_teachers_have_the_sizes_of_the_file_and_the_rows_of_the_tokeniser(tmp_path, checkpoint):
  one = made(tmp_path, **taught(checkpoint, teacher__width=40, teacher__dtype="float32"))
  (spec,) = networks.specs(one)
  assert {key: spec.sections["teacher"][key] for key in ("width", "depth", "heads", "dtype")} == {
    "width": 16, "depth": 3, "heads": 2, "dtype": "float32",
  }  # fmt: skip
  start = networks.job_of(one, spec, [0]).start
  whole = pretrained.load_language_model(checkpoint).params
  np.testing.assert_array_equal(start.params["embed"]["kernel"][0], whole["embed"]["kernel"][:300])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"teachers__weights": "nope.gguf"}, r"teachers\.weights='nope\.gguf': no such file; give 'smollm2'"),
    ({"teachers__weights": "x.pth"}, r"teachers\.weights='x\.pth': no such file"),
    ({"task__tokenizer": "nope.json"}, r"task\.tokenizer: nope\.json: no such file"),
    ({"task__tokenizer": "words"}, r"task\.tokenizer='words': is no tokeniser; give 'bytes', 'smollm2'"),
    ({"task__vocabulary": 258}, r"task\.vocabulary=258: bytes has 259 tokens"),
    ({"task__template": "chat"}, r"task\.template='chat': is for records .* dataset='descriptions' is a text"),
    ({"task__max_new": 30}, r"task\.prompt='The': has 4 tokens, and task\.max_new=30 more do not fit task\.context=24"),
    ({"student_weights__depth": 2}, r"student_weights\.depth=2: is a part of a checkpoint; give student_weights\.path"),
    ({"student_weights__path": "x.pth"}, r"student_weights\.path='x\.pth': is no language model"),
    ({"targets__source": "top_k"}, r"targets\.source='top_k': how many are kept is open; set targets\.top_k"),
    ({"targets__source": "top_k", "targets__top_k": 259}, r"targets\.top_k=259: must lie in 1\.\.258 for 259 classes"),
    ({"targets__top_k": 5}, r"targets\.top_k=5: needs targets\.source='cached' or, for text, 'top_k'"),
    ({"teachers__count": 2}, r"targets\.source='hidden': is of one teacher, and there are 2; use 'cached'"),
    ({"targets__source": "top_k", "targets__top_k": 3, "targets__store": "bfloat16"}, r"too few for log-probabilities"),
  ],
)
def test_what_does_not_go_together_is_told_in_one_line(tmp_path, changes, message):
  refused(tmp_path, message, **changes)


def test_a_teacher_of_another_tokeniser_is_refused_with_the_way_out(tmp_path, checkpoint):
  way = r"losses on logits need one vocabulary: set task\.tokenizer"
  refused(tmp_path, rf"its tokeniser has 300 tokens, and task\.tokenizer \(bytes\) 259; {way}",
          teachers__weights=checkpoint, teachers__tune=False)  # fmt: skip
  other = train_bpe(["zebra zebra quagga"], 300)  # fewer merges, so made as large by special tokens
  names = [f"<|{n}|>" for n in range(300 - other.size)]
  other = train_bpe(["zebra zebra quagga"], 300, special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *names))
  directory = saved(tmp_path / "other", other, 300)
  refused(tmp_path, r"teachers\.weights=.*: tokenizer: special tokens .* are not the same", **taught(
    checkpoint, teachers__weights=directory))  # fmt: skip
  bare = saved(tmp_path / "bare", byte_tokenizer(), 300)
  refused(tmp_path, r"has 300 rows and no tokeniser beside it, and task\.tokenizer \(bytes\) has 259",
          teachers__weights=bare, teachers__tune=False)  # fmt: skip
  refused(tmp_path, r"student_weights\.path=.*: has 300 rows and no tokeniser", student_weights__path=bare)


def test_a_teacher_that_does_not_know_the_text_ends_the_run(tmp_path, checkpoint):
  message = r"teachers\.weights=.*: teacher: its perplexity on the probe is \d+.*, not below 30: it does not know"
  refused(tmp_path, message, **taught(checkpoint, teachers__worst_perplexity=None))
  refused(tmp_path, r"teachers\.worst_perplexity=9: is for teachers\.weights", teachers__worst_perplexity=9.0)


def test_stored_targets_of_other_text_are_not_taken(tmp_path, checkpoint):
  one, other = (
    made(tmp_path, **taught(checkpoint, seed=seed, targets__source="top_k", targets__top_k=7)) for seed in (0, 1)
  )
  network = one.network(networks.specs(one)[0].sections["teacher"])
  config = DecoderConfig(300, width=16, depth=3, heads=2, context=32)
  variables = networks.Variables(language_model(config).init(jax.random.key(0)).params)
  found, section = networks.Teachers((network,), (variables,), "abc"), one.config["targets"]
  source = targets.source(one, found, section, one.task())
  kept = targets.about(one, found, section, one.task())
  assert source.name == "cached top 7" and 0 < kept["kept_mass"] < 1 and kept["kl"] > 0
  assert targets._directory(one, found, section, one.task()) != targets._directory(other, found, section, other.task())
