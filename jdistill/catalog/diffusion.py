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
_msd = functools.partial(
  _row,
  title="Multi-student Diffusion Distillation for Better One-step Generators",
  authors="Yanke Song and Jonathan Lorraine and Weili Nie and Karsten Kreis and James Lucas",
  venue="ICML 2025",
  arxiv="2410.23274",
  test="tests/methods/test_msd.py",
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
    toy={"sample_steps": 2} | _ADVERSARIAL,
  ),
  _row(
    name="disback",
    title="Distribution Backtracking Builds A Faster Convergence Trajectory for Diffusion Distillation",
    authors="Shengyuan Zhang and Ling Yang and Zejian Li and An Zhao and Chenye Meng and Changyuan Yang and "
    "Guang Yang and Zhiyuan Yang and Lingyun Sun",
    venue="ICLR 2025",
    arxiv="2408.15991",
    builder="jdistill.methods.diffusion.disback:disback",
    test="tests/methods/test_disback.py",
    toy={"record_steps": 20, "record_interval": 10, "first": 20} | _ADVERSARIAL,
  ),
  _msd(
    name="msd",
    builder="jdistill.methods.diffusion.msd:msd",
    toy={"student_count": 2, "dm_weight": 0.0} | _ADVERSARIAL,
  ),
  _msd(
    name="tsm",
    builder="jdistill.methods.diffusion.msd:tsm",
    toy={"objective": "loss/tsm", "kind": "denoiser"},
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
  _row(
    name="echo_distill",
    title="EchoDistill: Bidirectional Concept Distillation for One-Step Diffusion Personalization",
    authors="Yixiong Yang and Tao Wu and Senmao Li and Shiqi Yang and Yaxing Wang and Joost van de Weijer and Kai Wang",
    venue="arXiv 2025",
    arxiv="2510.20512",
    builder="jdistill.methods.diffusion.echo_distill:echo_distill",
    test="tests/methods/test_echo_distill.py",
    tasks=("concept",),
    # the student moves, and with it the losses between it and what follows it: the teacher's must fall
    toy={"objective": "loss/denoise", "kind": "denoiser", "student_start": "random", "trainable": ("film", "head")}
    | {"scales": (1,), "critic_augment": "none", "echo_start": 5, "echo_interval": 2},
  ),
  _row(
    name="sedd",
    title="Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution",
    authors="Aaron Lou and Chenlin Meng and Stefano Ermon",
    venue="ICML 2024",
    arxiv="2310.16834",
    builder="jdistill.methods.diffusion.sedd:sedd",
    test="tests/methods/test_sedd.py",
    tasks=("countdown",),
    toy={"objective": "loss/entropy", "kind": "score"},
  ),
  _row(
    name="lsd",
    title="Learnable Sampler Distillation for Discrete Diffusion Models",
    authors="Feiyang Fu and Tongxian Guo and Zhaoqiang Liu",
    venue="NeurIPS 2025",
    arxiv="2509.19962",
    builder="jdistill.methods.diffusion.sedd:lsd",
    test="tests/methods/test_sedd.py",
    tasks=("countdown",),
    # most of the loss is the noise of two independent runs: what falls is the part that coefficients can take away
    toy={"objective": "loss/excess", "kind": "score", "sampler_steps": 2, "teacher_steps": 8, "relative": True}
    | {"t_min": 0.01},
  ),
)
