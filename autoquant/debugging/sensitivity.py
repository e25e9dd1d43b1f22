"""`autoquant sensitivity`: the ranking, and what stands out in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoquant import metrics
from autoquant.core.calls import Count, checked
from autoquant.core.findings.sensitivity_report import (
    SensitivityReport,
    Tail,
    find_dual_ops,
    read_tail,
    tail_of,
)
from autoquant.core.measurement import Measurements
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.core.sensitivity import Measure, Part, Procedure, SensitivityTable
from autoquant.errors import PlanError
from autoquant.job import SensitivitySettings, Setup
from autoquant.job.document import settings_from
from autoquant.model.building import build_subject
from autoquant.model.data.data_set import pick_samples
from autoquant.model.data.readings import DataForm, Prepare
from autoquant.model.data.scoring import Metric, metric_title
from autoquant.model.subject import Subject
from autoquant.results.terminal import shown
from autoquant.searching.pair import prepare_untimed
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.ranking.exact import measure_exact
from autoquant.searching.ranking.ranked import (
    load_ranking,
    measure_drops,
    question_of,
    rank_by_sensitivity,
)
from autoquant.searching.ranking.sensitivity import settle_procedure
from autoquant.searching.ranking.trials import Trial

METRIC_ROWS = 8
"""For how many rows the user's metric is measured unless the user says otherwise."""


def examine_sensitivity(
    setup: Setup,
    subject: Subject,
    progress: Progress,
    *,
    indices: Sequence[int] | None = None,
    metric_rows: int = METRIC_ROWS,
    needed: Sequence[str] = (),
    by: Measure = Measure.SQNR,
    saved: Path | None = None,
) -> SensitivityReport:
    """Rank the knobs, and look for what stands out.

    Args:
        setup: Space, engine, procedure and number of samples.
        subject: Model, data and metric.
        progress: Shown the progress.
        indices: Evaluation samples to look at; None: the first `sensitivity.samples` for output
            error, all for the metric.
        metric_rows: For how many of the noisiest rows the metric is measured.
        needed: Schemes that the space must leave to some op.
        by: The measure that ranks; `metric` measures it for every row.
        saved: A table that was written, in the place of measuring one.

    Raises:
        DataError: An index is outside the data.
        PlanError: The space leaves a needed scheme to no op, the procedure does not give the
            measure, or the saved table is of something else.
    """
    asked = _asked(setup.sensitivity, by)
    if indices is not None:
        subject = replace(subject, evaluation=pick_samples(subject.evaluation, indices))
        asked = asked.model_copy(update={"samples": len(set(indices))})
    prepared = prepare_untimed(setup, subject, progress)
    _check_schemes(prepared, needed)
    if saved is None:
        table = rank_by_sensitivity(asked, prepared, progress)
        rows = len(table.rows) if by is Measure.METRIC else metric_rows
        metric = measure_drops(prepared, table, rows, progress)
        table = _with_drops(table, metric)
        tail = _measure_tail(asked, prepared, table, progress)
    else:
        table, metric, tail = load_ranking(saved, asked, prepared), {}, None
    return SensitivityReport(
        table=table,
        space=prepared.space,
        metric=metric,
        indices=None if indices is None else tuple(sorted(set(indices))),
        tail=tail,
        dual=find_dual_ops(table, prepared.space.schemes[0]),
        kinds={site.name: site.kind.value for site in prepared.captured.sites},
        by=by,
        metric_title=metric_title(subject.metric),
    )


def _asked(asked: SensitivitySettings, by: Measure) -> SensitivitySettings:
    """The procedure that gives a measure: gradients and weights alone give the noise only."""
    if by in (Measure.SQNR, Measure.METRIC):
        return asked
    if asked.method in (Procedure.GRADIENT, Procedure.WEIGHTS_ONLY):
        raise PlanError(
            f"--by {by.value}: the procedure {asked.method.value} gives no {by.value}",
            hint="--set sensitivity.method=exact",
        )
    exact = asked.method is Procedure.AUTO
    return asked.model_copy(update={"method": Procedure.EXACT}) if exact else asked


