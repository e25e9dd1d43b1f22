"""What a search leaves: in its folder, in the tracker, and in the hands of who called it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autoquant.core.history import StopReason
from autoquant.core.progress import Progress
from autoquant.errors import BackendError
from autoquant.model.heap import free_large
from autoquant.results import files
from autoquant.results.findings import Findings, SearchFacts
from autoquant.results.folder import ResultFolder
from autoquant.results.forms import CALLING, EXAMPLE, FACTS, SITES, SPACE, STATISTICS
from autoquant.results.recorders import Tracker, Winner
from autoquant.results.report import render_report
from autoquant.searching.build_context import BuildContext, keep_example
from autoquant.searching.candidate import ResultCandidate
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.result import SearchResult

_ARTIFACTS = (files.FRONTIER, files.SENSITIVITY, files.REPORT)


def write_preparation(folder: ResultFolder, prepared: Preparation, facts: SearchFacts) -> None:
    """Write what resuming, loading and exporting need."""
    folder.write(FACTS, facts)
    folder.write(SITES, prepared.captured.sites)
    folder.write(SPACE, prepared.space)
    folder.write(STATISTICS, prepared.statistics)
    folder.write_build(prepared.settings.build)
    folder.write(EXAMPLE, keep_example(prepared.captured, prepared.subject.calibration[0]))
    dynamic = [list(axes) for axes in prepared.subject.dynamic]
    beside = {
        "dynamic": dynamic,
        "axes": prepared.subject.calibration[0].axes,
        "leaf_modules": prepared.captured.leaf_modules,
    }
    folder.write(CALLING, {**prepared.subject.calling.to_json(), **beside})


def write_findings(
    findings: Findings,
    prepared: Preparation,
    folder: ResultFolder,
    tracker: Tracker,
    progress: Progress,
) -> SearchResult:
    """Write and record what was found."""
    reason = findings.facts.stopped
    folder.write(FACTS, findings.facts)
    folder.write_frontier(findings.frontier, reason)
    result = SearchResult(findings, context_of(prepared), folder.path)
    with progress.stage("writing the report", None):
        folder.write_report(render_report(findings, folder.path))
        cut_off = reason in (StopReason.INTERRUPTED, StopReason.FAILED)
        models = {} if cut_off else _write_models(result, prepared, progress)
        folder.seal()
        for gap in tracker.finish(
            findings,
            artifacts=[path for name in _ARTIFACTS if (path := folder.path / name).exists()],
            models=models,
            winner=_winner(result, models),
        ):
            progress.note(gap)
    if reason is StopReason.INTERRUPTED:
        tracker.stop("interrupted")
    if reason is not None:
        progress.note(f"stopped: {reason.value}")
    return result


def _winner(result: SearchResult, models: Mapping[int, tuple[Path, ...]]) -> Winner | None:
    """The chosen member with its files, where a line of Python runs them."""
    chosen = result.findings.chosen
    files_of = models.get(chosen.number, ()) if chosen is not None else ()
    if chosen is None or not files_of:
        return None
    candidate = ResultCandidate(chosen, result.context)
    if candidate.recipe(files_of[0]) is None:
        return None
    example = tuple(item.cpu().numpy() for item in candidate.example)
    return Winner(files_of, lambda path: candidate.recipe(path) or "", example)


def _write_models(
    result: SearchResult, prepared: Preparation, progress: Progress
) -> dict[int, tuple[Path, ...]]:
    """Write the quantized model of every frontier member as the engine's file.

    A backend that builds nothing deployable has its plans alone.
    """
    backend, written = prepared.backend, {}
    for member in result.frontier:
        plan = files.plan_path(result.folder, member.number)
        if backend.suffix != plan.suffix:
            free_large(prepared.captured.float_bytes)
            try:
                path = plan.with_suffix(backend.suffix)
                backend.export(member.plan, path, member.metadata)
            except BackendError as error:
                progress.note(f"candidate {member.number} has no file: {error.message}")
        found = sorted(plan.parent.glob(f"{member.number}.*"))
        written[member.number] = tuple(path for path in found if path != plan)
    return written


def context_of(prepared: Preparation) -> BuildContext:
    """What it takes to build a plan of this search again."""
    return BuildContext(
        sites=prepared.captured.sites,
        leaf_modules=prepared.captured.leaf_modules,
        statistics=prepared.statistics,
        build=prepared.settings.build,
        example=keep_example(prepared.captured, prepared.subject.calibration[0]),
        calling=prepared.subject.calling,
        dynamic=prepared.subject.dynamic,
        axes=prepared.subject.calibration[0].axes,
        latency_batch=prepared.latency_batch,
        latency_threads=prepared.settings.latency_threads,
        weights=prepared.weights,
        load=lambda: prepared.subject.given or prepared.subject.model,
    )
