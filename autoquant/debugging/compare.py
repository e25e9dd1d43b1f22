"""`autoquant.compare`: a quantized model beside its float model, op by op."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autoquant.comparing.comparison import compare_layers
from autoquant.comparing.own_error import OwnError
from autoquant.comparing.reading import ATTENTION_DB
from autoquant.comparing.reference import ReferencePlan
from autoquant.core.calls import Count, Positive, checked
from autoquant.core.findings.layers import ComparisonMode, LayerComparison, TriedMend
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.errors import PlanError
from autoquant.job import Setup
from autoquant.job.document import settings_from
from autoquant.model.building import build_subject
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.data_set import pick_samples
from autoquant.model.data.number_outputs import without_sources
from autoquant.model.data.readings import DataForm, Prepare
from autoquant.model.recipes import SubjectRecipe, load_subject
from autoquant.results.terminal import shown
from autoquant.searching.pair import (
    find_plan,
    needs_graph,
    needs_torch,
    prepare_untimed,
    uniform_plan,
)
from autoquant.searching.preparing.preparation import Preparation, capture_subject
from autoquant.searching.raised_plan import raise_ops

_EXAMPLE_SAMPLES = 3


@checked
def compare(
    model: nn.Module,
    quantized: nn.Module | Plan | str,
    data: object,
    *,
    calibration: object | None = None,
    mode: str = "unshadowed",
    schemes: Sequence[str] = (),
    samples: Positive | None = None,
    indices: Sequence[int] | None = None,
    weights: bool = True,
    error: OwnError | None = None,
    backend: str | Mapping[str, Any] = "auto",
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
) -> LayerComparison:
    """Compare a quantized model with its float model, op by op in execution order.

    Args:
        model: The trained float model; it is never changed.
        quantized: What to compare: a model that torch quantized, in FX graph mode (prepare_qat_fx,
            convert_fx or convert_to_reference_fx), eager mode, by quantize_dynamic or convert_pt2e
            (it is never changed); or a plan, or a scheme's name, which are built from
            `calibration`.
        data: Inputs to compare on: a tensor, `(inputs, targets)`, a list of batches, a DataLoader.
        calibration: Inputs to calibrate on, where `quantized` is a plan or a scheme; None: `data`.
        mode: `unshadowed`: each model on its own activations. `shadowed`: every quantized op is
            fed the float model's activations. `n-shadows`: so for each of `schemes`.
        schemes: What to compare under `n-shadows`; `quantized` is then not looked at.
        samples: How many samples to compare, from the first on; None: all.
        indices: Which samples to compare (the worst ones, perhaps); None: all.
        weights: Whether to compare weights too.
        error: `error(expected, found)` of the float and the quantized tensor of an op, for a batch:
            a number, or one for each sample. Its mean over samples is `row.own`.
        backend: A torch engine, where a plan is built; `auto`: the first that runs here.
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

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    way = _mode_of(mode, schemes)
    progress = shown(progress)
    document = {"space": {"schemes": ["int8", "int16", "fp32"]}, "backend": backend}
    setup = settings_from(Setup, "autoquant.compare", document, ranges=ranges, sections=settings)
    needs_torch(setup, "compare")
    subject = build_subject(
        model,
        calibration=data if calibration is None else calibration,
        evaluation=data,
        leaf_modules=leaf_modules,
        equalise=equalise,
        capture=capture,
        calibration_samples=setup.calibration.samples,
        form=DataForm.of_call(target, prepare, dynamic, cache_mb),
    )
    batches = choose_samples(subject.evaluation, samples, indices)
    subject = replace(subject, evaluation=batches)
    if isinstance(quantized, nn.Module) and way is not ComparisonMode.N_SHADOWS:
        from autoquant.torch_ao.given import given_model

        captured = capture_subject(subject, progress)
        needs_graph(captured, "compare")
        example = subject.calibration[0].head(_EXAMPLE_SAMPLES).inputs
        found = given_model(without_sources(subject.model), captured, quantized, example)
        return compare_layers(
            captured, [found], batches, way, progress, weights=weights, error=error
        )
    named = quantized if isinstance(quantized, str) and not schemes else None
    prepared = prepare_untimed(setup, subject, progress, named)
    plans = _plans_of(quantized, schemes, prepared, progress)
    return compare_plans(prepared, plans, batches, way, progress, weights=weights, error=error)