def _with_drops(
    table: SensitivityTable, metric: Mapping[tuple[str, Scheme], Measurements]
) -> SensitivityTable:
    """The same with the metric's drop at the rows for which it was measured."""
    drops = {key: found["accuracy_drop"].value for key, found in metric.items()}
    rows = tuple(
        replace(row, metric_drop=drops.get((row.knob, row.scheme)))
        if row.part is Part.BOTH
        else row
        for row in table.rows
    )
    return replace(table, rows=rows)


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
    asked: SensitivitySettings, prepared: Preparation, table: SensitivityTable, progress: Progress
) -> Tail | None:
    """Measure the table's tail exactly: a gradient does not see what top-k and the like do."""
    scheme = prepared.space.schemes[0]
    names = tail_of(table, scheme)
    if asked.method is Procedure.WEIGHTS_ONLY or not names:
        return None
    if settle_procedure(asked.method, prepared.captured) is Procedure.ENGINE:
        rows = table.by_key
        return read_tail([rows[name, scheme, Part.BOTH] for name in names])
    trials = [Trial(prepared.space.by_name[name], scheme, Part.BOTH) for name in names]
    with progress.stage("checking the least sensitive ops", len(trials)) as advance:
        found = measure_exact(question_of(prepared, asked.samples), trials=trials, progress=advance)
    return read_tail(found.rows)


@checked
def sensitivity(
    model: nn.Module,
    *,
    calibration: object,
    evaluation: object,
    metric: Metric | str = metrics.accuracy,
    space: str | dict[str, Any] = "npu",
    backend: str | Mapping[str, Any] = "auto",
    samples: int = 128,
    indices: Sequence[int] | None = None,
    metric_rows: Count = METRIC_ROWS,
    by: str = "sqnr",
    saved: str | Path | None = None,
    capture: str = "auto",
    leaf_modules: Sequence[str] = (),
    equalise: str = "auto",
    ranges: Mapping[str, Any] | None = None,
    target: str | None = None,
    prepare: Prepare | None = None,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    cache_mb: Count = 256,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> SensitivityReport:
    """Rank a model's ops by what each scheme alone does to its outputs and its metric.

    Args:
        model: The trained float model; it is never changed.
        calibration: Inputs to calibrate on, as `aq.search` takes them.
        evaluation: Inputs and targets.
        metric: `metric(outputs, targets)`, higher is better.
        space: Name or path of a search space, or its rules; its schemes are compared.
        backend: As `autoquant.search` takes it; of `auto` the first engine that runs here.
        samples: How many evaluation samples stand behind the output error.
        indices: Look at these evaluation samples alone (bad cases).
        metric_rows: For how many of the noisiest rows the metric is measured; 0: none.
        by: The measure that ranks: `sqnr`, `cosine`, `mse`, `l1`, `kl` or `metric`.
        saved: A table that `autoquant sensitivity -o` wrote, in the place of measuring one.
        capture: As `autoquant.search` takes it; so are all arguments down to `cache_mb`.
        leaf_modules: Paths that capture must not look into.
        equalise: `always` rescales channels first; `auto` and `never` do not.
        ranges: The section `calibration` of a job file.
        target: The key of the targets, where batches are mappings.
        prepare: Makes batches of the items of the data.
        dynamic: By input, the axes whose size may change.
        cache_mb: A larger data set is read again for each use.
        progress: Shown the progress; None: standard error is, False: nothing is.
        settings: Other sections of a job file, as mappings (`outputs`, `objectives`...).

    Returns:
        The table (`.table`, for `aq.raise_most_sensitive`), and what stands out in it.

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    measure = Measure.named(by)
    document = {
        "space": space,
        "objectives": ["output_error", "bops"],
        "backend": backend,
        "sensitivity": {"samples": samples},
    }
    setup = settings_from(
        Setup, "autoquant.sensitivity", document, ranges=ranges, sections=settings
    )
    subject = build_subject(
        model,
        calibration=calibration,
        evaluation=evaluation,
        metric=metric,
        leaf_modules=leaf_modules,
        equalise=equalise,
        capture=capture,
        calibration_samples=setup.calibration.samples,
        form=DataForm.of_call(target, prepare, dynamic, cache_mb),
        outputs=setup.outputs,
    )
    return examine_sensitivity(
        setup,
        subject,
        shown(progress),
        indices=indices,
        metric_rows=metric_rows,
        by=measure,
        saved=None if saved is None else Path(saved),
    )
