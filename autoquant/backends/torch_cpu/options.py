"""What a job may choose of torch's own engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.job.backend import Int8Settings


@dataclass(frozen=True, slots=True)
class Kernels:
    """The engine of each op and scheme; what is not listed takes the engine of the whole model.

    Attributes:
        choices: (site, scheme, engine), sorted by site.
    """

    choices: tuple[tuple[str, Scheme, str], ...] = ()

    def of(self, plan: Plan) -> dict[str, str]:
        """The engine of each site that is listed under the scheme that a plan gives it."""
        schemes = dict(plan.assignment)
        return {site: engine for site, scheme, engine in self.choices if schemes[site] is scheme}

    def counts(self) -> dict[str, int]:
        """How many choices fell on each engine, most first."""
        return dict(Counter(engine for _, _, engine in self.choices).most_common())

    def to_json(self) -> list[dict[str, str]]:
        """Give the choices as JSON values."""
        return [
            {"site": site, "scheme": scheme.value, "engine": engine}
            for site, scheme, engine in self.choices
        ]

    @classmethod
    def from_json(cls, data: list[Mapping[str, str]]) -> Kernels:
        """Read back what `to_json` gave."""
        return cls(tuple((i["site"], Scheme(i["scheme"]), i["engine"]) for i in data))


class TorchSettings(Int8Settings):
    """Torch's quantized engine."""

    engine: Literal["auto", "per-op", "x86", "onednn", "fbgemm", "qnnpack", "pointwise"] = "auto"

    def check_untimed(self) -> None:
        """Refuse `per-op`, which times kernels."""
        if self.engine == "per-op":
            raise ValueError(
                "backend.engine: per-op takes the faster kernel of each op, which needs latency "
                "among the objectives; choose auto, or add latency"
            )


def engine_of(settings: BuildSettings) -> str:
    """The engine that settings name; empty where they name none."""
    return str(settings.options.get("engine", ""))


def kernels_in(settings: BuildSettings) -> Kernels:
    """Ops that take another engine's kernel."""
    return Kernels.from_json(settings.options.get("kernels", []))
