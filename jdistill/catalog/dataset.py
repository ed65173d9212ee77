"""Data-set distillation."""

import functools

from jdistill.catalog.row import Row

_START = "jdistill.synthetic.initialise:start"
_AUGMENT = "color_crop_cutout_flip_scale_rotate"
_row = functools.partial(Row, family="dataset")
_trajectory = functools.partial(
  _row,
  builder="jdistill.methods.dataset.trajectory:trajectory_method",
  stages=("calibrate", "teachers", "distill", "evaluate", "export", "report"),
  test="tests/methods/test_trajectory.py",
  toy={"kind": "trajectory", "objective": "match/loss"},
  parts={"stream": "jdistill.methods.dataset.segments:segments", "start": _START},
  keep="trajectory",
  calibration="jdistill.calibration.trajectory:CALIBRATION",
)
_MTT = {"learn_labels": False, "threshold": None, "labels": "hard", "initial": "real", "augment": _AUGMENT}

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
    values=_MTT,
  ),
  _trajectory(
    name="tesla",
    title="Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory",
    authors="Justin Cui and Ruochen Wang and Si Si and Cho-Jui Hsieh",
    venue="ICML 2023",
    arxiv="2211.10586",
    test="tests/methods/test_tesla.py",
    values=_MTT,
    gradient="tesla",
  ),
  _trajectory(
    name="ftd",
    title="Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation",
    authors="Jiawei Du and Yidi Jiang and Vincent Y. F. Tan and Joey Tianyi Zhou and Haizhou Li",
    venue="CVPR 2023",
    arxiv="2211.11004",
    test="tests/methods/test_ftd.py",
    values=_MTT | {"ema_decay": 0.9995},
  ),
  _trajectory(
    name="ast",
    title="AST: Effective Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories",
    authors="Jiyuan Shen and Wenzhuo Yang and Kwok-Yan Lam",
    venue="arXiv preprint 2023",
    arxiv="2310.10541",
    test="tests/methods/test_ast.py",
    values=_MTT
    | {
      "initial": "representative",
      "inner_momentum": 0.9,
      "intermediate": "equal",
      "balance": True,
      "perturbation": 1.0,
    },
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
    parts={"stream": "jdistill.methods.dataset.by_class:real_batches", "start": _START},
    values={"initial": "real", "labels": "hard", "augment": _AUGMENT},
  ),
  _row(
    name="dc",
    title="Dataset Condensation with Gradient Matching",
    authors="Bo Zhao and Konda Reddy Mopuri and Hakan Bilen",
    venue="ICLR 2021",
    arxiv="2006.05929",
    builder="jdistill.methods.dataset.dc:dc",
    stages=("distill", "evaluate", "export", "report"),
    test="tests/methods/test_dc.py",
    toy={"kind": "matching", "objective": "match/loss", "outer_loop": 4, "inner_epochs": 2},
    parts={"stream": "jdistill.methods.dataset.by_class:real_batches", "start": _START},
    values={"initial": "noise", "labels": "hard"},
  ),
  _row(
    name="datadam",
    title="DataDAM: Efficient Dataset Distillation with Attention Matching",
    authors="Ahmad Sajedi and Samir Khaki and Ehsan Amjadian and Lucy Z. Liu and Yuri A. Lawryshyn and "
    "Konstantinos N. Plataniotis",
    venue="ICCV 2023",
    arxiv="2310.00093",
    builder="jdistill.methods.dataset.datadam:datadam",
    stages=("distill", "evaluate", "export", "report"),
    test="tests/methods/test_datadam.py",
    toy={"kind": "matching", "objective": "match/loss", "networks": "deep"},
    parts={"stream": "jdistill.methods.dataset.by_class:real_batches", "start": _START},
    values={"initial": "real", "labels": "hard", "augment": _AUGMENT},
  ),
  _row(
    name="fyi",
    title="FYI: Flip Your Images for Dataset Distillation",
    authors="Byunggwan Son and Youngmin Oh and Donghyeon Baek and Bumsub Ham",
    venue="ECCV 2024",
    arxiv="2407.08113",
    builder="jdistill.methods.dataset.dm:dm",
    stages=("distill", "evaluate", "export", "report"),
    test="tests/methods/test_fyi.py",
    toy={"kind": "matching", "objective": "match/loss"},
    parts={"stream": "jdistill.methods.dataset.by_class:real_batches", "start": _START},
    values={"initial": "real", "labels": "hard", "augment": _AUGMENT, "view": "flip"},
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
