"""What the search needs of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import Site


@dataclass(frozen=True, slots=True, eq=False)
class Executable:
    """A plan, built.

    Attributes:
        module: Call it with the model's inputs.
        executed: By site, what really runs, read back from the executable
            (`int8 native`, `int16 emulated`).
    """

    module: nn.Module
    executed: Mapping[str, str]

    @property
    def kind(self) -> Kind:
        """`measured` when every site runs a real kernel, else `emulated`."""
        emulated = any(text.endswith(Support.EMULATED.value) for text in self.executed.values())
        return Kind.EMULATED if emulated else Kind.MEASURED


class Backend(Protocol):
    """One target: an engine on this machine, or a model of one elsewhere."""

    name: str

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How the target runs one scheme of one site."""

    def build(self, plan: Plan) -> Executable:
        """Build a plan and read back what really runs.

        Raises:
            BackendError: The engine refuses, or runs something else than planned.
        """

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Run a built module, or the float model, on the target."""
