"""`autoquant.check`: is a model's structure, and its configuration, fit for quantization?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from autoquant.backends.examination import Examination, Examiner
from autoquant.backends.targets import load_target
from autoquant.core.calls import Count, checked, show
from autoquant.core.findings.concerns import Concern, Severity, Topic, note
from autoquant.core.findings.structure import (
    CheckReport,
    ModuleCalls,
    OpRow,
    OutputFacts,
    ShownConfiguration,
    WeightRow,
)
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.progress import Progress
from autoquant.core.sites import OpKind
from autoquant.debugging.structure.calls import (
    count_calls,
    describe_once,
    find_uncalled,
    find_unused,
)
from autoquant.debugging.structure.classes import (
    count_classes,
    describe_classes,
    find_scarce_classes,
)
from autoquant.debugging.structure.configuration import (
    find_ineffective,
    list_ops,
    list_weights,
    refused,
)
from autoquant.debugging.structure.fusion import find_gaps
from autoquant.debugging.structure.hidden import find_hidden
from autoquant.debugging.structure.outputs import find_uncompared, list_outputs
from autoquant.debugging.structure.plan_facts import facts_of_plan
from autoquant.debugging.structure.settings import Configured, find_misfit_ranges, find_suspicious
from autoquant.debugging.structure.shared import compare_calls, find_shared
from autoquant.debugging.structure.tail import find_quantized_tail
from autoquant.debugging.tried_mends import try_mends
from autoquant.errors import BackendError, JobError, ModelError
from autoquant.job import Job, Setup, backend_from_text
from autoquant.job.document import settings_from
from autoquant.model.building import build_subject
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import take_samples
from autoquant.model.data.number_outputs import without_sources
from autoquant.model.data.readings import DataForm, Prepare
from autoquant.model.graph.captured import Capture
from autoquant.model.recipes import load_unscored
from autoquant.model.subject import Subject
from autoquant.results.terminal import shown
from autoquant.results.wording import counts_text
from autoquant.searching.pair import find_plan, needs_torch, prepare_untimed
from autoquant.searching.preparing.preparation import FEW_SAMPLES, Preparation

if TYPE_CHECKING:
    from autoquant.torch_ao.qconfig import QConfigMapping

CHECK_SAMPLES = FEW_SAMPLES
"""Calibration samples that a check looks at: enough for ranges to settle, and quick."""

_EXAMPLE_SAMPLES = 3
_UNTIMED = (Objective.OUTPUT_ERROR, Objective.SIZE)
"""Without latency, what is only emulated counts too."""


@checked
def check(
    model: nn.Module,
    calibration: object,
    *,
    plan: Plan | str | Path = "int8",
    mapping: QConfigMapping | None = None,
    backend: str | Mapping[str, Any] = "auto",
    observer: str | Callable[..., Any] = "histogram",
    reduce_range: str | bool = "auto",
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
) -> CheckReport:
    """Check the structure and the configuration of a model that lives in this process.

    Args:
        model: The float model; it is never changed.
        calibration: Inputs, as `autoquant.search` takes them; the first 100 samples are used.
        plan: What to configure: a plan, a scheme for all ops, or a plan's file or result folder.
        mapping: A QConfigMapping to look at in the place of a plan. It is prepared with
            `autoquant.backend_config()`, calibrated on the same samples and converted.
        backend: A torch engine, or `auto`: the first that runs here.
        observer: How a plan finds int8 ranges: a name (`minmax`), or a function or class of yours
            that gives (low, high) of a tensor's `TensorStatistics`.
        reduce_range: Seven bits for a plan's int8; `auto`: where this CPU needs it.
        capture: As `autoquant.search` takes it; so are all arguments down to `cache_mb`.
        leaf_modules: Paths that capture must not look into.
        equalise: `always` rescales channels first; `auto` and `never` do not.
        ranges: The section `calibration` of a job file.
        target: The key of the targets, where batches are mappings.
        prepare: Makes batches of the items of the data.
        dynamic: By input, the axes whose size may change.
        cache_mb: A larger data set is read again for each use.
        progress: Shown the progress; None: standard error is, False: nothing is.
        settings: Other sections of a job file, as mappings (`space`, `execution`...).

    Returns:
        What was found; `report.needs_attention` says whether somebody must act.

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    section = backend_from_text(backend) if isinstance(backend, str) else backend
    setup = settings_from(
        Setup,
        "autoquant.check",
        {
            "space": "server_cpu",
            "backend": {"reduce_range": reduce_range, **section},
            "calibration": {"observer": observer},
            "objectives": _UNTIMED,
        },
        ranges=ranges,
        sections=settings,
    )
    needs_torch(setup, "check")
    subject = build_subject(
        model,
        calibration=calibration,
        leaf_modules=leaf_modules,
        equalise=equalise,
        capture=capture,
        calibration_samples=setup.calibration.samples,
        form=DataForm.of_call(target, prepare, dynamic, cache_mb),
    )
    return _check(setup, subject, plan, mapping, shown(progress))


