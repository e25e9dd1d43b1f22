"""Where mistakes are made: an empty folder, a good job, a finished search."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import autoquant as aq
from autoquant.cli import main
from autoquant.results import files
from autoquant.results.history import read_history
from tests import faulty

FAULTY = "tests.faulty:"


def write_job(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write a good job with some sections changed; None removes one."""
    document: dict[str, Any] = {
        "name": "job",
        "model": {"entry": FAULTY + "good_model"},
        "data": {
            "calibration": FAULTY + "good_data",
            "evaluation": FAULTY + "good_data",
            "metric": FAULTY + "good_metric",
        },
        "sensitivity": {"samples": 16},
        "backend": {"engine": "fbgemm", "pairs": 3},
        "space": {"schemes": ["int8", "fp32"]},
        "objectives": ["output_error", "bops"],
        "constraints": {"accuracy_drop": None},
        "budget": {"trials": 4, "round_size": 4},
        "execution": {"kind": "local"},
        "tracking": {"enabled": False},
        "output": str(folder / "out"),
    }
    for key, value in (changes or {}).items():
        both = isinstance(value, dict) and isinstance(document.get(key), dict)
        document[key] = document[key] | value if both and key != "space" else value
    for key in [key for key, value in document.items() if value is None]:
        del document[key]
    (folder / "entry.py").write_text("def build():\n    return None\n")
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def search(**changes: Any) -> aq.SearchResult:
    """A good search from Python, with some arguments changed."""
    arguments: dict[str, Any] = {
        "model": faulty.good_model(),
        "calibration": faulty.good_data(),
        "evaluation": faulty.good_data(),
        "metric": faulty.good_metric,
        "backend": {"engine": "fbgemm", "pairs": 3},
        "trials": 4,
        "space": {"schemes": ["int8", "fp32"]},
        "objectives": ("output_error", "bops"),
        "max_drop": None,
        "sensitivity": {"samples": 16},
    }
    return aq.search(**(arguments | changes))


@dataclass(frozen=True)
class Stage:
    """What a scene plays on.

    Attributes:
        folder: Empty.
        origin: The folder of a job and its finished search, in which some candidates failed.
        capsys: Takes what the command line prints.
    """

    folder: Path
    origin: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def out(self) -> Path:
        """The result folder of the finished search: a copy, to be damaged, without checksums."""
        copy = self.folder / "out"
        if not copy.exists():
            shutil.copytree(self.origin / "out", copy)
            (copy / files.MANIFEST).unlink()
        return copy

    def write(self, name: str, text: str) -> Path:
        """Put a file into the empty folder."""
        path = self.folder / name
        path.write_text(text)
        return path

    def damage(self, name: str, text: str) -> Path:
        """Overwrite a file of the finished search; gives its folder."""
        (self.out / name).write_text(text)
        return self.out

    def command(self, *words: object) -> str:
        """Run a command that must end with exit code 2; gives what stands on stderr."""
        code = main([str(word) for word in words])
        text = self.capsys.readouterr().err
        assert code == 2, text
        assert "Traceback" not in text
        return text

    def resume(self, *words: object) -> str:
        """Resume the finished search, which must be refused; gives what stands on stderr."""
        job = self.origin / "job.yaml"
        return self.command("search", job, "--resume", "--set", f"output={self.out}", *words)

    def failures(self, changes: dict[str, Any]) -> str:
        """Search a job of which some candidates fail and others do not; gives the reasons kept."""
        job = write_job(self.folder, changes)
        assert main(["search", str(job)]) == 0
        failures = [item.failure for item in read_history(self.folder / "out" / "history.jsonl")]
        assert None in failures
        shown = self.capsys.readouterr().err
        reasons = [failure.reason for failure in failures if failure is not None]
        assert all(reason in shown for reason in reasons)
        return "\n".join(reasons)

    def raised(self, call: Callable[[], object]) -> str:
        """Call something that must raise an error of autoquant; gives its text."""
        with pytest.raises(aq.AutoquantError) as caught:
            call()
        return str(caught.value)

    def refused_search(self, **changes: Any) -> str:
        """Search from Python with bad arguments; gives the error's text."""
        return self.raised(lambda: search(output=self.folder / "out", **changes))
