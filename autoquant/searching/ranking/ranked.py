"""The sensitivity of a job's knobs: measured, or read where an earlier process measured it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from autoquant.backends.protocol import Backend
from autoquant.backends.targets import load_target
from autoquant.core.evaluation import Phase, Task
from autoquant.core.measurement import Measurements
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.core.sensitivity import (
    Method,
    Part,
    Procedure,
    RowKey,
    SensitivityRow,
    SensitivityTable,
)
from autoquant.errors import PlanError
from autoquant.job import SensitivitySettings
from autoquant.model.calibration.calibrate import digest_of
from autoquant.model.data.batches import take_samples
from autoquant.results.forms import SENSITIVITY, SENSITIVITY_UNFINISHED, Form
from autoquant.results.sensitivity_file import read_sensitivity
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.preparing.space import widest_scheme
from autoquant.searching.ranking.sensitivity import (
    Course,
    count_steps,
    measure_sensitivity,
    settle_procedure,
)
from autoquant.searching.ranking.trials import Question

_NUMERICS = 3
"""Raise it when the same question gets another answer: saved tables are then measured again."""


_MEASURED = (Method.EXACT, Method.ENGINE)
"""Rows worth keeping when a measurement is interrupted."""


def rank_by_sensitivity(
    asked: SensitivitySettings,
    prepared: Preparation,
    progress: Progress,
    folder: Path | None = None,
) -> SensitivityTable:
    """Measure the sensitivity of every knob, or read what an earlier process or search left.

    The table carries its space. A saved table counts only if its digest is that of this model,
    these data and these settings. A measurement that was interrupted goes on: exact rows are saved
    knob by knob.
    """
    question = question_of(prepared, asked.samples)
    procedure = settle_procedure(asked.method, prepared.captured)
    digest = _digest(procedure, prepared, question)
    found = _read(folder, SENSITIVITY, digest)
    if found is not None:
        return replace(found, space=prepared.space)
    known = _read(folder, SENSITIVITY_UNFINISHED, digest)

    def keep(table: SensitivityTable) -> None:
        if folder is not None:
            SENSITIVITY_UNFINISHED.save(folder, replace(table, digest=digest))

    def find() -> SensitivityTable:
        with progress.stage("measuring sensitivity", count_steps(procedure, question)) as advance:
            course = Course(_measured_rows(known), keep, advance, partial(_open_engine, prepared))
            return replace(measure_sensitivity(procedure, question, course), digest=digest)

    def depends_on() -> object | None:
        has_graph = prepared.captured.how == "export"
        return (digest, dict(question.outputs.weights)) if has_graph else None

    table = prepared.kept.recall("sensitivity", SENSITIVITY, depends_on, find)
    if folder is not None:
        SENSITIVITY.save(folder, table)
        (folder / SENSITIVITY_UNFINISHED.name).unlink(missing_ok=True)
    return replace(table, space=prepared.space)


def load_ranking(path: Path, asked: SensitivitySettings, prepared: Preparation) -> SensitivityTable:
    """Read a saved table of this model, these data and this space, by whichever procedure.

    Raises:
        StorageError: The file is missing or damaged.
        PlanError: It is of something else.
    """
    table = read_sensitivity(path)
    question = question_of(prepared, table.samples or asked.samples)
    if table.digest not in {_digest(item, prepared, question) for item in Procedure}:
        raise PlanError(
            f"{path} is not the table of this model, these data and this search space",
            hint="take it anew, without --table; --set and --indices must be those that it was "
            "taken with",
        )
    return replace(table, space=prepared.space)


def question_of(prepared: Preparation, samples: int) -> Question:
    """What is asked of a model: the free knobs on the first evaluation samples."""
    return Question(
        captured=prepared.captured,
        space=prepared.space,
        rounding=prepared.rounding,
        batches=prepared.subject.evaluation,
        samples=samples,
        outputs=prepared.subject.outputs,
    )


def _digest(procedure: Procedure, prepared: Preparation, question: Question) -> str:
    """Hash everything that a table depends on."""
    batches = [batch.inputs for batch in take_samples(question.batches, question.samples)]
    content = (
        _NUMERICS,
        procedure.value,
        digest_of(prepared.captured.graph.state_dict().values(), batches),
        str(prepared.captured.graph.code),
        prepared.statistics.digest,
        _range_content(prepared),
        [(knob.sites, [scheme.value for scheme in knob.schemes]) for knob in prepared.space.knobs],
        # rows that an engine measures depend on how it is built
        *((repr(prepared.settings.build),) if procedure is Procedure.ENGINE else ()),
    )
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _range_content(prepared: Preparation) -> tuple[object, ...]:
    """What decides grids beside the statistics."""
    build = prepared.settings.build
    writers = load_target(build.backend).integer_writers(build)
    named = sorted((kind.value, scheme.value) for kind, scheme in writers)
    return build.observer, build.ranges.to_json(), named


def _read(
    folder: Path | None, form: Form[SensitivityTable], digest: str
) -> SensitivityTable | None:
    """Read a table if it is there, whole, and of this digest."""
    table = form.known(folder)
    return table if table is not None and table.digest == digest else None


def _open_engine(prepared: Preparation) -> tuple[Backend, nn.Module]:
    return prepared.backend, prepared.subject.flat


def _measured_rows(table: SensitivityTable | None) -> Mapping[RowKey, SensitivityRow]:
    rows = table.rows if table is not None else ()
    return {row.key: row for row in rows if row.method in _MEASURED}


def measure_drops(
    prepared: Preparation, table: SensitivityTable, count: int, progress: Progress
) -> Mapping[tuple[str, Scheme], Measurements]:
    """Measure metric and drop, paired with fp32, of the noisiest rows on all evaluation samples.

    All other ops are in fp32, or in the widest scheme of a target without it.
    """
    rows = sorted((row for row in table.rows if row.part is Part.BOTH), key=lambda row: -row.noise)
    if count <= 0 or not rows:
        return {}
    build, sites = prepared.settings.build, prepared.captured.sites
    rest = widest_scheme(sites, partial(load_target(build.backend).site_support, build))
    rest_plan = {site.name: rest for site in sites}
    evaluator = prepared.evaluator
    found: dict[tuple[str, Scheme], Measurements] = {}
    with progress.stage("measuring the metric of the noisiest rows", len(rows[:count])) as advance:
        for number, row in enumerate(rows[:count]):
            own = prepared.space.by_name[row.knob].sites
            plan = Plan.of({**rest_plan, **dict.fromkeys(own, row.scheme)})
            outcome = evaluator.run(Phase.QUALITY, Task(number, plan))
            if outcome.failure is None:
                found[row.knob, row.scheme] = {
                    name: outcome.measurements[name] for name in ("accuracy", "accuracy_drop")
                }
            else:
                progress.note(f"{row.knob} in {row.scheme.value}: {outcome.failure.reason}")
            advance(1)
    return found
