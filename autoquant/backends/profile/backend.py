"""An accelerator by its description: the reference's numerics, the description's latency."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from autoquant.backends.examination import Examination, Examiner
from autoquant.backends.exported_file import writing
from autoquant.backends.profile.estimate import Estimator
from autoquant.backends.profile.reading import accelerator_of
from autoquant.backends.profile.reference import open_reference
from autoquant.backends.profile.support import find_schemes, support_in
from autoquant.backends.profile.traffic import find_traffic
from autoquant.backends.protocol import Backend, BuildRequest, Executable
from autoquant.core.costs import CostTable
from autoquant.core.plan import PLAN_FORMAT, Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.readback import ReadBack
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError

_LOG = logging.getLogger(__name__)


class ProfileBackend(Backend):
    """Builds plans with the reference engine and prices them with a file's numbers.

    Raises:
        JobError: The file is wrong.
        BackendError: It does not describe what the model needs.
    """

    suffix = ".json"

    def __init__(self, request: BuildRequest) -> None:
        self._accelerator = accelerator_of(request.settings)
        self.name = f"profile/{self._accelerator.name}"
        self._settings = request.settings
        self._reference = open_reference(request)
        if isinstance(self._reference, Examiner):
            self.examine = self._examine
        self._schemes = find_schemes(self._accelerator, request.settings, request.captured.sites)
        traffic = find_traffic(request.captured)
        self._unpriced = traffic.unlisted
        self._estimator = Estimator(
            self._accelerator, request.captured, traffic, len(request.example[0])
        )
        self._batch = len(request.timed[0])
        self._table = self._estimator.table(self._schemes, self._batch)
        rival, plan = self._slowest()
        self.rival = f"all {rival.value} on {self._accelerator.name} (profile)"
        self.rival_ms = self._table.predict(plan)
        if self._unpriced:
            _LOG.warning(
                "%s: %d ops are no site and count nothing in its estimates: %s",
                self.name,
                len(self._unpriced),
                ", ".join(self._unpriced),
            )

    def support(self, site: Site, scheme: Scheme) -> Support:
        """Emulated where the file describes it and the reference computes it."""
        return support_in(self._accelerator, self._settings, site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Build a plan for the reference engine, read back what runs, and estimate its latency."""
        self._check(plan)
        built = self._reference.build(plan)
        return Executable(built.module, _emulated(built.executed), self._table.predict(plan))

    def _examine(self, plan: Plan) -> Examination:
        found = cast("Examiner", self._reference).examine(plan)
        return replace(found, executed=_emulated(found.executed))

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Run a built module, or the float model, on the reference engine."""
        return self._reference.run(module, inputs)

    def costs(
        self,
        space: SearchSpace,  # noqa: ARG002 (the table holds every choice)
        inputs: tuple[Tensor, ...],
        clock: Callable[[], float],  # noqa: ARG002 (nothing is timed)
    ) -> CostTable:
        """What the file says of each op and boundary; a plan's estimate is their sum, exactly."""
        return self._estimator.table(self._schemes, len(inputs[0]))

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write the plan and its estimates as JSON, for the vendor's own tools to follow.

        The reference computation is no file for the accelerator, so there is none to deploy.
        `load_plan` reads the file too.
        """
        self._check(plan)
        document = {
            "format": PLAN_FORMAT,
            "digest": plan.digest,
            "plan": plan.to_json(),
            "accelerator": self._accelerator.name,
            "source": self._accelerator.source,
            "estimate": self._estimate(plan),
            "autoquant": dict(metadata),
        }
        with writing(path):
            path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        return path

    def _estimate(self, plan: Plan) -> dict[str, Any]:
        """The parts of a plan's latency, in milliseconds."""
        schemes = dict(plan.assignment)
        boundaries = {
            f"{writer} -> {reader}": pairs[schemes[writer], schemes[reader]]
            for (writer, reader), pairs in self._table.edges.items()
            if (schemes[writer], schemes[reader]) in pairs
        }
        return {
            "kind": self._table.kind.value,
            "batch": self._batch,
            "latency_ms": self._table.predict(plan),
            "rival": self.rival,
            "rival_ms": self.rival_ms,
            "call_ms": self._table.constant,
            "op_ms": {site: self._table.ops[site, scheme] for site, scheme in plan.assignment},
            "boundary_ms": boundaries,
            "ops_without_estimate": list(self._unpriced),
        }

    def _slowest(self) -> tuple[Scheme, Plan]:
        """fp32 where the file describes it, else its slowest scheme; with the uniform plan."""
        uniform = {
            scheme: Plan.of(
                {
                    site: scheme if scheme in allowed else allowed[-1]
                    for site, allowed in self._schemes.items()
                }
            )
            for scheme in self._accelerator.schemes
            if any(scheme in allowed for allowed in self._schemes.values())
        }
        if Scheme.FP32 in uniform and set(uniform[Scheme.FP32].schemes.values()) == {Scheme.FP32}:
            return Scheme.FP32, uniform[Scheme.FP32]
        return max(uniform.items(), key=lambda item: self._table.predict(item[1]))

    def _check(self, plan: Plan) -> None:
        wrong = [
            f"{site} in {scheme.value}"
            for site, scheme in plan.assignment
            if scheme not in self._schemes.get(site, ())
        ]
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise BackendError(
                f"{self._accelerator.name} does not run {wrong[0]}{more}",
                hint="describe it in the file of the accelerator, or choose another scheme",
            )


def _emulated(executed: ReadBack) -> ReadBack:
    return {site: replace(ran, support=Support.EMULATED) for site, ran in executed.items()}
