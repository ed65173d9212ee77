"""Diffusion models and their distillation."""

import functools

from jdistill.catalog.row import Row

_row = functools.partial(
  Row,
  family="diffusion",
  stages=("teachers", "tune", "students", "report"),
  test="tests/methods/test_diffusion.py",
  tasks=("samples",),
)
# the samples move while the others follow them: only the critic's loss must fall
_ADVERSARIAL = {"objective": "loss/critic", "kind": "denoiser", "student_start": "random", "gan_weight": 0.1} | {
  "critic_weight": 1.0
}

ROWS = (
  _row(
    name="edm",
    title="Elucidating the Design Space of Diffusion-Based Generative Models",
    authors="Tero Karras and Miika Aittala and Timo Aila and Samuli Laine",
    venue="NeurIPS 2022",
    arxiv="2206.00364",
    builder="jdistill.methods.diffusion.denoise:edm",
    toy={"objective": "loss/denoise", "kind": "denoiser"},
  ),
  _row(
    name="dmd2",
    title="Improved Distribution Matching Distillation for Fast Image Synthesis",
    authors="Tianwei Yin and Michaël Gharbi and Taesung Park and Richard Zhang and Eli Shechtman and Fredo Durand and "
    "William T. Freeman",
    venue="NeurIPS 2024",
    arxiv="2405.14867",
    builder="jdistill.methods.diffusion.dmd2:dmd2",
    toy={"sample_steps": 2} | _ADVERSARIAL,
  ),
  _row(
    name="diff_instruct",
    title="Diff-Instruct: A Universal Approach for Transferring Knowledge From Pre-trained Diffusion Models",
    authors="Weijian Luo and Tianyang Hu and Shifeng Zhang and Jiacheng Sun and Zhenguo Li and Zhihua Zhang",
    venue="NeurIPS 2023",
    arxiv="2305.18455",
    builder="jdistill.methods.diffusion.dmd2:dmd2",
    values={"ratio": 1, "normalize": "none"},
    toy={"ratio": 5} | _ADVERSARIAL,
  ),
  _row(
    name="boot",
    title="BOOT: Data-free Distillation of Denoising Diffusion Models with Bootstrapping",
    authors="Jiatao Gu and Shuangfei Zhai and Yizhe Zhang and Lingjie Liu and Joshua M. Susskind",
    venue="ICML 2024",
    arxiv="2306.05544",
    builder="jdistill.methods.diffusion.trajectory:boot",
    toy={"objective": "loss/boundary", "kind": "denoiser", "student_start": "random"},
  ),
  _row(
    name="consistency",
    title="Consistency Models",
    authors="Yang Song and Prafulla Dhariwal and Mark Chen and Ilya Sutskever",
    venue="ICML 2023",
    arxiv="2303.01469",
    builder="jdistill.methods.diffusion.trajectory:consistency",
    toy={"objective": "loss/consistency", "kind": "denoiser", "student_start": "random"},
  ),
  _row(
    name="progressive",
    title="Progressive Distillation for Fast Sampling of Diffusion Models",
    authors="Tim Salimans and Jonathan Ho",
    venue="ICLR 2022",
    arxiv="2202.00512",
    builder="jdistill.methods.diffusion.trajectory:progressive",
    toy={"objective": "loss/progressive", "kind": "denoiser", "first_steps": 1},
  ),
)