def check_job(job: Job, plan: str, progress: Progress) -> CheckReport:
    """Check the model and the settings of a job under one of its plans."""
    needs_torch(job, "check")
    with progress.stage("loading model and data", None):
        subject = load_unscored(job)
    untimed = job.model_copy(update={"objectives": _UNTIMED})
    return _check(untimed, subject, plan, None, progress)


@dataclass(frozen=True, slots=True, eq=False)
class _Built:
    """What was configured, and what came of it."""

    name: str
    concerns: tuple[Concern, ...]
    ops: tuple[OpRow, ...] = ()
    weights: tuple[WeightRow, ...] = ()


def _check(
    setup: Setup,
    subject: Subject,
    plan: Plan | str | Path,
    mapping: QConfigMapping | None,
    progress: Progress,
) -> CheckReport:
    calibration = subject.calibration
    subject = replace(subject, calibration=take_samples(calibration, CHECK_SAMPLES))
    prepared = prepare_untimed(setup, subject, progress, plan)
    example = subject.calibration[0].head(_EXAMPLE_SAMPLES).inputs
    with progress.stage("looking at the structure", None):
        modules, structure = _structure(prepared, example)
        outputs = list_outputs(prepared.captured, example)
        counts = count_classes(calibration, [item.shape for item in outputs])
    captured = prepared.captured
    with progress.stage("reading back the configuration", None):
        chosen = find_plan(plan, prepared, progress)
        built = _build(prepared, plan, chosen, mapping)
    scarce = () if counts is None else find_scarce_classes(counts)
    ranges = prepared.settings.build.ranges
    concerns = [*built.concerns, *find_misfit_ranges(ranges, prepared.statistics.tensors)]
    with progress.stage("trying mends", None):
        tried = tuple(try_mends(prepared, chosen, mapping, concerns))
    return CheckReport(
        concerns=_attention_first(
            [
                *structure,
                *find_uncompared(outputs, len(example[0])),
                *tried,
                *scarce,
            ]
        ),
        modules=modules,
        outputs=tuple(_given(outputs, captured, built.ops)),
        ops=built.ops,
        weights=built.weights,
        engine=prepared.engine,
        configuration=built.name,
        samples=prepared.statistics.samples,
        reach="" if captured.reach is None else str(captured.reach),
        classes=describe_classes(calibration, counts),
    )


def _given(
    outputs: Sequence[OutputFacts], captured: Capture, ops: Sequence[OpRow]
) -> Iterator[OutputFacts]:
    """Outputs with the type in which their ops hand them out."""
    by_node = {row.node: row for row in ops}
    roots = {call.nodes[-1]: call.nodes[0] for call in captured.calls}
    for item in outputs:
        row = by_node.get(roots.get(item.compared or "", item.compared or ""))
        yield item if row is None else replace(item, given=row.output)


def _attention_first(concerns: Sequence[Concern]) -> tuple[Concern, ...]:
    return tuple(sorted(concerns, key=lambda item: item.severity is Severity.NOTE))


def _structure(
    prepared: Preparation, example: tuple[Tensor, ...]
) -> tuple[tuple[ModuleCalls, ...], list[Concern]]:
    """Fusion, hidden ops and calls."""
    subject, captured = prepared.subject, prepared.captured
    model = subject.model

    def call(changed: nn.Module) -> Any:
        return subject.calling.call(changed, tuple(item.clone() for item in example))

    counts = count_calls(model, call)
    unused = find_unused(model, counts, call, _parameters_read(captured))
    shared = tuple(compare_calls(model, counts, captured, prepared.statistics))
    concerns = [
        *find_gaps(captured),
        *find_hidden(captured, model),
        *find_uncalled(model, counts, unused),
        *find_shared(shared, counts),
        *_told(captured),
    ]
    once = describe_once(model, counts, unused)
    return _in_order(model, (*once, *shared)), concerns


def _parameters_read(captured: Capture) -> frozenset[str] | None:
    """Names of the parameters that a graph and its constants are computed from."""
    if captured.weights is None:
        return None
    return frozenset(
        str(node.target)
        for graph in (captured.graph, captured.weights)
        for node in graph.graph.nodes
        if node.op == "get_attr"
    )


def _told(captured: Capture) -> Iterator[Concern]:
    """What capture noticed, its reach apart."""
    reach = captured.reach.notice if captured.reach is not None else None
    for notice in captured.notices:
        if notice != reach:
            yield note(
                Topic.FUSION,
                ("the whole model",),
                notice,
                "plans are built from what was captured",
                "nothing, if the model is meant so",
            )


def _in_order(model: nn.Module, rows: Sequence[ModuleCalls]) -> tuple[ModuleCalls, ...]:
    found = {row.path: row for row in rows}
    return tuple(found[path] for path, _ in model.named_modules() if path in found)


