"""Flags that are unknown, empty, twice, without a value, or that do not go together."""

import os
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.case import REPOSITORY, Action, Case, command

DATM = f"--config={REPOSITORY}/experiments/datm.py:tiny"
WORK = "--workdir={place}/work"

# name -> (arguments, what the message must contain)
_CASES: dict[str, tuple[list[str], list]] = {
  "nothing": ([], ["--config"]),
  "no experiment": ([WORK], ["--config"]),
  "override without experiment": (["--config.ipc=1", WORK], ["config.ipc", "--config"]),
  "empty experiment": (["--config=", WORK], ["--config"]),
  "experiment without value": (["--config"], ["--config"]),
  "experiment is a flag": (["--config", "--list"], ["--config"]),
  "no such experiment": (["--config=experiments/nope.py", WORK], ["experiments/nope.py"]),
  "experiment is a directory": ([f"--config={REPOSITORY}/experiments", WORK], ["experiments"]),
  "experiment is a picture": (["--config={place}/x.png", WORK], ["x.png"]),
  "experiment of another language": (["--config={place}/x.yaml", WORK], ["x.yaml"]),
  "experiment with a syntax error": (["--config={place}/syntax.py", WORK], ["syntax.py"]),
  "experiment without get_config": (["--config={place}/empty.py", WORK], ["empty.py"]),
  "experiment that gives a number": (["--config={place}/number.py", WORK], ["number.py"]),
  "experiment that gives nothing": (["--config={place}/none.py", WORK], ["none.py"]),
  "experiment that gives an empty one": (["--config={place}/hollow.py", WORK], [("hollow.py", "method")]),
  "experiment that raises": (["--config={place}/raises.py", WORK], ["raises.py"]),
  "experiment that exits": (["--config={place}/exits.py", WORK], ["exits.py"]),
  "experiment that cannot be read": (["--config={place}/latin.py", WORK], ["latin.py"]),
  "unknown preset": ([f"--config={REPOSITORY}/experiments/datm.py:tinny", WORK], ["tinny"]),
  "empty preset": ([f"--config={REPOSITORY}/experiments/datm.py:", WORK], ["datm.py:"]),
  "preset of a preset": ([f"--config={REPOSITORY}/experiments/datm.py:tiny:tiny", WORK], ["tiny:tiny"]),
  "line break in an experiment": (["--config=a\nb.py", WORK], ["--config"]),
  "unknown flag": ([DATM, "--wrokdir=x"], ["--wrokdir", "workdir"]),
  "unknown flag with nothing near": ([DATM, "--zzzzzz=1", WORK], ["--zzzzzz"]),
  "unknown negated flag": ([DATM, "--nolst", WORK], ["nolst"]),
  "one dash": ([DATM, "-zz", WORK], ["zz"]),
  "three dashes": ([DATM, "---workdir=x"], ["workdir"]),
  "line break in a flag": ([DATM, "--work\ndir=x"], ["--work"]),
  "word": ([DATM, "ipc=3", WORK], ["ipc=3"]),
  "word after dashes": ([DATM, WORK, "--", "more"], ["more"]),
  "empty word": ([DATM, WORK, ""], ["unexpected"]),
  "workdir without value": ([DATM, "--workdir"], ["workdir"]),
  "workdir is empty": ([DATM, "--workdir="], ["--workdir"]),
  "workdir is a file": ([DATM, "--workdir={place}/x.png"], ["--workdir", "x.png"]),
  "workdir below a file": ([DATM, "--workdir={place}/x.png/work"], ["x.png"]),
  "workdir is not empty": ([DATM, "--workdir={place}/full"], ["--workdir", "full"]),
  "workdir is a pipe": ([DATM, "--workdir={place}/pipe"], ["--workdir", "pipe"]),
  "workdir name too long": ([DATM, "--workdir={place}/" + 300 * "x"], ["--workdir"]),
  "workdir with a line break": ([DATM, "--workdir={place}/a\nb"], ["--workdir"]),
  "workdir in nobody's home": ([DATM, "--workdir=~nobody_of_that_name/x"], ["--workdir"]),
  "workdir in the kernel": ([DATM, "--workdir=/proc/nope"], ["/proc/nope"]),
  "artefacts are a file": ([DATM, WORK, "--artefacts={place}/x.png"], [("--artefacts", "x.png")]),
  "artefacts are a pipe": ([DATM, WORK, "--artefacts={place}/pipe"], [("--artefacts", "pipe")]),
  "artefacts below a file": ([DATM, WORK, "--artefacts={place}/x.png/a"], [("--artefacts", "x.png")]),
  "artefacts in the kernel": ([DATM, WORK, "--artefacts=/proc/nope"], [("--artefacts", "/proc/nope")]),
  "artefacts are empty": ([DATM, WORK, "--artefacts="], ["--artefacts"]),
  "artefacts without value": ([DATM, "--artefacts"], ["artefacts"]),
  "list of something": ([DATM, "--list=maybe"], ["list", "maybe"]),
  "dry run of something": ([DATM, WORK, "--dry_run=maybe"], ["dry_run", "maybe"]),
  "dry run of nothing": (["--dry_run"], ["--config"]),
  "topology without dry run": ([DATM, WORK, "--topology=v5e:2x4"], ["--topology", "--dry_run"]),
  "empty topology": ([DATM, WORK, "--dry_run", "--topology="], ["--topology"]),
  "unknown topology": ([DATM, WORK, "--dry_run", "--topology=v99:2x4"], ["--topology", "v99:2x4"]),
  "topology without value": ([DATM, "--dry_run", "--topology"], ["topology"]),
  "cache below a file": ([DATM, WORK, "--compilation_cache={place}/x.png/c"], ["--compilation_cache"]),
  "cache is a file": ([DATM, WORK, "--compilation_cache={place}/x.png"], ["--compilation_cache"]),
  "cache in the kernel": ([DATM, WORK, "--compilation_cache=/proc/nope"], ["--compilation_cache"]),
  "cache is empty": ([DATM, WORK, "--compilation_cache="], ["--compilation_cache"]),
  "coordinator alone": ([DATM, WORK, "--coordinator=localhost:1234"], ["--coordinator"]),
  "process count alone": ([DATM, WORK, "--num_processes=2"], ["--num_processes"]),
  "process index alone": ([DATM, WORK, "--process_id=0"], ["--process_id"]),
  "distributed and a coordinator": ([DATM, WORK, "--distributed", "--coordinator=h:1"], ["--distributed"]),
  "distributed of something": ([DATM, WORK, "--distributed=maybe"], ["distributed", "maybe"]),
  "configuration twice unset": ([DATM, WORK, "--config.nope=None"], ["config.nope"]),
  "unset section": ([DATM, WORK, "--config.method=None"], ["config.method"]),
  "unset below a number": ([DATM, WORK, "--config.ipc.x=None"], ["config.ipc.x"]),
  "wrong value after None": ([DATM, WORK, "--config.ipc=None", "--config.ipc=0"], ["ipc=0"]),
  "no key": ([DATM, WORK, "--config.=3"], ["config."]),
  "negated key": ([DATM, WORK, "--noconfig.ipc"], ["config.ipc"]),
  "negated unknown key": ([DATM, WORK, "--noconfig.nope"], ["config.nope"]),
  "key with a line break": ([DATM, WORK, "--config.ip\nc=3"], ["config.ip"]),
  "value with a line break": ([DATM, WORK, "--config.ipc=a\nb"], ["config.ipc"]),
  "value of a megabyte": ([DATM, WORK, "--config.ipc=" + 1_000_000 * "a"], ["config.ipc"]),
  "number of thousands of digits": ([DATM, WORK, "--config.ipc=" + 5000 * "9"], ["config.ipc"]),
  "bytes that are no text": ([DATM, WORK, "--config.dataset=\udcff\udcfe"], ["dataset"]),
  "nul": ([DATM, WORK, "--config.dataset=a\0b"], ["dataset"]),
  "nul in the workdir": ([DATM, "--workdir={place}/a\0b"], ["--workdir"]),
}
for _host in ("", "host", "host:", ":1", "host:0", "host:99999", "host:port", "a b:1", "http://h:1"):
  _three = [f"--coordinator={_host}", "--num_processes=2", "--process_id=0"]
  _CASES[f"coordinator is {_host!r}"] = ([DATM, WORK, *_three], ["--coordinator"])
