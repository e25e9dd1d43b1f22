"""Refusal of a target whose all-fp32 plan computes something else than the model."""

from __future__ import annotations

from functools import partial

from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.errors import ModelError
from autoquant.model.graph.faithfulness import find_difference, rounding_of
from autoquant.model.numerics.float64_run import model_in_float64
from autoquant.searching.preparing.preparation import Preparation

_TIMES_OWN_ROUNDING = 4
"""How much further from float64 than the model another order of the same sums may end."""


def refuse_unfaithful(prepared: Preparation, progress: Progress) -> Preparation:
    """Build the all-fp32 plan on the target and compare it with the model as given.

    Every number of a search would otherwise be about another function. Where float32 itself is
    far off from float64 in a model, its plan may be off as far: that is said in a notice. A target
    that runs some site in no float has no such plan, and is not asked.

    Raises:
        ModelError: They differ; names the output.
        BackendError: The target refuses the plan.
    """
    plan = prepared.space.uniform(Scheme.FP32)
    if any(scheme is not Scheme.FP32 for _, scheme in plan.assignment):
        return prepared
    backend, subject, captured = prepared.backend, prepared.subject, prepared.captured
    built = prepared.evaluator.build(plan).module
    model, target = (partial(backend.run, module) for module in (subject.flat, built))
    batches = subject.compared(captured)
    found = find_difference(model, target, batches)
    if found is None:
        return prepared
    wide = model_in_float64(subject.model, subject.calling)
    own, theirs = (rounding_of(run, wide, batches) for run in (model, target))
    if theirs <= _TIMES_OWN_ROUNDING * own:
        notice = (
            f"rounding decides what this model computes: float32 is {own:.1%} off from float64 in "
            f"torch, and {theirs:.1%} in the all-fp32 plan on {backend.name}; differences of that "
            "size say nothing."
        )
        progress.note(notice)
        return prepared.with_space(prepared.space, (notice,))
    ways = ["backend.name: torch"] if backend.name != "torch" else []
    ways += ["model.capture: modules"] if captured.how != "modules" else []
    raise ModelError(
        f"{backend.name} computes something else than the model: {found}",
        hint="every number of a search would be about another function; "
        + (f"search with {', or with '.join(ways)}, and " if ways else "")
        + "report this model",
    )
