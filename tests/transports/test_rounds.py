"""The server's loop over clients in this process: resumed, with lost clients, and with damaged states."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import federated, models
from jdistill.base import Batch, UserError
from jdistill.methods.federated.fedavg import fedavg
from jdistill.stages import federation as stage
from jdistill.transports import Lost, Participant, Request, Session, Work, in_process, run_rounds
from jdistill.transports.rounds import round_key, score

RNG = np.random.default_rng(0)
SIZES = (6, 4, 5)
X = [RNG.normal(size=(n, 2, 2, 1)).astype(np.float32) for n in SIZES]
Y = [np.arange(n, dtype=np.int32) % 3 for n in SIZES]
DATA = federated.stacked_batches(list(zip(X, Y, strict=True)))
NETWORK = models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(4,))
METHOD = fedavg(NETWORK, 3, lr=0.2, local_batch=2, average="examples")
KEY = jax.random.key(5)


def data_of(k):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf[k]), DATA)


REPORT, UPLOAD, MESSAGE = stage.shapes(METHOD, data_of(0), 3)


def clients(directory):
  def work(k):
    split = Batch(X[k], Y[k], np.arange(SIZES[k], dtype=np.int32))
    return lambda name: Work(METHOD, NETWORK, data_of(k), {"validation": split}, lambda seed: KEY, MESSAGE)

  return [Participant(k, work(k), directory) for k in range(3)]


def session(directory, rounds=3, **changes):
  found = Session("toy", 0, rounds, 1.0, "validation", directory / "toy" / "seed0", "identity")
  return found._replace(**changes)


def train(directory, absent=lambda client, request: False, **changes):
  stop = changes.pop("stop", lambda: False)
  found = clients(directory)
  one = session(directory, **changes)
  return run_rounds(METHOD, in_process(found, absent), one, KEY, (REPORT, UPLOAD), stop=stop)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  return train(tmp_path_factory.mktemp("whole"))


def leaves(outcome):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(outcome.message)]


def same(a, b):
  assert all((x == y).all() for x, y in zip(leaves(a), leaves(b), strict=True))
  assert a.rows == b.rows and a.versions == b.versions


def test_the_loop_is_the_joint_method(whole):
  """One program over stacked clients and three programs on one client after another."""
  method = federated.joint_method(METHOD, 3)
  state = jax.jit(method.init)(round_key(KEY, 0), DATA)
  step = jax.jit(method.step)
  for number in range(3):
    state, metrics = step(round_key(KEY, number + 1), state, DATA)
  want = jax.tree.leaves(method.result(state))
  found = jax.tree.leaves(whole.message["variables"])
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(whole.rows[-1]["loss/ce"], metrics["loss/ce"], rtol=1e-5)
  assert whole.versions == [3, 3, 3] and whole.rows[0]["clients"] == [0, 1, 2]
  assert whole.rows[-1]["count"] == {0: 6, 1: 4, 2: 5}


def test_a_stopped_training_goes_on_to_the_bit(whole, tmp_path):
  calls = itertools.count(1)
  first = train(tmp_path, stop=lambda: next(calls) == 2)
  assert first.stopped and len(first.rows) == 2
  same(train(tmp_path), whole)
  same(train(tmp_path), whole)  # nothing is left to do


def test_a_client_that_is_lost_in_a_round_is_missed_and_comes_back(whole, tmp_path):
  lost = lambda client, request: client == 1 and request.kind == "local" and request.round == 1  # noqa: E731
  found = train(tmp_path, lost)
  assert [row["clients"] for row in found.rows] == [[0, 1, 2], [0, 2], [0, 1, 2]]
  assert found.rows[0] == whole.rows[0] and found.rows[1] != whole.rows[1] and found.versions == [3, 3, 3]
  # the round without it is the mean of the others by their examples
  one = clients(tmp_path / "again")
  before = train(tmp_path / "again", lost, rounds=1)
  request = Request("local", "toy", 0, 1, 1, arrays=leaves(before))
  uploads = [one[k].answer(request).arrays for k in (0, 2)]
  after = train(tmp_path / "again", lost, rounds=2)
  want = [(6 * a + 5 * b) / 11 for a, b in zip(*uploads, strict=True)][1:]  # the first leaf counts examples
  for a, b in zip(jax.tree.leaves(after.message["variables"]), want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_round_without_anybody_ends_and_can_be_repeated(whole, tmp_path):
  with pytest.raises(Lost, match="round 2: none of 3 clients answered"):
    train(tmp_path, lambda client, request: request.kind == "local" and request.round == 1)
  same(train(tmp_path), whole)


def test_all_have_to_answer_before_the_first_round_and_at_the_end(whole, tmp_path):
  with pytest.raises(Lost, match="client 2: did not answer in 3 attempts"):
    train(tmp_path, lambda client, request: client == 2 and request.kind == "join")
  tries = itertools.count(1)
  once = lambda client, request: client == 2 and request.kind == "join" and next(tries) == 1  # noqa: E731
  same(train(tmp_path, once), whole)
  found = clients(tmp_path)
  shown = score(in_process(found), session(tmp_path), whole.message, whole.versions, "validation")
  assert shown["right"] == whole.rows[-1]["right"]
  with pytest.raises(Lost, match="client 0"):
    absent = in_process(found, lambda client, request: client == 0)
    score(absent, session(tmp_path), whole.message, whole.versions, "validation")


def test_some_of_the_clients_take_part(tmp_path):
  rows = train(tmp_path, participation=0.67, rounds=4).rows
  assert all(len(row["clients"]) == 2 for row in rows) and len({tuple(row["clients"]) for row in rows}) > 1


def test_damaged_and_foreign_states_are_refused(tmp_path):
  train(tmp_path, rounds=1)
  with pytest.raises(UserError, match=r"belongs to another training; delete .*seed0"):
    train(tmp_path, identity="other")
  client = tmp_path / "toy" / "seed0" / "client1" / "00001.npz"
  good = client.read_bytes()
  place = good.index(b"\x93NUMPY") + 128  # behind the header of its first array
  client.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
  with pytest.raises(UserError, match=r"00001.npz is damaged.*(delete|run again)"):
    train(tmp_path)
  client.write_bytes(good)
  server = tmp_path / "toy" / "seed0" / "server00001.npz"
  kept = server.read_bytes()
  server.write_bytes(kept[:-300] + bytes([kept[-300] ^ 1]) + kept[-299:])
  with pytest.raises(UserError, match=r"server's state of round 1 is damaged; delete"):
    train(tmp_path)
  server.write_bytes(kept)
  record = tmp_path / "toy" / "seed0" / "server.json"
  record.write_text(record.read_text().replace('"rounds": 1', '"rounds": 2'))
  with pytest.raises(UserError, match=r"server.json is damaged or was edited.*delete .*seed0"):
    train(tmp_path)
