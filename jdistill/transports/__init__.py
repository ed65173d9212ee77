"""How rounds of a federation travel: the clients' side, the server's loop, and what carries their messages."""

from jdistill.transports.contract import Lost, Reply, Request, Transport
from jdistill.transports.in_process import in_process
from jdistill.transports.participant import Participant, Work
from jdistill.transports.rounds import Outcome, Session, run_rounds

__all__ = [
  "Lost",
  "Outcome",
  "Participant",
  "Reply",
  "Request",
  "Session",
  "Transport",
  "Work",
  "in_process",
  "run_rounds",
]
