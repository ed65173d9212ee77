"""Distillation of language models."""

import functools

from jdistill.catalog.row import Row

_row = functools.partial(
  Row,
  family="language",
  stages=("teachers", "select", "tune", "students", "report"),
  test="tests/methods/test_language_recipes.py",
  tasks=("language", "domains"),
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
_FUT = {
  "title": "Estimating the Effects of Sample Training Orders for Large Language Models without Retraining",
  "authors": "Hao Yang and Haoxuan Li and Mengyue Yang and Xu Chen and Mingming Gong",
  "venue": "arXiv 2025",
  "arxiv": "2505.22042",
  "builder": "jdistill.methods.language.fut:fut",
  "stages": ("orders", "report"),
  "test": "tests/orders/test_orders.py",
  "tasks": ("language", "supervised"),
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
  _row(
    name="teacher_hacking",
    title="On Teacher Hacking in Language Model Distillation",
    authors="Daniil Tiapkin and Daniele Calandriello and Johan Ferret and Sarah Perrin and Nino Vieillard and "
    "Alexandre Ramé and Mathieu Blondel",
    venue="ICML 2025",
    arxiv="2502.02671",
    builder="jdistill.methods.language.teacher_hacking:teacher_hacking",
    test="tests/methods/test_teacher_hacking.py",
    toy={
      "objective": "loss/divergence",
      "kind": "rows",
      "source": "student",
      "responses": None,
      "max_new": 3,
      "prompt": 1,
      "end_token": None,
    },
    tasks=("language", "oracle"),
  ),
  _row(
    name="grpo",
    title="DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    authors="Zhihong Shao and Peiyi Wang and Qihao Zhu and Runxin Xu and Junxiao Song and Xiao Bi and Haowei Zhang "
    "and Mingchuan Zhang and Y. K. Li and Y. Wu and Daya Guo",
    venue="arXiv 2024",
    arxiv="2402.03300",
    builder="jdistill.methods.language.grpo:grpo",
    test="tests/methods/test_grpo.py",
    toy={"objective": "method/wrong", "kind": "checked", "group_size": 8, "max_new": 2, "end_token": 4},
    tasks=("arithmetic",),
  ),
  _row(
    name="dump",
    title="DUMP: Automated Distribution-Level Curriculum Learning for RL-based LLM Post-training",
    authors="Zhenting Wang and Guofeng Cui and Yu-Jhe Li and Kun Wan and Wentian Zhao",
    venue="arXiv 2025",
    arxiv="2504.09710",
    builder="jdistill.methods.language.dump:dump",
    test="tests/methods/test_dump.py",
    toy={"kind": "policy"},
    policy=True,
    tasks=("arithmetic",),
  ),
  _row(
    name="ddk",
    title="DDK: Distilling Domain Knowledge for Efficient Large Language Models",
    authors="Jiaheng Liu and Chenchen Zhang and Jinyang Guo and Yuanxing Zhang and Haoran Que and Ken Deng and "
    "Zhiqi Bai and Jie Liu and Ge Zhang and Jiakai Wang and Yanan Wu and Congnan Liu and Jiamang Wang and Lin Qu and "
    "Wenbo Su and Bo Zheng",
    venue="NeurIPS 2024",
    arxiv="2407.16154",
    builder="jdistill.methods.language.ddk:ddk",
    test="tests/methods/test_ddk.py",
    toy={"kind": "policy"},
    policy=True,
  ),
  _row(
    name="miniplm",
    title="MiniPLM: Knowledge Distillation for Pre-Training Language Models",
    authors="Yuxian Gu and Hao Zhou and Fandong Meng and Jie Zhou and Minlie Huang",
    venue="ICLR 2025",
    arxiv="2410.17215",
    builder="jdistill.data.policies:selected",
    test="tests/selection/test_corpus.py",
    toy={"kind": "policy"},
    policy="selected",
  ),
  _row(
    name="frontier_kd",
    title="Knowledge Distillation Using Frontier Open-source LLMs: Generalizability and the Role of Synthetic Data",
    authors="Anup Shirgaonkar and Nikhil Pandey and Nazmiye Ceren Abay and Tolga Aktas and Vijay Aski",
    venue="arXiv 2024",
    arxiv="2410.18588",
    builder="jdistill.methods.language.frontier_kd:frontier_kd",
    test="tests/methods/test_frontier_kd.py",
    toy={"objective": "loss/ce", "kind": "rows", "prompts": "direct", "max_new": 3, "end_token": 4},
    tasks=("prompt_pairs",),
  ),
  _row(
    name="sources",
    title="Not All Correct Answers Are Equal: Why Your Distillation Source Matters",
    authors="Xiaoyu Tian and Yunjie Ji and Haotian Wang and Shuaiting Chen and Sitong Zhao and Yiping Peng and "
    "Han Zhao and Xiangang Li",
    venue="arXiv 2025",
    arxiv="2505.14464",
    builder="jdistill.methods.language.divergences:sft",
    test="tests/evaluation/test_response_sources.py",
    toy={"objective": "loss/ce", "kind": "rows"},
    tasks=("traces",),
  ),
  _row(
    name="ded",
    title="Beyond Scaling Law: A Data-Efficient Distillation Framework for Reasoning",
    authors="Xiaojun Wu and Xiaoguang Jiang and Huiyang Li and Jucai Zhai and Dengfeng Liu and Qiaobo Hao and "
    "Huang Liu and Zhiguo Yang and Ji Xie and Ninglun Gu and Jin Yang and Kailai Zhang and Yelun Bao and Jun Wang",
    venue="arXiv 2025",
    arxiv="2508.09883",
    builder="jdistill.data.policies:selected",
    test="tests/selection/test_ded.py",
    toy={"kind": "policy"},
    policy="selected",
    tasks=("candidates",),
  ),
  _row(name="fut", toy={"objective": "loss/ce", "kind": "orders"}, **_FUT),
  _row(
    name="fut_plus_plus",
    toy={"objective": "loss/ce", "kind": "orders", "expansion": 2},
    values={"expansion": 2},
    **_FUT,
  ),
)
