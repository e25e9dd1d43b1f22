"""What of a plan's file would not run on the NPU, by Vela's own word."""

from __future__ import annotations

from autoquant.backends.litert.ethos_u.configuration import Configuration
from autoquant.backends.litert.ethos_u.vela import Estimate, Step, estimate
from autoquant.backends.litert.flatbuffer import Written
from autoquant.errors import BackendError


def estimate_on_npu(written: Written, configuration: Configuration, batch: int) -> Estimate:
    """Estimate a file, all of whose operators must run on the NPU.

    Vela counts nothing for what it leaves to the CPU, so that such a plan would look fast.

    Raises:
        BackendError: Vela refuses the file, or leaves an operator to the CPU (names its site).
    """
    found = estimate(written.content, configuration)
    left = [step for step in found.steps if step.is_on_cpu]
    if left:
        step = next((step for step in left if not _is_conversion(step, written)), left[0])
        raise BackendError(
            f"{configuration.accelerator}: Vela leaves {_describe(step, written)} to the CPU: "
            f"{found.reasons.get(step.name, 'it gives no reason')}",
            hint="pin it to the other scheme, take another accelerator, or rewrite the op"
            if batch == 1
            else f"set backend.batch_size to 1, if the op takes no {batch} samples at once",
            sites=() if step.operator is None else written.operators[step.operator].sites,
        )
    return found


def _is_conversion(step: Step, written: Written) -> bool:
    return step.operator is None or written.operators[step.operator].source is None


def _describe(step: Step, written: Written) -> str:
    if step.operator is None:
        return step.kind
    operator = written.operators[step.operator]
    place = ", ".join(operator.sites) or f"{operator.node or 'the converter'} (no site)"
    return f"{operator.name} of {place}"
