"""What a second search on the same model spends on its preparation, beside the first.

    python scripts/bench/second_search.py experiments/digits.yaml
    python scripts/bench/second_search.py experiments/resnet20_cifar10.yaml \
        --set model.arguments.folder=FOLDER --set data.arguments.folder=FOLDER \
        --set 'backend={name: openvino, batch_size: 64}'

The second search has another accuracy limit and another budget. Each runs in a process of its own,
beside a cache folder that was empty before the first. Preparation is everything before the uniform
plans, and the ranking after them; what loads the user's model and data is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from report import Row, show

from autoquant.core.progress import Advance, Silent
from autoquant.job.load import load_job
from autoquant.model.recipes import JobRecipe
from autoquant.searching.search import run_search

_USERS = "loading model and data"
_UNIFORM = "1 of 3: uniform plans"
_AFTER = "2 of 3: the program's plans"
_BETWEEN = "between stages"


class PreparedError(Exception):
    """The preparation is over: nothing more is wanted."""


class Watch(Silent):
    """Keeps the CPU seconds of each stage, and of what is between them; ends the search."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {_BETWEEN: 0.0}
        self._last = time.process_time()

    def _add(self, title: str) -> None:
        now = time.process_time()
        self.seconds[title] = self.seconds.get(title, 0.0) + now - self._last
        self._last = now

    @contextmanager
    def stage(self, title: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """Time a stage."""
        self._add(_BETWEEN)
        if title == _AFTER:
            raise PreparedError
        yield lambda steps: None
        self._add(title)

    def note(self, text: str) -> None:
        """Print it."""
        print("  " + text, file=sys.stderr)


def prepare_once(path: Path, overrides: list[str]) -> None:
    """Run a search until it is prepared; print the CPU seconds of its stages as JSON."""
    torch.set_num_threads(1)
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        own = [f"output={folder}/out", "tracking.enabled=false", "execution.kind=local"]
        job = load_job(path, [*overrides, *own])
        with suppress(PreparedError):
            run_search(job, JobRecipe(job), watch, resume=False)
    print(json.dumps(watch.seconds))


def measure(path: Path, overrides: list[str]) -> list[Row]:
    """Search twice; CPU seconds of each stage."""
    changes: tuple[list[str], ...] = ([], ["constraints.accuracy_drop=0.02", "budget.trials=20"])
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for change in changes:
            command = [sys.executable, __file__, str(path), "--once"]
            for item in [*overrides, *change]:
                command += ["--set", item]
            environment = {**os.environ, "XDG_CACHE_HOME": folder}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    first, second = found
    titles = [title for title in first | second if title not in (_USERS, _UNIFORM)]
    rows: list[Row] = [_row(title, first, second) for title in titles]
    sums = [{"together": sum(item.get(title, 0.0) for title in titles)} for item in found]
    return [*rows, _row("together", *sums)]


def _row(title: str, first: dict[str, float], second: dict[str, float]) -> Row:
    before, after = first.get(title, 0.0), second.get(title, 0.0)
    share = after / before if before else 0.0
    return {"stage": title, "first, CPU s": before, "second, CPU s": after, "share": share}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.once:
        prepare_once(arguments.job, arguments.overrides)
    else:
        show(str(arguments.job), measure(arguments.job, arguments.overrides), arguments.json)


if __name__ == "__main__":
    main()
