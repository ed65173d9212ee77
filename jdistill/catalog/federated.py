"""Learning on the data of several clients, which stay where they are."""

from jdistill.catalog.row import Row

_STAGES = ("federate", "report")
_TEST = "tests/methods/test_fedlgd.py"
_LOCAL = {"lr": 0.1, "local_epochs": 2, "local_batch": 4}

ROWS = (
  Row(
    name="fedavg",
    family="federated",
    title="Communication-Efficient Learning of Deep Networks from Decentralized Data",
    authors="H. Brendan McMahan and Eider Moore and Daniel Ramage and Seth Hampson and Blaise Agüera y Arcas",
    venue="AISTATS 2017",
    arxiv="1602.05629",
    builder="jdistill.methods.federated.fedavg:fedavg",
    stages=_STAGES,
    test=_TEST,
    toy={"kind": "federated", "objective": "loss/ce", **_LOCAL},
    tasks=("clients",),
  ),
  Row(
    name="fedprox",
    family="federated",
    title="Federated Optimization in Heterogeneous Networks",
    authors="Tian Li and Anit Kumar Sahu and Manzil Zaheer and Maziar Sanjabi and Ameet Talwalkar and Virginia Smith",
    venue="MLSys 2020",
    arxiv="1812.06127",
    builder="jdistill.methods.federated.fedavg:fedavg",
    stages=_STAGES,
    test=_TEST,
    toy={"kind": "federated", "objective": "loss/ce", **_LOCAL},
    values={"proximal": 0.01},
    tasks=("clients",),
  ),
  Row(
    name="fedlgd",
    family="federated",
    title="Federated Learning on Virtual Heterogeneous Data with Local-Global Distillation",
    authors="Chun-Yin Huang and Ruinan Jin and Can Zhao and Daguang Xu and Xiaoxiao Li",
    venue="TMLR 2024",
    arxiv="2303.02278",
    builder="jdistill.methods.federated.fedlgd:fedlgd",
    stages=_STAGES,
    test=_TEST,
    toy={
      "kind": "federated",
      "objective": "loss/ce",
      **_LOCAL,
      "virtual_ipc": 2,
      "warmup_steps": 3,
      "batch_real": 4,
      "refresh_every": 3,
      "refresh_steps": 2,
      "anchor_ipc": 2,
      "anchor_steps": 3,
    },
    tasks=("clients",),
  ),
)
