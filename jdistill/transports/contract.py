"""What a transport carries: requests of the server and replies of clients, plain numbers and arrays."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jdistill.base import UserError

KINDS = ("describe", "join", "local", "score")


class Lost(UserError):
  """Clients that a round cannot go on without did not answer."""


class Request(NamedTuple):
  """What the server asks of one client.

  Attributes:
    kind: `"describe"`, `"join"`, `"local"` for a round, or `"score"`.
    work: which of the method's variants, by name.
    seed: of the training.
    round: the number of the round, from 0.
    version: of the client's state that it goes on from.
    split: the examples on which a network is scored.
    arrays: the leaves of the server's message.
  """

  kind: str
  work: str
  seed: int
  round: int = 0
  version: int = 0
  split: str = ""
  arrays: Sequence[np.ndarray] = ()


class Reply(NamedTuple):
  """What a client answers.

  Attributes:
    numbers: metrics or counts by name.
    arrays: the leaves of a report or an upload.
  """

  numbers: Mapping[str, float] = {}
  arrays: Sequence[np.ndarray] = ()


class Transport(NamedTuple):
  """The clients as the server reaches them.

  Attributes:
    clients: how many there are.
    ask: `(requests by client) -> replies` of those that answered. A client that is lost in between is left out, and is
      there again in a later call if it can be.
    close: ends all clients; may be called twice.
  """

  clients: int
  ask: Callable[[Mapping[int, Request]], dict[int, Reply]]
  close: Callable[[], None] = lambda: None
