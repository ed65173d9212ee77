"""Data-set distillation."""

from jdistill.catalog.row import Row

_START = "jdistill.synthetic.initialise:start"
_SEGMENTS = {"stream": "jdistill.teachers.segments:segments", "start": _START}
_MATCHED = ("teachers", "distill", "evaluate", "export", "report")

ROWS = (
  Row(
    name="datm",
    family="dataset",
    title="Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching",
    authors="Ziyao Guo and Kai Wang and George Cazenavette and Hui Li and Kaipeng Zhang and Yang You",
    venue="ICLR 2024",
    arxiv="2310.05773",
    builder="jdistill.methods.dataset.trajectory:trajectory_method",
    stages=_MATCHED,
    test="tests/methods/test_trajectory.py",
    toy={"kind": "trajectory", "objective": "match/loss"},
    parts=_SEGMENTS,
    values={"augment": "color_crop_cutout_flip_scale_rotate"},
    keep="trajectory",
  ),
  Row(
    name="mtt",
    family="dataset",
    title="Dataset Distillation by Matching Training Trajectories",
    authors="George Cazenavette and Tongzhou Wang and Antonio Torralba and Alexei A. Efros and Jun-Yan Zhu",
    venue="CVPR 2022",
    arxiv="2203.11932",
    builder="jdistill.methods.dataset.trajectory:trajectory_method",
    stages=_MATCHED,
    test="tests/methods/test_trajectory.py",
    toy={"kind": "trajectory", "objective": "match/loss"},
    parts=_SEGMENTS,
    values={
      "learn_labels": False,
      "threshold": None,
      "labels": "hard",
      "initial": "real",
      "augment": "color_crop_cutout_flip_scale_rotate",
    },
    keep="trajectory",
  ),
)
