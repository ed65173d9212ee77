"""Clients in processes of their own, reached by Flower over gRPC; needs the extra `federated`.

The server starts Flower's gRPC service and one process per client. A process tells its number and a secret of this
server when it is asked for its properties. One that ends, or does not answer in time, is left out of the round and
started again for the next.
"""

import contextlib
import importlib.util
import logging
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.transports.contract import Lost, Reply, Request, Transport

_SECRET = "JDISTILL_FEDERATION"  # of this server, in the environment of its clients
_START_SECONDS = 120.0  # a client has to import JAX and to read its data
_TEXT = ("kind", "work", "split")


def check_installed() -> None:
  """Refuses to go on without Flower.

  Raises:
    UserError: it is not installed.
  """
  if importlib.util.find_spec("flwr") is None:
    raise UserError(
      "transport.name='flower': flwr is not installed; pip install 'jdistill[federated]', or set "
      "transport.name='in_process' for the same numbers"
    )


def _quiet() -> None:
  """Flower sends usage figures unless it is told not to, and reports every message; gRPC reports every lost client."""
  os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
  import flwr.common  # noqa: F401  (sets its level)

  for name in ("flwr", "grpc._server"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


class _How(NamedTuple):
  """Seconds for an answer, restarts of each process, what its environment has besides, and who is told."""

  timeout: float
  restarts: int
  environment: Mapping[str, str]
  log: Callable[[str], None]


class _Flower:
  """Flower's service, and the processes of the clients."""

  def __init__(self, command: Callable[[int, str], Sequence[str]], logs: Path, clients: int, how: "_How"):
    _quiet()
    from flwr.server import SimpleClientManager
    from flwr.server.superlink.fleet.grpc_bidi.grpc_server import start_grpc_server

    self._command, self._logs, self._clients, self._how = command, logs, clients, how
    self._left = dict.fromkeys(range(clients), how.restarts)
    self._address, self._secret = f"127.0.0.1:{_free_port()}", secrets.token_hex(16)
    self._manager = SimpleClientManager()
    self._server = start_grpc_server(self._manager, self._address)
    self._processes: dict[int, subprocess.Popen] = {}
    self._names: dict[str, int | None] = {}  # Flower's names of connections whose client is known; `None` for old ones

  def ask(self, requests: Mapping[int, Request]) -> dict[int, Reply]:
    """Replies of the clients that answered in time."""
    from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server.server import fit_clients

    proxies = self._ready(requests)
    instructions = []
    for k, request in requests.items():
      parameters = ndarrays_to_parameters([np.asarray(array) for array in request.arrays])
      config = {name: value for name, value in request._asdict().items() if name != "arrays"}
      instructions.append((proxies[k], FitIns(parameters, config)))
    results, _ = fit_clients(instructions, max_workers=None, timeout=self._how.timeout, group_id=0)
    found = {}
    for proxy, result in results:
      found[self._names[proxy.cid]] = Reply(dict(result.metrics), parameters_to_ndarrays(result.parameters))
    for k in requests:
      if k not in found:
        self._how.log(f"client {k}: did not answer; the others go on without it")
        self._end(k)
    return dict(sorted(found.items()))

  def _ready(self, wanted: Mapping[int, Request]) -> dict[int, Any]:
    """Connections of some clients; those without one are started, as often as they may be."""
    begin, proxies = time.monotonic(), self._connected()
    for k in range(self._clients):
      if k in wanted and k not in proxies:
        self._start(k)
    while not set(wanted) <= set(proxies := self._connected()):
      for k in set(wanted) - set(proxies):
        if (status := self._processes[k].poll()) is not None:
          raise Lost(f"client {k}: its process ended with status {status} before it was connected; see {self._log(k)}")
      if time.monotonic() - begin > _START_SECONDS:
        missing = sorted(set(wanted) - set(proxies))
        raise Lost(f"client {missing[0]}: is not connected after {_START_SECONDS:.0f} s; see {self._log(missing[0])}")
      time.sleep(0.05)
    return proxies

  def _start(self, k: int) -> None:
    again = k in self._processes
    if again and not self._left[k]:
      raise Lost(f"client {k}: its process was lost once more than transport.restarts allows; see {self._log(k)}")
    self._end(k)
    self._left[k] -= again
    self._names = {name: None if own == k else own for name, own in self._names.items()}
    environment = os.environ | dict(self._how.environment) | {_SECRET: self._secret}
    self._logs.mkdir(parents=True, exist_ok=True)
    with open(self._log(k), "ab") as log:
      # in a session of its own: Ctrl-C asks this process to stop after the round, which needs the clients
      self._processes[k] = subprocess.Popen(
        self._command(k, self._address), env=environment, stdout=log, stderr=log, start_new_session=True
      )
    self._how.log(f"client {k}: process {self._processes[k].pid}{' in its place' if again else ''}")

  def _log(self, k: int) -> Path:
    """What the process of a client prints."""
    return self._logs / f"client{k}.log"

  def _connected(self) -> dict[int, Any]:
    """Flower's connections by client."""
    from flwr.common import GetPropertiesIns

    found = {}
    for name, proxy in list(self._manager.all().items()):
      if name not in self._names:
        with contextlib.suppress(Exception):  # whatever a broken connection raises: it is no client then
          properties = proxy.get_properties(GetPropertiesIns({}), timeout=30.0, group_id=0).properties
          if properties.get("secret") == self._secret:
            self._names[name] = int(properties["client"])
      k = self._names.get(name)
      if k is not None and self._processes[k].poll() is None:
        found[k] = proxy
    return found

  def _end(self, k: int) -> None:
    process = self._processes.get(k)
    if process is None:
      return
    process.terminate()
    try:
      process.wait(5)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()

  def close(self) -> None:
    """Ends the clients and the service."""
    from flwr.common import ReconnectIns

    for proxy in self._connected().values():
      with contextlib.suppress(Exception):  # whatever a connection raises that is broken already
        proxy.reconnect(ReconnectIns(None), timeout=5.0, group_id=None)
    for k in list(self._processes):
      self._end(k)
    self._processes = {}
    self._server.stop(grace=None)


def flower(
  command: Callable[[int, str], Sequence[str]],
  clients: int,
  logs: Path,
  *,
  timeout: float = 600.0,
  restarts: int = 3,
  environment: Mapping[str, str] | None = None,
  log: Callable[[str], None] = lambda line: None,
) -> Transport:
  """A transport over Flower, with a process for every client on this machine.

  Args:
    command: `(client, address) -> command line` of a process that calls `serve`.
    clients: how many.
    logs: directory for what their processes print.
    timeout: seconds that a client may take for an answer.
    restarts: how often a lost process is started again, for each client.
    environment: of their processes, besides that of this one.
    log: is told of processes that are started or lost.

  Raises:
    UserError: Flower is not installed.
  """
  check_installed()
  engine = _Flower(command, logs, clients, _How(timeout, restarts, environment or {}, log))
  return Transport(clients, engine.ask, engine.close)


def serve(client: int, address: str, answer: Callable[[Request], Reply]) -> None:
  """Answers a server until it ends: what the process of a client does.

  Args:
    client: its number.
    address: of the server, `"HOST:PORT"`.
    answer: what it does with a request.
  """
  check_installed()
  _quiet()
  from flwr.client import Client, start_client
  from flwr.common import Code, FitRes, GetPropertiesRes, Status, ndarrays_to_parameters, parameters_to_ndarrays

  class Own(Client):
    """Flower's view of the client."""

    def get_properties(self, ins):
      return GetPropertiesRes(Status(Code.OK, ""), {"client": client, "secret": os.environ.get(_SECRET, "")})

    def fit(self, ins):
      text = {name: str(ins.config[name]) for name in _TEXT}
      numbers = {name: int(ins.config[name]) for name in ("seed", "round", "version")}
      reply = answer(Request(**text, **numbers, arrays=parameters_to_ndarrays(ins.parameters)))
      arrays = ndarrays_to_parameters([np.asarray(array) for array in reply.arrays])
      return FitRes(Status(Code.OK, ""), arrays, 1, dict(reply.numbers))

  threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
  start_client(server_address=address, client=Own(), insecure=True, max_retries=3)


def _end_with(parent: int) -> None:
  """Ends this process with the one that started it, however that ends."""
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(0)


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]