def _build(
    prepared: Preparation,
    given: Plan | str | Path,
    chosen: Plan,
    mapping: QConfigMapping | None,
) -> _Built:
    """Configure, build, read back, and judge."""
    if mapping is not None:
        return _build_mapping(prepared, mapping)
    counted = counts_text(chosen)
    name = f"plan {chosen.digest} ({counted})"
    try:
        examined = _examine(prepared, chosen)
    except BackendError as error:
        return _Built(name, (refused(error.message, error.hint),))
    asked = {scheme.value: scheme for scheme in Scheme}.get(str(given))
    unable = () if asked is None else tuple(find_unable(prepared, chosen, asked))
    captured = prepared.captured
    shown = ShownConfiguration(
        ops=tuple(list_ops(captured, examined)),
        weights=tuple(list_weights(captured, examined)),
        qconfigs={site.name: examined.qconfigs.get(site.node) for site in captured.sites},
        schemes=examined.schemes,
        floats=frozenset(
            site for site, ran in examined.executed.items() if ran.scheme is Scheme.FP32
        ),
    )
    built = _built(name, prepared, shown)
    return replace(built, concerns=(*built.concerns, *unable))


def find_unable(prepared: Preparation, plan: Plan, asked: Scheme) -> Iterator[Concern]:
    """Name the ops that cannot run the scheme asked for all ops, with what would run there."""
    support = prepared.backend.support
    sites: dict[tuple[OpKind, Scheme, tuple[str, ...]], list[str]] = {}
    for site in prepared.captured.sites:
        runs = plan[site.name]
        if runs is not asked and site.follows is None:
            others = [item for item in Scheme if item not in (Scheme.FP32, runs, asked)]
            native = tuple(i.value for i in others if support(site, i) is Support.NATIVE)
            sites.setdefault((site.kind, runs, native), []).append(site.name)
    for (kind, runs, native), names in sites.items():
        rule = f"space.rules: [{{path: '{names[0]}', pin: {native[0]}}}]" if native else ""
        yield note(
            Topic.CONFIGURATION,
            names,
            f"{asked.value} was asked for all ops, and this target has no {asked.value} for "
            f"{kind.value}: it runs {runs.value}",
            f"it stays as large and as slow as in {runs.value}; "
            f"{', '.join(native) or 'no other kernel'} would run here",
            f"let the search choose of them, or pin one: {rule}" if native else "nothing here",
        )


def _examine(prepared: Preparation, plan: Plan) -> Examination:
    """What a plan asks for, and what runs, whether or not it is that."""
    backend, captured, build = prepared.backend, prepared.captured, prepared.settings.build
    if not isinstance(backend, Examiner):  # module by module: what is built is all that is known
        built = backend.build(plan)
        honoured = dict.fromkeys(built.executed, True)
        return Examination({}, plan.schemes, built.executed, honoured, {})
    ranges = TensorRanges(captured, prepared.statistics, build)
    facts = facts_of_plan(captured, plan, ranges, build)
    return replace(backend.examine(plan), qconfigs=facts)


def _build_mapping(prepared: Preparation, mapping: QConfigMapping) -> _Built:
    """Prepare, calibrate and convert with torch.ao, read back, and judge."""
    from autoquant.torch_ao.examination import examine_mapping

    name, subject, captured = "QConfigMapping", prepared.subject, prepared.captured
    if not hasattr(mapping, "module_name_qconfigs"):
        raise JobError(
            f"mapping: {show(mapping)} is not a QConfigMapping",
            hint="torch.ao.quantization.QConfigMapping.from_dict makes one of a dict",
        )
    if captured.how == "modules":
        raise ModelError(
            "a QConfigMapping is looked at beside a graph, and the model was captured module by "
            "module",
            hint="`autoquant.check` without a mapping says why",
        )
    try:
        batches = [batch.inputs for batch in subject.calibration]
        examined = examine_mapping(
            without_sources(subject.model), captured, mapping, batches, prepared.engine
        )
    except BackendError as error:
        return _Built(name, (refused(error.message, error.hint),))
    return _built(name, prepared, examined)


def _built(name: str, prepared: Preparation, shown: ShownConfiguration) -> _Built:
    return _Built(name, tuple(_judge(prepared, shown)), shown.ops, shown.weights)


def _judge(prepared: Preparation, shown: ShownConfiguration) -> Iterator[Concern]:
    captured, build = prepared.captured, prepared.settings.build
    yield from find_ineffective(shown.ops, shown.weights, shown.unmatched)
    # an op without an integer kernel that follows its neighbours
    in_float = {row.name for row in shown.ops if row.name in shown.floats and row.took_effect}
    configured = [
        Configured(
            site=site,
            qconfig=None if site.name in in_float else shown.qconfigs.get(site.name),
            output=captured.members[site.name][0][-1],
        )
        for site in captured.sites
    ]
    saturates = load_target(build.backend).overflows(build)
    yield from find_suspicious(
        configured, prepared.statistics, prepared.engine, saturates=saturates
    )
    schemes = {**shown.schemes, **dict.fromkeys(in_float, Scheme.FP32)}
    yield from find_quantized_tail(captured, schemes)
