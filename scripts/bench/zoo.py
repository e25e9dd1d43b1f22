"""Models of many makers through capture, and through whole searches on several backends.

    scripts/bench/zoo_setup out/zoo-venv
    out/zoo-venv/bin/python scripts/bench/zoo.py --capture
    out/zoo-venv/bin/python scripts/bench/zoo.py --backend openvino --names "ResNet-18" "GPT-2"

Each model runs in a process of its own with a limit in CPU time. Results are appended to
out/zoo/capture.jsonl and out/zoo/BACKEND.jsonl, where what stands there already is kept (--again
repeats it), and docs/models.md is written from them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from zoo_capture import capture_subject
from zoo_models.registry import SUBJECTS
from zoo_models.subject import Subject
from zoo_models.torchvision_ops import define_torchvision_ops
from zoo_page import write_page
from zoo_search import BACKENDS, WORKS, warm_up

Work = Callable[[Subject], dict[str, Any]]

_PATIENCE = 10
"""Seconds of a busy machine for each of CPU time."""

FOLDER = Path("out") / "zoo"
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capture", action="store_true", help="no search: what capture gives")
    parser.add_argument("--backend", nargs="+", default=[], choices=BACKENDS)
    parser.add_argument("--names", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--seconds", type=int, default=150, help="CPU time for one model")
    parser.add_argument("--again", action="store_true", help="repeat what has results")
    parser.add_argument("--page", action="store_true", help="nothing but docs/models.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    define_torchvision_ops()
    if not options.page:
        warm_up()
    FOLDER.mkdir(parents=True, exist_ok=True)
    works: dict[str, Work] = {"capture": capture_subject} if options.capture else {}
    works |= {backend: WORKS[backend] for backend in options.backend}
    for name in options.names:
        for what, work in {} if options.page else works.items():
            file = FOLDER / f"{what}.jsonl"
            if options.again or name not in read_results(file):
                result = _measure(name, work, options.seconds)
                with file.open("a") as stream:
                    stream.write(json.dumps(result) + "\n")
                print(what, name, result.get("failure", "done"), flush=True)
    searches = {backend: read_results(FOLDER / f"{backend}.jsonl") for backend in BACKENDS}
    PAGE.write_text(write_page(read_results(FOLDER / "capture.jsonl"), searches))


def read_results(file: Path) -> dict[str, dict[str, Any]]:
    """By name, the last result of each model."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {found["name"]: found for found in map(json.loads, lines)}


def _measure(name: str, work: Work, seconds: int) -> dict[str, Any]:
    """Run one model in a process of its own, forked from this one, which computes nothing."""
    forking = multiprocessing.get_context("fork")
    ours, theirs = forking.Pipe(duplex=False)
    child = forking.Process(target=_run, args=(name, work, seconds, theirs))
    started = time.monotonic()
    child.start()
    theirs.close()
    found: dict[str, Any] = {"failure": f"stopped after {seconds * _PATIENCE} s"}
    if ours.poll(seconds * _PATIENCE):
        try:
            found = ours.recv()
        except EOFError:
            child.join()
            is_late = child.exitcode == -signal.SIGXCPU
            died = f"the process died: exit {child.exitcode}"
            found = {"failure": f"stopped after {seconds} CPU s" if is_late else died}
    child.kill()
    child.join()
    subject = SUBJECTS[name]
    known = {"name": name, "source": subject.source, "real": subject.real, "version": _version()}
    return {**known, **found, "wall_seconds": round(time.monotonic() - started, 1)}


@cache
def _version() -> str:
    """The commit whose code is run, and whether files differ from it."""
    said = ("git", "describe", "--always", "--dirty")
    ran = subprocess.run(said, cwd=PAGE.parent, capture_output=True, text=True, check=False)
    return ran.stdout.strip()


def _run(name: str, work: Work, seconds: int, results: Connection) -> None:
    """Do the work of one process."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    try:
        found = work(SUBJECTS[name])
    except Exception as error:  # noqa: BLE001  whatever a model of somebody raises is a result
        found = {"failure": _said(error), "traceback": traceback.format_exc()[-3000:]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.send({**found, "peak_mb": round(peak)})


def _said(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


if __name__ == "__main__":
    main()
