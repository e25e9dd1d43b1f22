"""The Ethos-U backend: quality by LiteRT's integer kernels, latency by Vela's estimate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoquant.backends.exported_file import METADATA, writing
from autoquant.backends.litert.backend import LiteRtBackend
from autoquant.backends.litert.convert import convert_float
from autoquant.backends.litert.ethos_u.configuration import configuration_of
from autoquant.backends.litert.ethos_u.estimator import Estimator
from autoquant.backends.litert.ethos_u.support import site_support
from autoquant.backends.protocol import Backend, BuildRequest, Executable
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.readback import refuse_substitution
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.captured import Capture


class EthosUBackend(Backend):
    """Builds plans for LiteRT, and has Vela estimate them on an NPU, at the batch of `timed`."""

    suffix = ".tflite"

    def __init__(self, request: BuildRequest) -> None:
        self._configuration = configuration_of(request.settings)
        accelerator = self._configuration.accelerator
        self.name = f"ethos-u/{accelerator}"
        self.rival = f"all int16 on {accelerator} (Vela)"
        self._batch = len(request.timed[0])
        self._litert = LiteRtBackend(request)
        ranges = TensorRanges(request.captured, request.statistics, request.settings)
        file = convert_float(request.captured, request.timed, ranges)
        self._estimator = Estimator(file, self._configuration)
        self.rival_ms = self._estimator.milliseconds(self._widest(request.captured))

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How the NPU runs one scheme of one site."""
        return site_support(self._configuration.accelerator, site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Build a plan for LiteRT, and estimate the same plan as Vela is given it."""
        built = self._litert.build(plan)
        refuse_substitution(
            self.name,
            plan,
            built.executed,
            lambda *_: (Scheme.INT8, Scheme.INT16),
            hint="the NPU has no floats: pin it to a scheme that `autoquant backends` lists as "
            "native for ethos-u",
        )
        return Executable(built.module, built.executed, self.estimate_ms(plan))

    def estimate_ms(self, plan: Plan) -> float:
        """What Vela says that one call takes; nothing is built for LiteRT.

        Raises:
            BackendError: Vela refuses the plan, or leaves an op to the CPU.
        """
        return self._estimator.milliseconds(plan)

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Run a built module, or the float model, on this CPU."""
        return self._litert.run(module, inputs)

    def costs(
        self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Callable[[], float]
    ) -> CostTable:
        """What Vela estimates of each op and boundary, from a few plans."""
        del inputs, clock
        return self._estimator.costs(space)

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write the `.tflite` file that Vela compiles; LiteRT runs it as it is.

        Its inputs and outputs are integers, as the first and last ops compute: float ones would
        be converted by the CPU. The plan is inside, as JSON under the name `autoquant`.
        """
        values = {
            **metadata,
            "engine": "ethos-u",
            "batch_size": self._batch,
            "accelerator": self._configuration.accelerator,
            "system_config": self._configuration.system,
            "memory_mode": self._configuration.memory,
            "estimated_ms": self.build(plan).estimated_ms,
        }
        written = self._estimator.write(plan, {METADATA: json.dumps(values).encode()})
        path = Path(path)
        with writing(path):
            path.write_bytes(written.content)
        return path

    def _widest(self, captured: Capture) -> Plan:
        """All int16, less what must agree with a site that cannot be."""
        narrow = {
            site.name
            for site in captured.sites
            if self.support(site, Scheme.INT16) is Support.UNSUPPORTED
        }
        grown: set[str] = set()
        while grown != narrow:
            grown = set(narrow)
            for group in captured.agreements:
                narrow.update(group if narrow.intersection(group) else ())
        return Plan.of(
            {
                site.name: Scheme.INT8 if site.name in narrow else Scheme.INT16
                for site in captured.sites
            }
        )
