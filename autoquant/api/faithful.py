"""Refusal of a target whose all-fp32 plan computes something else than the model."""

from __future__ import annotations

from autoquant.api.preparation import Preparation
from autoquant.core.precision import Scheme
from autoquant.errors import ModelError
from autoquant.model.faithfulness import batches_to_compare, find_difference


def refuse_unfaithful(prepared: Preparation) -> None:
    """Build the all-fp32 plan on the target and compare it with the model as given.

    Every number of a search would otherwise be about another function. A target that runs some
    site in no float has no such plan, and is not asked.

    Raises:
        ModelError: They differ; names the output.
        BackendError: The target refuses the plan.
    """
    plan = prepared.space.uniform(Scheme.FP32)
    if any(scheme is not Scheme.FP32 for _, scheme in plan.assignment):
        return
    backend, subject = prepared.backend, prepared.subject
    built = backend.build(plan).module
    found = find_difference(
        lambda inputs: backend.run(subject.flat, inputs),
        lambda inputs: backend.run(built, inputs),
        batches_to_compare(prepared.captured, subject.telling),
    )
    if found is not None:
        raise ModelError(
            f"{backend.name} computes something else than the model: {found}",
            hint="every number of a search would be about another function; search on another "
            "backend, or with model.capture: modules, and report this model",
        )
