"""A finished search, read back from its folder without pickles."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoquant.core.calls import checked
from autoquant.job import load_job
from autoquant.model.data.calling import Calling
from autoquant.model.recipes import load_model
from autoquant.results import files
from autoquant.results.findings import WEIGHTS
from autoquant.results.forms import BUILD, CALLING, EXAMPLE, STATISTICS
from autoquant.results.reading import load_findings
from autoquant.results.storage import well_formed
from autoquant.results.trust import refuse_stranger
from autoquant.searching.build_context import BuildContext
from autoquant.searching.result import SearchResult


@checked
def load_result(folder: str | Path, *, trust: bool = False) -> SearchResult:
    """Read everything that a search found.

    Args:
        folder: The result folder.
        trust: Call the functions that its job names where a candidate needs the model, also
            where somebody else wrote it.

    Raises:
        StorageError: It holds no finished search, or a file of it is damaged.
    """
    folder = Path(folder)
    findings = load_findings(folder)
    with well_formed(folder / files.FACTS):
        latency_threads = int(findings.facts.settings.get("backend.threads") or 1)
        latency_batch = int(findings.facts.settings.get("latency_batch") or 1)
        weights = str(findings.facts.settings.get(WEIGHTS) or "")
        joined = str(findings.facts.settings["leaf_modules"])
    example = tuple(EXAMPLE.load(folder))
    known = CALLING.find(folder) or {}
    calling, dynamic, sample_axes = _calling_of(known, folder, example)
    with well_formed(folder / files.CALLING):  # older versions kept these paths joined alone
        paths = known.get("leaf_modules", filter(None, joined.split(",")))
        leaf_modules = tuple(str(path) for path in paths)
    context = BuildContext(
        sites=findings.sites,
        leaf_modules=leaf_modules,
        statistics=STATISTICS.load(folder),
        build=BUILD.load(folder),
        example=example,
        calling=calling,
        dynamic=dynamic,
        axes=sample_axes,
        latency_batch=latency_batch,
        latency_threads=latency_threads,
        weights=weights,
        load=partial(_load_model, folder, trust=trust),
    )
    return SearchResult(findings, context, folder)


def _load_model(folder: Path, *, trust: bool) -> nn.Module:
    """The model that the search's job names."""
    refuse_stranger(folder, trust=trust)
    return load_model(load_job(folder / files.JOB))


def _calling_of(
    known: Mapping[str, Any], folder: Path, example: tuple[Tensor, ...]
) -> tuple[Calling, tuple[tuple[int, ...], ...], tuple[int | None, ...] | None]:
    """How the model takes its inputs, which axes may change, and which of them count samples.

    Older versions knew tensors by place alone, and samples by the first axis.
    """
    if not known:
        return Calling.plain(len(example)), tuple((0,) for _ in example), None
    with well_formed(folder / files.CALLING):
        dynamic = tuple(tuple(int(axis) for axis in axes) for axes in known["dynamic"])
        counting = known.get("axes")
        axes = None if counting is None else tuple(None if i is None else int(i) for i in counting)
        if axes is not None and len(axes) != len(example):
            raise ValueError(f"{len(axes)} axes of {len(example)} tensors")
        return Calling.from_json(known), dynamic, axes
