"""`autoquant sensitivity`: the ranking, and what stands out in it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoquant import metrics
from autoquant.analysis.exact import measure_exact
from autoquant.analysis.sensitivity import settle_procedure
from autoquant.analysis.trials import Trial
from autoquant.api.document import job_of, merge
from autoquant.api.metric_drops import measure_drops
from autoquant.api.pair import prepare_untimed
from autoquant.api.preparation import Preparation
from autoquant.api.sensitivity import question_of, rank_by_sensitivity
from autoquant.api.watch import Silent, Watch
from autoquant.core.dual import find_dual_ops
from autoquant.core.sensitivity import Part, Procedure, SensitivityTable
from autoquant.core.sensitivity_report import SensitivityReport
from autoquant.core.tail import Tail, read_tail, tail_of
from autoquant.errors import PlanError
from autoquant.job import Job, find_space_rules
from autoquant.model.picked import pick_samples
from autoquant.model.readings import DataForm, Prepare
from autoquant.model.subject import Metric, Subject, build_subject

METRIC_ROWS = 8
"""For how many rows the user's metric is measured unless the user says otherwise."""


def examine_sensitivity(
    job: Job,
    subject: Subject,
    watch: Watch,
    *,
    indices: Sequence[int] | None = None,
    metric_rows: int = METRIC_ROWS,
    needed: Sequence[str] = (),
) -> SensitivityReport:
    """Rank the knobs, and look for what stands out.

    Args:
        job: Space, engine, procedure and number of samples.
        subject: Model, data and metric.
        watch: Shown the progress.
        indices: Evaluation samples to look at; None: the first `sensitivity.samples` for output
            error, all for the metric.
        metric_rows: For how many of the noisiest rows the metric is measured.
        needed: Schemes that the space must leave to some op.

    Raises:
        DataError: An index is outside the data.
        PlanError: The space leaves a needed scheme to no op.
    """
    if indices is not None:
        subject = replace(subject, evaluation=pick_samples(subject.evaluation, indices))
        whole = job.sensitivity.model_copy(update={"samples": len(set(indices))})
        job = job.model_copy(update={"sensitivity": whole})
    prepared = prepare_untimed(job, subject, watch)
    _check_schemes(prepared, needed)
    table = rank_by_sensitivity(job, prepared, watch)
    return SensitivityReport(
        table=table,
        space=prepared.space,
        metric=measure_drops(prepared, table, metric_rows, watch),
        indices=None if indices is None else tuple(sorted(set(indices))),
        tail=_measure_tail(job, prepared, table, watch),
        dual=find_dual_ops(table, prepared.space.schemes[0]),
    )


def _check_schemes(prepared: Preparation, needed: Sequence[str]) -> None:
    known = [scheme.value for scheme in prepared.space.schemes]
    for name in needed:
        if name not in known:
            raise PlanError(
                f"no op of this model may take {name} here; what is left is {', '.join(known)}",
                hint="while latency is an objective, what the engine only emulates is left out: "
                "--set objectives=[output_error,bops]",
            )


def _measure_tail(
    job: Job, prepared: Preparation, table: SensitivityTable, watch: Watch
) -> Tail | None:
    """Measure the table's tail exactly: a gradient does not see what top-k and the like do."""
    scheme = prepared.space.schemes[0]
    names = tail_of(table, scheme)
    if job.sensitivity.method is Procedure.WEIGHTS_ONLY or not names:
        return None
    if settle_procedure(job.sensitivity.method, prepared.captured) is Procedure.ENGINE:
        rows = table.by_key
        return read_tail([rows[name, scheme, Part.BOTH] for name in names])
    trials = [Trial(prepared.space.by_name[name], scheme, Part.BOTH) for name in names]
    with watch.stage("checking the least sensitive ops", len(trials)) as advance:
        found = measure_exact(question_of(job, prepared), trials=trials, progress=advance)
    return read_tail(found.rows)


def sensitivity(
    model: nn.Module,
    *,
    calibration: object,
    evaluation: object,
    metric: Metric | str = metrics.accuracy,
    space: str | dict[str, Any] = "npu",
    backend: str = "auto",
    samples: int = 128,
    indices: Sequence[int] | None = None,
    metric_rows: int = METRIC_ROWS,
    leaf_modules: Sequence[str] = (),
    target: str | None = None,
    prepare: Prepare | None = None,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> SensitivityReport:
    """Rank a model's ops by what each scheme alone does to its outputs and its metric.

    Args:
        model: The trained float model; it is never changed.
        calibration: Inputs to calibrate on, as `aq.search` takes them.
        evaluation: Inputs and targets.
        metric: `metric(outputs, targets)`, higher is better.
        space: Name or path of a search space, or its rules; its schemes are compared.
        backend: A torch engine; `auto`: the first that runs here.
        samples: How many evaluation samples stand behind the output error.
        indices: Look at these evaluation samples alone (bad cases).
        metric_rows: For how many of the noisiest rows the metric is measured; 0: none.
        leaf_modules: Paths that capture must not look into.
        target: As `autoquant.search` takes it; so are `prepare` and `dynamic`.
        prepare: Makes batches of the items of the data.
        dynamic: By input, the axes whose size may change.
        watch: Shown the progress.
        settings: Any other section of a job file, as a mapping.

    Returns:
        The table (`.table`, for `aq.raise_most_sensitive`), and what stands out in it.

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    document: dict[str, Any] = {
        "name": "sensitivity",
        "space": find_space_rules(space) if isinstance(space, str) else space,
        "objectives": ["output_error", "bops"],
        "backend": backend,
        "sensitivity": {"samples": samples},
        "output": str(Path(tempfile.gettempdir()) / "autoquant-sensitivity"),
    }
    merge(document, settings)
    job = job_of(document, "autoquant.sensitivity")
    subject = build_subject(
        model,
        calibration=calibration,
        evaluation=evaluation,
        heldout=None,
        metric=metric,
        leaf_modules=tuple(leaf_modules),
        form=DataForm(target, prepare, dynamic or {}),
    )
    return examine_sensitivity(
        job, subject, watch or Silent(), indices=indices, metric_rows=metric_rows
    )
