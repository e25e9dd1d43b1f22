"""A new user's first hour: lines of code, seconds to the first answer shown, and to the end.

    python scripts/bench/first_hour.py --venvs out/peers

Three models that `first_hour_subjects.py` makes, and for each tool the program in
`peer_runs/first_hour_*.py` that a new user would write after its documentation. Each runs in a
process of its own, one thread; seconds count from the moment when model and loader stand, so that
imports of the tool count and making the model does not; on a busy machine read the CPU seconds, of
the process itself (Linux alone tells them). *Answer*: the first line or figure of what a
quantized model scores or how fast it is; *emulated answer*: of one that reference numerics stand
for, where a tool says both. Peers are installed from the package registry into
environments of their own. Each tool runs once before, uncounted, so that none compiles its sources
to bytecode, as of what pip has installed nobody does.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from first_hour_subjects import ENCODER_PACKAGES
from peers import MODELOPT, NNCF, PATIENCE_S, ROOT, Peer, PeerFailedError, install
from report import Row, show

SUBJECTS = ("cnn", "detector", "minilm")
RUNS = ROOT / "scripts" / "bench" / "peer_runs"
INC = Peer("neural-compressor-pt", ("neural-compressor-pt", "requests"), "first_hour_inc.py")


def _with_encoder(peer: Peer) -> Peer:
    """A peer whose environment has what `minilm` needs, too."""
    return replace(peer, packages=(*peer.packages, *ENCODER_PACKAGES))


@dataclass(frozen=True)
class Tool:
    """A tool, and what its first answer looks like.

    Attributes:
        name: In the table.
        script: The user's program.
        answer: A pattern of the line that says what a quantized model scores.
        peer: Where it is installed; None: it is this checkout.
        emulated: A pattern of an earlier line, of what an emulated model scores.
    """

    name: str
    script: str
    answer: str
    peer: Peer | None
    emulated: str | None = None


TOOLS = (
    Tool(
        "autoquant",
        "first_hour_autoquant.py",
        r"best within the limit",
        None,
        emulated=r"^all int8, emulated",
    ),
    Tool(
        "NNCF, accuracy control",
        "first_hour_nncf.py",
        r"[Mm]etric of quantized model",
        _with_encoder(NNCF),
    ),
    Tool("neural-compressor", "first_hour_inc.py", r"Current / Status", _with_encoder(INC)),
    Tool("ModelOpt (simulates)", "first_hour_modelopt.py", r"^F1 ", _with_encoder(MODELOPT)),
)


@dataclass(frozen=True)
class Spent:
    """Seconds of the world and of a process's CPU time."""

    wall: float
    cpu: float

    @classmethod
    def by(cls, process: int) -> Spent:
        """What a process has spent; proc(5) has the places of utime and stime."""
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return cls(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"))

    def since(self, before: Spent) -> Spent:
        """The seconds between."""
        return Spent(self.wall - before.wall, self.cpu - before.cpu)


def count_lines(script: Path) -> int:
    """Lines of the user's own code, without blank ones, comments and docstrings."""
    text = script.read_text().partition("# the user's code")[2].partition("# the end of it")[0]
    lines = (line.strip() for line in text.splitlines())
    return sum(bool(line) and not line.startswith(("#", '"""')) for line in lines)


def measure(tool: Tool, subject: str, python: Path, patience_s: float) -> Row:
    """Run one tool on one model; what it says until it is stopped counts."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "scripts" / "bench")))
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    nothing_kept = {"XDG_CACHE_HOME": tempfile.mkdtemp()}  # a user's first search
    process = subprocess.Popen(
        [str(python), "-u", str(RUNS / tool.script), subject],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, **nothing_kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    limit = threading.Timer(patience_s, process.kill)
    limit.start()
    started, emulated, first, last = Spent(0.0, 0.0), None, None, ""
    ended = started
    assert process.stdout is not None
    for line in process.stdout:
        ended = Spent.by(process.pid)
        if not started.wall and line.strip() == "ready":
            started = ended
        elif emulated is None and tool.emulated and re.search(tool.emulated, line):
            emulated = ended.since(started)
        elif first is None and re.search(tool.answer, line):
            first = ended.since(started)
        last = line.strip() or last
    limit.cancel()
    ended = replace(ended, wall=time.perf_counter()).since(started)
    is_stopped = process.wait() == -signal.SIGKILL
    if process.returncode != 0 and not is_stopped:
        raise PeerFailedError(last)
    never = "not by then" if is_stopped else "at the end"
    return {
        "model": subject,
        "tool": tool.name,
        "lines": count_lines(RUNS / tool.script),
        "emulated answer, CPU s": "-" if emulated is None else round(emulated.cpu, 1),
        "answer, s": never if first is None else round(first.wall, 1),
        "answer, CPU s": never if first is None else round(first.cpu, 1),
        "end, s": f"{'> ' * is_stopped}{ended.wall:.1f}",
        "end, CPU s": f"{'> ' * is_stopped}{ended.cpu:.1f}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venvs", type=Path, default=ROOT / "out" / "peers")
    parser.add_argument("--models", nargs="+", default=SUBJECTS, choices=SUBJECTS)
    names = [tool.name for tool in TOOLS]
    parser.add_argument("--tools", nargs="+", default=names, choices=names)
    parser.add_argument(
        "--patience", type=float, default=PATIENCE_S, help="seconds a tool may take"
    )
    chosen = parser.parse_args()
    rows: list[Row] = []
    for tool in (item for item in TOOLS if item.name in chosen.tools):
        try:
            python = install(tool.peer, chosen.venvs) if tool.peer else Path(sys.executable)
        except PeerFailedError as error:
            rows.append({"model": "all", "tool": tool.name, "failure": str(error)[:100]})
            continue
        with suppress(PeerFailedError):  # which the counted run says
            measure(tool, chosen.models[0], python, chosen.patience)
        for subject in chosen.models:
            try:
                rows.append(measure(tool, subject, python, chosen.patience))
            except PeerFailedError as error:
                rows.append({"model": subject, "tool": tool.name, "failure": str(error)[:100]})
            print(rows[-1], flush=True)
    answers = ("emulated answer, CPU s", "answer, s", "answer, CPU s")
    times = (*answers, "end, s", "end, CPU s")
    heads = ("model", "tool", "lines", *times, "failure")
    show("first_hour", [{head: row.get(head, "-") for head in heads} for row in rows], None)


if __name__ == "__main__":
    main()
