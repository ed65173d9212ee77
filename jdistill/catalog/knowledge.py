"""Methods of knowledge distillation, and the settings (kinds of data and score) that they run in."""

from jdistill.catalog.row import Row

_KD = {"family": "knowledge", "stream_options": {}, "values": {}}

ROWS = (
  Row(
    name="ce",
    title="Rethinking the Inception Architecture for Computer Vision",
    authors="Christian Szegedy and Vincent Vanhoucke and Sergey Ioffe and Jonathon Shlens and Zbigniew Wojna",
    venue="CVPR 2016",
    arxiv="1512.00567",
    builder="jdistill.methods.knowledge.logits:ce",
    stream="supervised",
    config="experiments/ce.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
  Row(
    name="kd",
    title="Distilling the Knowledge in a Neural Network",
    authors="Geoffrey Hinton and Oriol Vinyals and Jeff Dean",
    venue="NIPS Deep Learning Workshop 2014",
    arxiv="1503.02531",
    builder="jdistill.methods.knowledge.logits:kd",
    stream="supervised",
    config="experiments/kd.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
  Row(
    name="dkd",
    title="Decoupled Knowledge Distillation",
    authors="Borui Zhao and Quan Cui and Renjie Song and Yiyu Qiu and Jiajun Liang",
    venue="CVPR 2022",
    arxiv="2203.08679",
    builder="jdistill.methods.knowledge.logits:dkd",
    stream="supervised",
    config="experiments/dkd.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
  Row(
    name="dist",
    title="Knowledge Distillation from A Stronger Teacher",
    authors="Tao Huang and Shan You and Fei Wang and Chen Qian and Chang Xu",
    venue="NeurIPS 2022",
    arxiv="2205.10536",
    builder="jdistill.methods.knowledge.logits:dist",
    stream="supervised",
    config="experiments/dist.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
  Row(
    name="pld",
    title="PLD: A Choice-Theoretic List-Wise Knowledge Distillation",
    authors="Ejafa Bassam and Dawei Zhu and Kaigui Bian",
    venue="NeurIPS 2025",
    arxiv="2506.12542",
    builder="jdistill.methods.knowledge.logits:pld",
    stream="supervised",
    config="experiments/pld.py",
    test="tests/methods/test_logits.py",
    **_KD,
  ),
)

# name -> the builder of a `jdistill.settings.Setting`
SETTINGS = {
  "supervised": "jdistill.settings.supervised:supervised",
}
