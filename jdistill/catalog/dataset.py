"""Methods of data-set distillation."""

from jdistill.catalog.row import Row

_SEGMENTS = {
  "gradient": "mixed",
  "window": None,
  "chunk_size": None,
  "initial": "correct",
  "labels": "soft",
  "lr_init": 0.01,
  "expert_epochs": 2,
  "min_start_epoch": 0,
  "current_start_epoch": None,
  "max_start_epoch": 20,
  "schedule_steps": 1000,
  "augment": "color_crop_cutout_flip_scale_rotate",
}

ROWS = (
  Row(
    name="datm",
    family="dataset",
    title="Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching",
    authors="Ziyao Guo and Kai Wang and George Cazenavette and Hui Li and Kaipeng Zhang and Yang You",
    venue="ICLR 2024",
    arxiv="2310.05773",
    builder="jdistill.methods.dataset:trajectory_method",
    stream="expert_segments",
    stream_options=_SEGMENTS,
    values={},
    config="experiments/datm.py",
    test="tests/methods/test_trajectory.py",
  ),
  Row(
    name="mtt",
    family="dataset",
    title="Dataset Distillation by Matching Training Trajectories",
    authors="George Cazenavette and Tongzhou Wang and Antonio Torralba and Alexei A. Efros and Jun-Yan Zhu",
    venue="CVPR 2022",
    arxiv="2203.11932",
    builder="jdistill.methods.dataset:trajectory_method",
    stream="expert_segments",
    stream_options=_SEGMENTS,
    values={"learn_labels": False, "threshold": None, "labels": "hard", "initial": "real"},
    config="experiments/mtt.py",
    test="tests/methods/test_trajectory.py",
  ),
)
