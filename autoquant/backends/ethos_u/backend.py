"""The Ethos-U backend: quality by LiteRT's integer kernels, latency by Vela's estimate."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoquant.backends.covering import covering_plans
from autoquant.backends.ethos_u.attribution import Operator, attribute, find_edges
from autoquant.backends.ethos_u.configuration import find_configuration
from autoquant.backends.ethos_u.cost_table import EstimatedPlan, fit_costs
from autoquant.backends.ethos_u.readback import check_executed, estimate_on_npu
from autoquant.backends.ethos_u.support import site_support
from autoquant.backends.ethos_u.vela import Estimate
from autoquant.backends.litert.backend import METADATA, LiteRtBackend
from autoquant.backends.litert.convert import convert_float
from autoquant.backends.litert.flatbuffer import Boundary, Written, write_plan
from autoquant.backends.litert.schema import Graph
from autoquant.backends.protocol import BuildRequest, Executable
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.errors import StorageError
from autoquant.model.torch_ao.tensor_ranges import TensorRanges

_LEAST_PLANS, _MOST_PLANS = 16, 48
"""Mixed plans that a cost table is fitted to, beside the uniform ones."""


class EthosUBackend:
    """Builds plans for LiteRT, and has Vela estimate them on an NPU.

    Args:
        request: What to build from; the batch of `timed` is what is estimated.
    """

    def __init__(self, request: BuildRequest) -> None:
        self._configuration = find_configuration(request.settings.accelerator)
        accelerator = self._configuration.accelerator
        self.name = f"ethos-u/{accelerator}"
        self.rival = f"all int16 on {accelerator} (Vela)"
        self.suffix = ".tflite"
        self._captured = request.captured
        self._litert = LiteRtBackend(request)
        ranges = TensorRanges(request.captured, request.statistics, request.settings)
        self._file = convert_float(request.captured, request.timed, ranges)
        widest = self.written(self._widest())
        self.rival_ms: float | None = self._ms(self._estimate(widest))

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How the NPU runs one scheme of one site."""
        return site_support(self._configuration.accelerator, site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Build a plan for LiteRT, and estimate the same plan as Vela is given it.

        Raises:
            BackendError: LiteRT or Vela refuses an op, or an op would be left to the CPU.
        """
        built = self._litert.build(plan)
        check_executed(built.executed, self._configuration.accelerator)
        estimated_ms = self._ms(self._estimate(self.written(plan)))
        return Executable(built.module, built.executed, estimated_ms)

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Run a built module, or the float model, by LiteRT's kernels on this CPU."""
        return self._litert.run(module, inputs)

    def costs(
        self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Callable[[], float]
    ) -> CostTable:
        """What Vela estimates of each op and boundary, from a few plans.

        Raises:
            BackendError: No plan of the space can be built.
        """
        del inputs, clock
        first = _operators(self.written(space.uniform(Scheme.INT8)))
        edges = find_edges(first)
        plans = covering_plans(space, edges, random.Random(0), least=_LEAST_PLANS, most=_MOST_PLANS)
        estimated = []
        for plan in plans:
            written = self.written(plan)
            parts = attribute(self._estimate(written), _operators(written))
            estimated.append(EstimatedPlan(plan, parts))
        return fit_costs(estimated, space, edges).scaled(self._configuration.ms(1.0), "ms")

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write the `.tflite` file that Vela compiles; LiteRT runs it as it is.

        Its inputs and outputs are integers, as the first and last ops compute: float ones would
        be converted by the CPU. The plan is inside, as JSON under the name `autoquant`.

        Raises:
            BackendError: LiteRT or Vela refuses the plan.
            StorageError: The file cannot be written.
        """
        configuration = self._configuration
        values = {
            **metadata,
            "engine": "ethos-u",
            "batch_size": self._file.batch,
            "accelerator": configuration.accelerator,
            "system_config": configuration.system,
            "memory_mode": configuration.memory,
        }
        self.build(plan)
        written = self.written(plan, {METADATA: json.dumps(values).encode()})
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(written.content)
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error}", hint="give a writable path"
            ) from error
        return path

    def written(self, plan: Plan, metadata: Mapping[str, bytes] | None = None) -> Written:
        """The file for Vela: integers at its ends too."""
        return write_plan(self._file, dict(plan.assignment), Boundary.PLAN, metadata)

    def _ms(self, found: Estimate) -> float:
        return self._configuration.ms(found.cycles)

    def _estimate(self, written: Written) -> Estimate:
        return estimate_on_npu(written, self._configuration, self._file.batch)

    def _widest(self) -> Plan:
        """All int16, less what must agree with a site that cannot be."""
        narrow = {
            site.name
            for site in self._captured.sites
            if self.support(site, Scheme.INT16) is Support.UNSUPPORTED
        }
        grown: set[str] = set()
        while grown != narrow:
            grown = set(narrow)
            for group in self._captured.agreements:
                narrow.update(group if narrow.intersection(group) else ())
        return Plan.of(
            {
                site.name: Scheme.INT8 if site.name in narrow else Scheme.INT16
                for site in self._captured.sites
            }
        )


def _operators(written: Written) -> Sequence[Operator]:
    graph = Graph(written.content)
    return tuple(
        Operator(
            () if table.source is None else table.sites,
            table.source is None,
            tuple(graph.reads(operator)),
            tuple(graph.writes(operator)),
            table.node,
        )
        for table, operator in zip(written.operators, graph.operators, strict=True)
    )
