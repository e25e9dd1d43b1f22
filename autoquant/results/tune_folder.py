"""What `autoquant tune` writes into the output folder."""

from __future__ import annotations

from pathlib import Path

from autoquant.core.findings.tuning import TuneReport
from autoquant.results import files
from autoquant.results.plan_file import plan_file_text
from autoquant.results.storage import write_json, write_text
from autoquant.results.tune_report import tune_json, tune_markdown


def write_tuning(folder: Path, report: TuneReport, name: str) -> None:
    """Write `tune.json`, `tune.md`, and the plan where there is one, `tuned.json`."""
    write_json(folder / files.TUNE, tune_json(report))
    write_text(folder / files.TUNE_REPORT, tune_markdown(report, name))
    if report.plan is not None:
        write_text(folder / files.TUNED, plan_file_text(report.plan))
    else:
        (folder / files.TUNED).unlink(missing_ok=True)
