"""Data-set distillation."""

import functools

from jdistill.catalog.row import Row

_START = "jdistill.synthetic.initialise:start"
_AUGMENT = "color_crop_cutout_flip_scale_rotate"
_RANDOM = "jdistill.methods.dataset.batches:random_batches"
_row = functools.partial(Row, family="dataset")
_trajectory = functools.partial(
  _row,
  builder="jdistill.methods.dataset.trajectory:trajectory_method",
  stages=("teachers", "distill", "evaluate", "export", "report"),
  test="tests/methods/test_trajectory.py",
  toy={"kind": "trajectory", "objective": "match/loss"},
  parts={"stream": "jdistill.methods.dataset.segments:segments", "start": _START},
  keep="trajectory",
)

ROWS = (
  _trajectory(
    name="datm",
    title="Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching",
    authors="Ziyao Guo and Kai Wang and George Cazenavette and Hui Li and Kaipeng Zhang and Yang You",
    venue="ICLR 2024",
    arxiv="2310.05773",
    values={"augment": _AUGMENT},
  ),
  _trajectory(
    name="mtt",
    title="Dataset Distillation by Matching Training Trajectories",
    authors="George Cazenavette and Tongzhou Wang and Antonio Torralba and Alexei A. Efros and Jun-Yan Zhu",
    venue="CVPR 2022",
    arxiv="2203.11932",
    values={"learn_labels": False, "threshold": None, "labels": "hard", "initial": "real", "augment": _AUGMENT},
  ),
  _row(
    name="dm",
    title="Dataset Condensation with Distribution Matching",
    authors="Bo Zhao and Hakan Bilen",
    venue="WACV 2023",
    arxiv="2110.04181",
    builder="jdistill.methods.dataset.dm:dm",
    stages=("distill", "evaluate", "export", "report"),
    test="tests/methods/test_dm.py",
    toy={"kind": "matching", "objective": "match/loss"},
    parts={"stream": "jdistill.methods.dataset.dm:real_batches", "start": _START},
    values={"initial": "real", "labels": "hard", "augment": _AUGMENT},
  ),
  _row(
    name="kip",
    title="Dataset Meta-Learning from Kernel Ridge-Regression",
    authors="Timothy Nguyen and Zhourong Chen and Jaehoon Lee",
    venue="ICLR 2021",
    arxiv="2011.00050",
    builder="jdistill.methods.dataset.kip:kip",
    stages=("distill", "evaluate", "export", "report"),
    test="tests/methods/test_kip.py",
    toy={"kind": "regression", "objective": "krr/loss", "ridge": 1e-3},
    parts={"stream": _RANDOM, "start": _START},
    values={"initial": "real", "labels": "hard"},
  ),
  _row(
    name="frepo",
    title="Dataset Distillation using Neural Feature Regression",
    authors="Yongchao Zhou and Ehsan Nezhadarya and Jimmy Ba",
    venue="NeurIPS 2022",
    arxiv="2206.00719",
    builder="jdistill.methods.dataset.frepo:frepo",
    stages=("distill", "evaluate", "export", "report"),
    test="tests/methods/test_frepo.py",
    toy={"kind": "regression", "objective": "krr/error", "ridge": 0.1, "image_lr": 0.03, "pool_size": 3},
    parts={"stream": _RANDOM, "start": _START},
    values={"initial": "real", "labels": "hard"},
  ),
  _row(
    name="rcig",
    title="Dataset Distillation with Convexified Implicit Gradients",
    authors="Noel Loo and Ramin Hasani and Mathias Lechner and Daniela Rus",
    venue="ICML 2023",
    arxiv="2302.06755",
    builder="jdistill.methods.dataset.rcig:rcig",
    stages=("distill", "evaluate", "export", "report"),
    test="tests/methods/test_rcig.py",
    toy={
      "kind": "regression",
      "objective": "krr/loss",
      "l2": 1e-2,
      "image_lr": 0.03,
      "pool_size": 3,
      "inner_steps": 5,
      "solver_steps": 5,
      "tune_rates": False,
      "inner_lr": 0.03,
      "solver_lr": 0.3,
    },
    parts={"stream": _RANDOM, "start": _START},
    values={"initial": "real", "labels": "hard"},
  ),
  _row(
    name="sre2l",
    title="Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective",
    authors="Zeyuan Yin and Eric Xing and Zhiqiang Shen",
    venue="NeurIPS 2023",
    arxiv="2306.13092",
    builder="jdistill.methods.dataset.sre2l:sre2l",
    stages=("teachers", "distill", "relabel", "evaluate", "export", "report"),
    test="tests/methods/test_sre2l.py",
    toy={"kind": "recovery", "objective": "recover/loss"},
    parts={"stream": "jdistill.methods.dataset.sre2l:teacher_stream", "start": _START},
    values={"initial": "noise", "labels": "hard"},
  ),
)
