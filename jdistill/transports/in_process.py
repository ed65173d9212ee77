"""Clients in the server's own process, one after the other."""

from collections.abc import Callable, Mapping, Sequence

from jdistill.transports.contract import Reply, Request, Transport
from jdistill.transports.participant import Participant


def in_process(
  participants: Sequence[Participant], absent: Callable[[int, Request], bool] = lambda client, request: False
) -> Transport:
  """A transport that asks the clients itself.

  Args:
    participants: the clients, in order.
    absent: `(client, request) -> bool`: requests that are lost, for tests of what a federation does then.
  """

  def ask(requests: Mapping[int, Request]) -> dict[int, Reply]:
    return {k: participants[k].answer(request) for k, request in requests.items() if not absent(k, request)}

  return Transport(len(participants), ask)
