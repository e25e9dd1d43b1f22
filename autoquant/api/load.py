"""A finished search, read back from its folder without pickles."""

from __future__ import annotations

from pathlib import Path

from autoquant.api.result import BuildContext, SearchResult, example_from
from autoquant.backends.torch_cpu.backend import engine_settings
from autoquant.core.kernels import Kernels
from autoquant.core.statistics import ObserverName
from autoquant.record import files
from autoquant.record.example_file import read_example
from autoquant.record.results import (
    load_addresses,
    load_findings,
    load_job_document,
    load_kernels,
    load_ranges,
    load_sites,
    load_statistics,
)
from autoquant.record.storage import well_formed


def load_result(folder: str | Path) -> SearchResult:
    """Read everything that a search found.

    Args:
        folder: The result folder.

    Raises:
        StorageError: It holds no finished search, or a file of it is damaged.
        JobError: Its `job.yaml` is no YAML any more.
    """
    folder = Path(folder)
    findings = load_findings(folder)
    job = load_job_document(folder)
    with well_formed(folder / files.JOB):
        observer = ObserverName(job["calibration"]["observer"])
        ranges = load_ranges(folder) if "percentile" in job["calibration"] else None
    with well_formed(folder / files.FACTS):
        engine = str(findings.facts.settings["engine"])
        reduce_range = bool(findings.facts.settings["reduce_range"])
        leaf_modules = str(findings.facts.settings["leaf_modules"]).split(",")
    context = BuildContext(
        sites=load_sites(folder),
        addresses=load_addresses(folder),
        leaf_modules=tuple(filter(None, leaf_modules)),
        statistics=load_statistics(folder),
        engine=engine,
        kernels=load_kernels(folder) if (folder / files.KERNELS).exists() else Kernels(),
        quantization=engine_settings(engine, observer, reduce_range, ranges),
        example=example_from(read_example(folder)),
    )
    return SearchResult(findings, context, folder)
