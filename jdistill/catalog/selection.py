"""Selection of real examples."""

from jdistill.catalog.row import Row

_STAGES = ("teachers", "select", "tune", "students", "report")

ROWS = (
  Row(
    name="rs2",
    family="selection",
    title="Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning",
    authors="Patrik Okanovic and Roger Waleffe and Vasilis Mageirakos and Konstantinos E. Nikolakakis and Amin Karbasi "
    "and Dionysis Kalogerias and Nezihe Merve Gürel and Theodoros Rekatsinas",
    venue="ICLR 2024",
    arxiv="2305.18424",
    builder="jdistill.data.policies:rs2",
    stages=_STAGES,
    test="tests/data/test_policies.py",
    toy={"kind": "policy"},
    policy=True,
  ),
  Row(
    name="rad",
    family="selection",
    title="Robust Active Distillation",
    authors="Cenk Baykal and Khoa Trinh and Fotis Iliopoulos and Gaurav Menghani and Erik Vee",
    venue="ICLR 2023",
    arxiv="2210.01213",
    builder="jdistill.methods.knowledge.active:rad",
    stages=("teachers", "active", "report"),
    test="tests/methods/test_active_recipes.py",
    toy={"objective": "loss/ce"},
    tasks=("active",),
  ),
  Row(
    name="activekd",
    family="selection",
    title="PCoreSet: Effective Active Learning through Knowledge Distillation from Vision-Language Models",
    authors="Seongjae Kang and Dong Bok Lee and Hyungjoon Jang and Dongseop Kim and Sung Ju Hwang",
    venue="arXiv 2025",
    arxiv="2506.00910",
    builder="jdistill.methods.knowledge.active:activekd",
    stages=("teachers", "active", "report"),
    test="tests/methods/test_active_recipes.py",
    toy={"objective": "loss/activekd"},
    tasks=("active",),
  ),
  Row(
    name="deepcore",
    family="selection",
    title="DeepCore: A Comprehensive Library for Coreset Selection in Deep Learning",
    authors="Chengcheng Guo and Bo Zhao and Yanbing Bai",
    venue="DEXA 2022",
    arxiv="2204.08499",
    builder="jdistill.data.policies:selected",
    stages=_STAGES,
    test="tests/stages/test_select.py",
    toy={"kind": "policy"},
    policy="selected",
  ),
  Row(
    name="kd_pruning",
    family="selection",
    title="Distilling the Knowledge in Data Pruning",
    authors="Emanuel Ben-Baruch and Adam Botach and Igor Kviatkovsky and Manoj Aggarwal and Gérard Medioni",
    venue="ICML 2025",
    arxiv="2403.07854",
    builder="jdistill.methods.knowledge.logits:kd_pruning",
    stages=_STAGES,
    test="tests/methods/test_kd_pruning.py",
    toy={"objective": "loss/kd", "alpha": 0.9},
    tasks=("supervised", "noisy_labels"),
  ),
)