for _count, _index in (("0", "0"), ("-1", "0"), ("2", "2"), ("2", "-1"), ("two", "0"), ("1.5", "0"), ("2", "one")):
  _three = ["--coordinator=localhost:1", f"--num_processes={_count}", f"--process_id={_index}"]
  _CASES[f"process {_index} of {_count}"] = ([DATM, WORK, *_three], [("num_processes", "process_id")])
for _size in ("0", "-1", "1000000", "abc", "1.5"):  # no small number, which some machines have
  for _axis in ("pool", "data"):
    _CASES[f"{_size} devices of {_axis}"] = ([DATM, WORK, f"--config.parallel.{_axis}={_size}"], [f"parallel.{_axis}"])

_EXPERIMENTS = {
  "syntax.py": b"def get_config(:\n",
  "empty.py": b"",
  "number.py": b"def get_config(preset=None):\n  return 3\n",
  "none.py": b"def get_config(preset=None):\n  return None\n",
  "hollow.py": b"import ml_collections\ndef get_config(preset=None):\n  return ml_collections.ConfigDict()\n",
  "raises.py": b"def get_config(preset=None):\n  raise KeyError('a\\nb')\n",
  "exits.py": b"import sys\nsys.exit(3)\n",
  "latin.py": b"x = '\xff\xfe'\n",
  "x.yaml": b"a: 1\n",
  "x.png": b"\x89PNG\r\n",
  "full/notes.txt": b"mine\n",
}


def cases() -> Iterator[Case]:
  """One for each line of the table above."""
  for name, (arguments, words) in _CASES.items():
    yield Case(f"flag/{name}", "flag", lambda place, arguments=arguments: _start(arguments, place), tuple(words))


def _start(arguments: list[str], place: Path) -> Action:
  for name, content in _EXPERIMENTS.items():
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).write_bytes(content)
  os.mkfifo(place / "pipe")
  return command(*(argument.replace("{place}", str(place)) for argument in arguments))
