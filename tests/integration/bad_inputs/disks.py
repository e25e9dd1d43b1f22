"""Disks that are full or become full during a search: it stops, and can be resumed."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoquant.core.measurement import Candidate
from autoquant.core.progress import Silent
from autoquant.results import files
from autoquant.results.history import read_history
from tests.integration.bad_inputs.case import Scene
from tests.integration.bad_inputs.stage import Stage, search


class ActsAt(Silent):
    """Does something once, after some candidates."""

    def __init__(self, count: int, act: Callable[[], None]) -> None:
        self._left = count
        self._act = act

    def candidate(self, candidate: Candidate) -> None:  # noqa: ARG002
        self._left -= 1
        if self._left == 0:
            self._act()


@contextmanager
def disk_of(size: str, place: Path) -> Iterator[Path]:
    """A small file system of its own; skips the test where none can be mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    ballast = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(ballast, bytes(4096))
    except OSError:
        pass
    finally:
        os.close(ballast)


def stop_and_resume(
    stage: Stage, output: Path, act: Callable[[], None], mend: Callable[[], None]
) -> str:
    """Let a search fail in the middle, resume it, and see that nothing was lost."""
    whole = search(output=stage.folder / "whole", trials=8)
    text = stage.raised(lambda: search(output=output, trials=8, progress=ActsAt(2, act)))
    mend()
    before = read_history(output / files.HISTORY)
    assert 2 <= len(before) < 8
    resumed = search(output=output, trials=8, resume=True)
    assert [item.plan for item in resumed.candidates] == [item.plan for item in whole.candidates]
    assert resumed.findings.candidates[: len(before)] == before
    return text


def search_on_a_disk_that_fills_up(stage: Stage) -> str:
    with disk_of("80m", stage.folder / "disk") as disk:
        ballast = disk / "ballast"
        return stop_and_resume(stage, disk / "out", lambda: fill(ballast), ballast.unlink)


def search_below_a_limit_on_file_sizes(stage: Stage) -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    output = stage.folder / "out"

    def limit() -> None:
        size = (output / files.HISTORY).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 500, hard))

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        return stop_and_resume(stage, output, limit, lift)
    finally:
        lift()


def search_on_a_full_disk(stage: Stage) -> str:
    with disk_of("1m", stage.folder / "disk") as disk:
        return stage.raised(lambda: search(output=disk / "out"))


DISKS = [
    Scene(
        "disk-nearly-full",
        "less than 64 MiB left on the disk of `output`",
        "the disk of .../out has 1 MiB left; a search needs 64",
        "free space on that disk, or choose an output on another one",
        search_on_a_full_disk,
    ),
    Scene(
        "disk-full",
        "a disk that becomes full during a search",
        "cannot write .../out/...: No space left on device",
        "free space on that disk, then go on with --resume; what is finished is kept",
        search_on_a_disk_that_fills_up,
    ),
    Scene(
        "file-too-large",
        "a limit on the size of files (`ulimit -f`)",
        "cannot write .../out/...: File too large",
        "raise the limit on file sizes (ulimit -f), then go on with --resume",
        search_below_a_limit_on_file_sizes,
    ),
]
