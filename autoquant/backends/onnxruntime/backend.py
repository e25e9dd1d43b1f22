"""The ONNX Runtime backend: a plan, written as an ONNX graph and run by its CPU kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoquant.backends.exported_file import METADATA, writing
from autoquant.backends.onnxruntime.float_graph import convert_float
from autoquant.backends.onnxruntime.plan_graph import PlanWriter
from autoquant.backends.onnxruntime.plan_model import PlanModel
from autoquant.backends.onnxruntime.profile import profile_costs
from autoquant.backends.onnxruntime.ranges import TensorGrids
from autoquant.backends.onnxruntime.readback import Dump, read_kernels, read_schemes
from autoquant.backends.onnxruntime.saturation import saturates
from autoquant.backends.onnxruntime.sessions import OnnxModule, open_and_dump
from autoquant.backends.onnxruntime.support import support_at
from autoquant.backends.onnxruntime.units import find_units
from autoquant.backends.protocol import Backend, BuildRequest, Executable, settle_range
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.readback import Ran, refuse_substitution
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.exported import export_float
from autoquant.model.graph.site_nodes import find_owners


class OnnxRuntimeBackend(Backend):
    """Writes plans as ONNX graphs and runs them with ONNX Runtime; converts its float model once.

    Raises:
        ModelError: torch.export refuses the model.
        BackendError: It cannot be written in ONNX.
    """

    name = "onnxruntime"
    suffix = ".onnx"

    def __init__(self, request: BuildRequest) -> None:
        self.captured = request.captured
        self._sites = request.captured.by_name
        exported = export_float(request.captured, request.example)
        self._graph = convert_float(request.captured, exported)
        self.units = find_units(self._graph, self._sites)
        settings = settle_range(request.settings, saturates)
        ranges = TensorRanges(request.captured, request.statistics, settings)
        grids = TensorGrids(self._graph, ranges)
        self._weight_bits = ranges.weight_bits
        self._read_back: set[str] = set()
        self._writer = PlanWriter(self._graph, self.units, grids, self._sites)

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How ONNX Runtime runs one scheme of one site."""
        return support_at(site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Write the plan's graph, open a session, and read back what it runs."""
        return self.open(plan, self.write(plan))

    def write(self, plan: Plan) -> PlanModel:
        """Write the plan's graph."""
        for name, scheme in plan.assignment:
            site = self._sites[name]
            unknown = site.follows is None and self.support(site, scheme) is Support.UNSUPPORTED
            if unknown:
                raise BackendError(
                    f"onnxruntime does not run {scheme.value} at {name} ({site.kind.value})",
                    hint="`autoquant backends` lists what it runs",
                    sites=(name,),
                )
        return self._writer.write(plan)

    def open(self, plan: Plan, written: PlanModel) -> Executable:
        """Open a session for a graph, and compare what it runs with a plan.

        Raises:
            BackendError: ONNX Runtime refuses the graph, or runs something else than planned.
        """
        session, dump = open_and_dump(written, torch.get_num_threads())
        executed = self._read(plan, Dump(dump))
        hint = "pin this op to another scheme in the search space"
        refuse_substitution("onnxruntime", plan, executed, self.expected, hint=hint)
        self._read_back.add(plan.digest)
        return Executable(OnnxModule(written, self._graph.output_tree, session), executed)

    def costs(
        self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Callable[[], float]
    ) -> CostTable | None:
        """What each op and boundary takes, from ONNX Runtime's own times of its nodes."""
        return profile_costs(self, space, inputs, clock)

    def passing(self) -> dict[str, str]:
        """By node of the float graph that is no site, the site whose format it hands on."""
        handed = find_owners(self.captured)
        origins = self._graph.tensors
        return {
            node.name: handed[origins[node.output[0]]]
            for node in self._graph.nodes
            if node.name not in self._graph.owner and origins.get(node.output[0]) in handed
        }

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write the ONNX file, the plan in its metadata under `autoquant`.

        A plan that was never built here is opened and read back first. Constants of more than 2 GB
        stand beside the file, in one of its name with `.data` behind it.
        """
        written = self.write(plan)
        if plan.digest not in self._read_back:
            self.open(plan, written)
        values = {**metadata, "reduce_range": self._weight_bits == 7}
        path = Path(path)
        with writing(path):
            written.write(path, {METADATA: json.dumps(values)})
        return path

    def expected(self, name: str, scheme: Scheme) -> tuple[Scheme, ...]:
        """What may run at a site whose plan is honoured, the first being what is meant.

        A site that follows another runs its scheme where there is a kernel for it; where there
        is none (a norm, a tanh), or where its leader leaves floats, it runs in fp32, and says so.
        """
        if self._sites[name].follows is None:
            return (scheme,)
        return (scheme,) if scheme is Scheme.FP32 else (scheme, Scheme.FP32)

    def _read(self, plan: Plan, dump: Dump) -> dict[str, Ran]:
        """By site, what runs: as planned, where that is one of the names for it."""
        found, kernels = read_schemes(dump, self.units, self._sites), read_kernels(dump, self.units)
        executed = {}
        for name, planned in plan.assignment:
            names = (*self.expected(name, planned), *Scheme)
            runs = next((item for item in names if item in found[name]), None)
            if runs is None:
                executed[name] = Ran(None, kernel="a mixture")
            else:
                emulated = support_at(self._sites[name], runs) is Support.EMULATED
                how = Support.EMULATED if emulated else Support.NATIVE
                executed[name] = Ran(runs, how, kernels.get(name, ""))
        return executed
