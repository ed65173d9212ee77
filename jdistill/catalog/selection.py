"""Selection of real examples."""

from jdistill.catalog.row import Row

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
    stages=("teachers", "select", "tune", "students", "report"),
    test="tests/data/test_policies.py",
    toy={"kind": "policy"},
    policy=True,
  ),
)
