"""Inductor: a plan through PT2E and torch.compile, to confirm what a search found."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoquant.backends.exported_file import writing
from autoquant.backends.inductor.compilation import Compiled, check_compiler
from autoquant.backends.inductor.conversion import convert_plan, export_model
from autoquant.backends.inductor.support import site_support
from autoquant.backends.protocol import Backend, BuildRequest, Executable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.quiet import quiet
from autoquant.core.readback import Ran, refuse_substitution
from autoquant.core.sites import Site
from autoquant.errors import BackendError
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges

_LOG = logging.getLogger(__name__)

METADATA = "autoquant.json"
"""Name of the extra file in the archive: the plan, its digest and its measurements."""


class InductorBackend(Backend):
    """Builds plans by torchao's PT2E and torch.compile; each takes many seconds.

    Inductor fuses ops, and the time of one depends on its neighbours: there are no costs.

    Raises:
        BackendError: There is no C++ compiler.
        ModelError: torch.export refuses the model.
    """

    name = "inductor"
    suffix = ".pt2"

    def __init__(self, request: BuildRequest) -> None:
        check_compiler()
        self._request = request
        self._sites = request.captured.by_name
        self._ranges = TensorRanges(request.captured, request.statistics, request.settings)
        self._program = export_model(request.model, request.example)

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How inductor runs one scheme of one site."""
        return site_support(site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Convert a plan, compile it for the batch of the latency measurement, and read back.

        Other batches are compiled when they first come.
        """
        self._check(plan)
        compiled = Compiled(convert_plan(self._program, plan, self._request.captured, self._ranges))
        compiled(*self._request.timed)
        executed = self._read(plan, Counter(compiled.reading.kernels()))
        hint = "pin this op to fp32 in the search space"
        refuse_substitution(self.name, plan, executed, self._accepts, hint=hint)
        return Executable(compiled, executed)

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write the converted program, which `torch.export.load` reads and torch.compile runs."""
        self._check(plan)
        converted = convert_plan(self._program, plan, self._request.captured, self._ranges)
        program = export_model(converted, self._request.example)
        with writing(path), quiet():
            torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})
        return path

    def _check(self, plan: Plan) -> None:
        """Refuse what cannot run, and name what will run more exactly than planned."""
        widened = []
        for name, scheme in plan.assignment:
            site = self._sites[name]
            if self._stays_float(site, scheme):
                if site.follows is None:
                    widened.append(name)
            elif self.support(site, scheme) is Support.UNSUPPORTED:
                raise BackendError(
                    f"inductor does not run {name} ({site.kind.value}) in {scheme.value}",
                    hint="int8 takes modules Conv2d and Linear, int8_dynamic Linear; all else is "
                    "fp32",
                )
        if widened:
            _LOG.warning(
                "inductor: %d ops without weights are planned as int8 and run in fp32: %s",
                len(widened),
                ", ".join(widened),
            )

    @staticmethod
    def _stays_float(site: Site, scheme: Scheme) -> bool:
        """Whether a site computes on the fp32 that int8 kernels write, whatever its plan says.

        Sites that follow another do, and ops without weights that a plan of another backend has
        in int8: inductor fuses them behind the kernel that feeds them.
        """
        return site.follows is not None or (scheme is Scheme.INT8 and not site.kind.is_weighted)

    def _read(self, plan: Plan, kernels: Counter[tuple[str, Scheme]]) -> dict[str, Ran]:
        """By site, what runs: a call that became no int8 kernel computes in fp32."""
        executed = {}
        for name, _ in plan.assignment:
            found = [scheme for scheme in Scheme if kernels[name, scheme]]
            calls = len(self._request.captured.members[name])
            if sum(kernels[name, scheme] for scheme in found) < calls:
                found.append(Scheme.FP32)
            words = " and ".join(scheme.value for scheme in found)
            executed[name] = Ran(found[0]) if len(found) == 1 else Ran(None, kernel=words)
        return executed

    def _accepts(self, name: str, planned: Scheme) -> tuple[Scheme]:
        """What runs for a plan."""
        return (Scheme.FP32 if self._stays_float(self._sites[name], planned) else planned,)
