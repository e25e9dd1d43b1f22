"""Plans of one model on one NPU, by Vela: what they take, and what each op of them costs."""

from __future__ import annotations

import random
from collections.abc import Mapping

from autoquant.backends.cover import covering_plans
from autoquant.backends.litert.ethos_u.attribution import Operator, attribute, find_edges
from autoquant.backends.litert.ethos_u.configuration import Configuration
from autoquant.backends.litert.ethos_u.cost_table import EstimatedPlan, fit_costs
from autoquant.backends.litert.ethos_u.vela import Estimate, Step, estimate
from autoquant.backends.litert.flatbuffer import Boundary, FloatFile, Written, write_plan
from autoquant.backends.litert.schema import Graph
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError

_LEAST_PLANS, _MOST_PLANS = 16, 48
"""Mixed plans that a cost table is fitted to, beside the uniform ones."""


class Estimator:
    """Has Vela estimate plans of a float model, converted for the batch that is estimated."""

    def __init__(self, file: FloatFile, configuration: Configuration) -> None:
        self._file = file
        self._configuration = configuration

    def write(self, plan: Plan, metadata: Mapping[str, bytes] | None = None) -> Written:
        """Write a plan as Vela takes it: with integers at its ends too."""
        return write_plan(self._file, dict(plan.assignment), Boundary.PLAN, metadata)

    def milliseconds(self, plan: Plan) -> float:
        """What one call takes.

        Raises:
            BackendError: Vela refuses the plan, or leaves an op to the CPU.
        """
        found = estimate_on_npu(self.write(plan), self._configuration, self._file.batch)
        return self._configuration.ms(found.cycles)

    def costs(self, space: SearchSpace) -> CostTable:
        """What each op and each boundary takes, in milliseconds.

        Raises:
            BackendError: Vela refuses some choice of the space, or leaves it to the CPU.
        """
        edges = find_edges(_operators(self.write(space.uniform(space.schemes[0]))))
        plans = covering_plans(space, edges, random.Random(0), least=_LEAST_PLANS, most=_MOST_PLANS)
        estimated = []
        for plan in plans:
            written = self.write(plan)
            found = estimate_on_npu(written, self._configuration, self._file.batch)
            estimated.append(EstimatedPlan(plan, attribute(found, _operators(written))))
        return fit_costs(estimated, space, edges).scaled(self._configuration.ms(1.0), "ms")


def _operators(written: Written) -> tuple[Operator, ...]:
    graph = Graph(written.content)
    return tuple(
        Operator(
            sites=() if known.source is None else known.sites,
            is_conversion=known.source is None,
            inputs=tuple(graph.reads(operator)),
            outputs=tuple(graph.writes(operator)),
            value=known.node,
        )
        for known, operator in zip(written.operators, graph.operators, strict=True)
    )


def estimate_on_npu(written: Written, configuration: Configuration, batch: int) -> Estimate:
    """Estimate a file, all of whose operators must run on the NPU.

    Vela counts nothing for what it leaves to the CPU, so that such a plan would look fast.
    """
    found = estimate(written.content, configuration)
    left = [step for step in found.steps if step.is_on_cpu]
    if left:
        step = next((step for step in left if not _is_conversion(step, written)), left[0])
        reason = found.reasons.get(step.name, "it gives no reason")
        raise BackendError(
            f"{configuration.accelerator}: Vela leaves {_describe(step, written)} to the CPU: "
            f"{reason}",
            hint=_mend(reason, batch),
            sites=() if step.operator is None else written.operators[step.operator].sites,
        )
    return found


def _mend(reason: str, batch: int) -> str:
    if "Batch" in reason:
        return f"set backend.batch_size to 1, since the op takes no {batch} samples at once"
    if "depth-reduction" in reason:
        return "keep the axes of the mean, mean((2, 3), keepdim=True), and flatten after it"
    return "pin it to the other scheme, take another accelerator, or rewrite the op"


def _is_conversion(step: Step, written: Written) -> bool:
    return step.operator is None or written.operators[step.operator].source is None


def _describe(step: Step, written: Written) -> str:
    if step.operator is None:
        return step.kind
    operator = written.operators[step.operator]
    place = ", ".join(operator.sites) or f"{operator.node or 'the converter'} (no site)"
    return f"{operator.name} of {place}"