def compare_job(
    setup: Setup,
    recipe: SubjectRecipe,
    plan: str,
    progress: Progress,
    *,
    mode: str = "unshadowed",
    schemes: Sequence[str] = (),
    samples: int | None = None,
    indices: Sequence[int] | None = None,
    error: OwnError | None = None,
) -> LayerComparison:
    """Compare a plan of a job's model on its evaluation data; arguments as for `compare`.

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    needs_torch(setup, "compare")
    way = _mode_of(mode, schemes)
    subject = load_subject(recipe, progress)
    batches = choose_samples(subject.evaluation, samples, indices)
    prepared = prepare_untimed(setup, subject, progress, None if schemes else plan)
    plans = _plans_of(plan, schemes, prepared, progress)
    return compare_plans(prepared, plans, batches, way, progress, error=error)


def compare_plans(
    prepared: Preparation,
    plans: Sequence[Plan],
    batches: Sequence[Batch],
    mode: ComparisonMode,
    progress: Progress,
    *,
    weights: bool = True,
    error: OwnError | None = None,
) -> LayerComparison:
    """Compute plans by reference numerics and compare them with their float model.

    Several are compared under n-shadows. Of one plan the mend of its worst ops is tried: more bits.

    Raises:
        ModelError: The model was captured module by module.
    """
    needs_graph(prepared.captured, "compare")
    captured, rounding = prepared.captured, prepared.rounding
    found = [ReferencePlan(captured, plan, rounding) for plan in plans]
    result = compare_layers(captured, found, batches, mode, progress, weights=weights, error=error)
    if mode is not ComparisonMode.UNSHADOWED or result.output is None:
        return result

    def again(plan: Plan) -> LayerComparison:
        return compare_layers(
            captured, [ReferencePlan(captured, plan, rounding)], batches, mode, progress
        )

    return replace(result, mend=_try_mend(prepared, plans[0], result, again))


_MOST_ROUNDS = 4


def _try_mend(
    prepared: Preparation,
    plan: Plan,
    found: LayerComparison,
    again: Callable[[Plan], LayerComparison],
) -> TriedMend | None:
    """Raise the ops that make the error, look again, and go on until the outputs are at 20 dB.

    Where no more ops are to blame, weights get more bits too.
    """
    names = [site.name for site in prepared.captured.sites]
    before, mend = found.output, None
    sites: frozenset[str] = frozenset()
    wide_weights = False
    for _ in range(_MOST_ROUNDS):
        more = found.to_raise.intersection(names) - sites
        if before is None or (not more and (wide_weights or not sites)):
            break
        sites, wide_weights = sites | more, wide_weights or not more
        raised = raise_ops(prepared, plan, sites, wide_weights=wide_weights)
        found = again(raised)
        if found.output is None:
            break
        ordered = tuple(name for name in names if name in sites)
        schemes = tuple(dict.fromkeys(raised[name] for name in ordered))
        mend = TriedMend(ordered, schemes, before.sqnr_db, found.output.sqnr_db)
        if mend.after_db >= ATTENTION_DB:
            break
    return mend


def choose_samples(
    batches: Sequence[Batch], samples: int | None, indices: Sequence[int] | None
) -> Sequence[Batch]:
    """The first samples, or those of the given positions, in ascending order.

    Raises:
        DataError: A position lies outside the data.
    """
    if indices is not None:
        return pick_samples(batches, indices)
    return take_samples(batches, samples)


def _mode_of(mode: str, schemes: Sequence[str]) -> ComparisonMode:
    known = {item.value: item for item in ComparisonMode}
    if mode not in known:
        raise PlanError(f"mode {mode!r} is unknown", hint=f"choose one of {', '.join(known)}")
    if known[mode] is ComparisonMode.N_SHADOWS and not schemes:
        raise PlanError("n-shadows needs schemes to compare", hint="give schemes, as int8, int16")
    if known[mode] is not ComparisonMode.N_SHADOWS and schemes:
        raise PlanError(f"{mode} compares one plan", hint="give mode n-shadows with schemes")
    return known[mode]


def _plans_of(
    quantized: Any, schemes: Sequence[str], prepared: Preparation, progress: Progress
) -> list[Plan]:
    """The plans to build: one for each scheme, or the one that is meant."""
    known = {scheme.value: scheme for scheme in Scheme}
    for name in schemes:
        if name not in known:
            raise PlanError(f"scheme {name!r} is unknown", hint=f"choose of {', '.join(known)}")
    if schemes:
        return [uniform_plan(known[name], prepared, progress) for name in dict.fromkeys(schemes)]
    return [find_plan(quantized, prepared, progress)]
