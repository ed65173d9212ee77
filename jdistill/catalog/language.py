"""Distillation of language models."""

import functools

from jdistill.catalog.row import Row

_row = functools.partial(
  Row,
  family="language",
  stages=("teachers", "tune", "students", "report"),
  test="tests/methods/test_language_recipes.py",
  tasks=("language",),
)
_DISTILLM = {
  "title": "DistiLLM: Towards Streamlined Distillation for Large Language Models",
  "authors": "Jongwoo Ko and Sungnyun Kim and Tianyi Chen and Se-Young Yun",
  "venue": "ICML 2024",
  "arxiv": "2402.03898",
}
_SEQ_KD = {
  "title": "Sequence-Level Knowledge Distillation",
  "authors": "Yoon Kim and Alexander M. Rush",
  "venue": "EMNLP 2016",
  "arxiv": "1606.07947",
}
_MINILLM = {
  "title": "MiniLLM: Knowledge Distillation of Large Language Models",
  "authors": "Yuxian Gu and Li Dong and Furu Wei and Minlie Huang",
  "venue": "ICLR 2024",
  "arxiv": "2306.08543",
}
_GKD = {
  "title": "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
  "authors": "Rishabh Agarwal and Nino Vieillard and Yongchao Zhou and Piotr Stanczyk and Sabela Ramos and "
  "Matthieu Geist and Olivier Bachem",
  "venue": "ICLR 2024",
  "arxiv": "2306.13649",
}

ROWS = (
  _row(
    name="sft",
    title="Training language models to follow instructions with human feedback",
    authors="Long Ouyang and Jeffrey Wu and Xu Jiang and Diogo Almeida and Carroll L. Wainwright and Pamela Mishkin "
    "and Chong Zhang and Sandhini Agarwal and Katarina Slama and Alex Ray and John Schulman and Jacob Hilton and "
    "Fraser Kelton and Luke Miller and Maddie Simens and Amanda Askell and Peter Welinder and Paul Christiano and "
    "Jan Leike and Ryan Lowe",
    venue="NeurIPS 2022",
    arxiv="2203.02155",
    builder="jdistill.methods.language.divergences:sft",
    toy={"objective": "loss/ce", "kind": "rows"},
  ),
  _row(
    name="fkl",
    builder="jdistill.methods.language.divergences:fkl",
    toy={"objective": "loss/fkl", "kind": "rows"},
    **_SEQ_KD,
  ),
  _row(
    name="rkl",
    builder="jdistill.methods.language.divergences:rkl",
    toy={"objective": "loss/rkl", "kind": "rows"},
    **_MINILLM,
  ),
  _row(
    name="akl",
    title="Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models",
    authors="Taiqiang Wu and Chaofan Tao and Jiahao Wang and Runming Yang and Zhe Zhao and Ngai Wong",
    venue="COLING 2025",
    arxiv="2404.02657",
    builder="jdistill.methods.language.divergences:akl",
    toy={"objective": "loss/akl", "kind": "rows"},
  ),
  _row(
    name="jsd",
    builder="jdistill.methods.language.divergences:jsd",
    toy={"objective": "loss/jsd", "kind": "rows"},
    **_GKD,
  ),
  _row(
    name="gkd",
    builder="jdistill.methods.language.gkd:gkd",
    test="tests/methods/test_gkd.py",
    toy={"objective": "loss/gkd", "kind": "rows", "max_new": 3, "prompt": 1, "end_token": None},
    **_GKD,
  ),
  _row(
    name="distillm",
    builder="jdistill.methods.language.distillm:distillm",
    test="tests/methods/test_distillm.py",
    toy={
      "objective": "loss/distillm",
      "kind": "rows",
      "max_new": 3,
      "prompt": 1,
      "end_token": None,
      "capacity": 16,
      "start_threshold": 0.5,
      "steps": 30,
    },
    **_DISTILLM,
  ),
  _row(
    name="seq_kd",
    builder="jdistill.methods.language.seq_kd:seq_kd",
    test="tests/methods/test_seq_kd.py",
    toy={"objective": "loss/ce", "kind": "rows", "max_new": 3, "prompt": 1, "end_token": None, "unfinished": "keep"},
    **_SEQ_KD,
  ),
  _row(
    name="minillm",
    builder="jdistill.methods.language.minillm:minillm",
    test="tests/methods/test_minillm.py",
    toy={
      "objective": "loss/single",
      "kind": "rows",
      "max_new": 3,
      "prompt": 1,
      "end_token": None,
      "rollouts": 12,
      "reuse": 1,
      "long_weight": 0.0,
      "lm_weight": 0.0,
    },
    **_MINILLM,
  ),
  _row(
    name="skew_kl",
    builder="jdistill.methods.language.divergences:skew_kl",
    toy={"objective": "loss/skew_kl", "kind": "rows"},
    **_DISTILLM,
  ),
  _row(
    name="skew_rkl",
    builder="jdistill.methods.language.divergences:skew_rkl",
    toy={"objective": "loss/skew_rkl", "kind": "rows"},
    **_DISTILLM,
  ),
  _row(
    name="tvd",
    title="f-Divergence Minimization for Sequence-Level Knowledge Distillation",
    authors="Yuqiao Wen and Zichao Li and Wenyu Du and Lili Mou",
    venue="ACL 2023",
    arxiv="2307.15190",
    builder="jdistill.methods.language.divergences:tvd",
    toy={"objective": "loss/tvd", "kind": "rows"},
  ),
  _row(
    name="taid",
    title="TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language Models",
    authors="Makoto Shing and Kou Misaki and Han Bao and Sho Yokoi and Takuya Akiba",
    venue="ICLR 2025",
    arxiv="2501.16937",
    builder="jdistill.methods.language.taid:taid",
    test="tests/methods/test_taid.py",
    toy={"objective": "method/kl_to_target", "kind": "rows", "t_start": 0.99, "steps": 30},
  ),
)
