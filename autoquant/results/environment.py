"""The environment of a search: versions, machine and revision, for the record."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autoquant import __version__

_PACKAGES = ("torch", "numpy", "optuna", "ray", "mlflow")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_int8")
_FEATURES = ("asimddp", "i8mm", "bf16", "sve")
TIMED_ON = "timed_on"
"""In an environment: the machine on which times are taken."""

_GIT_SECONDS = 10.0


def describe_environment(folder: Path | None = None) -> dict[str, Any]:
    """Describe where the search runs, as JSON values.

    Args:
        folder: Whose git revision is recorded; the current folder by default.
    """
    return {
        "versions": _versions(),
        "platform": platform.platform(),
        "cpu": _cpu(Path("/proc/cpuinfo")),
        "git": _git(folder or Path.cwd()),
        TIMED_ON: describe_machine(),
    }


def describe_machine() -> dict[str, Any]:
    """Name this machine, its CPU's model, and its load over the last minute."""
    return {
        "host": platform.node(),
        "cpu": _cpu(Path("/proc/cpuinfo"))["model"],
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _versions() -> dict[str, str | None]:
    installed = {name: version_of(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "autoquant": __version__, **installed}


def version_of(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu(info: Path) -> dict[str, Any]:
    facts = _first_processor(info)
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return {
        "model": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": _usable_cores(),
        "flags": [name for name in (*_FLAGS, *_FEATURES) if name in flags],
    }


def _usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _first_processor(info: Path) -> Mapping[str, str]:
    """Read the first block of /proc/cpuinfo; empty where there is none."""
    try:
        block = info.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _git(folder: Path) -> dict[str, Any] | None:
    """Give revision and dirtiness; None outside a repository, before a commit, without git."""
    revision = _run_git(folder, "rev-parse", "HEAD")
    if not revision:
        return None
    changes = _run_git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def _run_git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
