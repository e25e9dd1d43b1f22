"""The OpenVINO backend: the float model converted once, plans compiled from clones of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from torch import Tensor, nn

from autoquant.backends.exported_file import METADATA, writing
from autoquant.backends.openvino.assembly import Assembler
from autoquant.backends.openvino.engine import Options, compile_graph, from_bytes, infer, to_bytes
from autoquant.backends.openvino.graph import convert_float
from autoquant.backends.openvino.judgement import Judge
from autoquant.backends.openvino.layout import lay_out
from autoquant.backends.openvino.profile import profile_costs
from autoquant.backends.openvino.readback import ExecutionGraph
from autoquant.backends.openvino.saturation import saturates
from autoquant.backends.openvino.support import site_support, why_unsupported
from autoquant.backends.protocol import Backend, BuildRequest, Executable, settle_range
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.readback import ReadBack, refuse_substitution
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.outputs import OutputStructure


class OpenVinoModule(nn.Module):
    """Runs a model with as many threads as torch would use; one compilation for each number.

    Inputs are read where torch keeps them, unless they are strided; outputs are copied, because
    the engine overwrites its own with the next call. Calls must not overlap.
    """

    def __init__(
        self,
        model: ov.Model,
        options: Options,
        outputs: OutputStructure,
        compiled: ov.CompiledModel,
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.compiled = compiled
        self._outputs = outputs
        self._requests = {torch.get_num_threads(): compiled.create_infer_request()}

    def forward(self, *inputs: Tensor) -> Any:
        """Compute the outputs."""
        arrays = [item.detach().contiguous().numpy() for item in inputs]
        found = infer(self._request(), arrays)
        return self._outputs.build([torch.from_numpy(array) for array in found])

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (*to_bytes(self.model), self.options, self._outputs))

    def _request(self) -> ov.InferRequest:
        """The request for torch's present number of threads."""
        threads = torch.get_num_threads()
        if threads not in self._requests:
            compiled = compile_graph(self.model, self.options, threads)
            self._requests[threads] = compiled.create_infer_request()
        return self._requests[threads]


def _restore(
    text: bytes, weights: bytes, options: Options, outputs: OutputStructure
) -> OpenVinoModule:
    """Make the module again, compiled for the CPU at hand."""
    model = from_bytes(text, weights)
    compiled = compile_graph(model, options, torch.get_num_threads())
    return OpenVinoModule(model, options, outputs, compiled)


class OpenVinoBackend(Backend):
    """Builds plans for OpenVINO's CPU plugin from cached statistics.

    Raises:
        ModelError: torch.export or OpenVINO refuses the model.
    """

    name = "openvino"
    suffix = ".xml"

    def __init__(self, request: BuildRequest) -> None:
        self._captured = request.captured
        self._shapes = [ov.PartialShape(list(item.shape)) for item in request.example]
        self._graph = convert_float(request.captured, request.example)
        self._layout = lay_out(self._graph, request.captured)
        settings = settle_range(request.settings, saturates)
        ranges = TensorRanges(request.captured, request.statistics, settings)
        self._assembler = Assembler(self._graph, self._layout, ranges, request.captured)
        self._read_back: dict[str, Options] = {}

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How the engine runs one scheme of one site."""
        return site_support(site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Clone the float graph, quantize what the plan says, compile, and read back."""
        model, options = self._assemble(plan)
        compiled, options = self._compile(plan, model, options)
        executed = self._compare(plan, compiled)
        self._read_back[plan.digest] = options
        return Executable(OpenVinoModule(model, options, self._graph.outputs, compiled), executed)

    def costs(
        self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Callable[[], float]
    ) -> CostTable:
        """What each op and boundary takes, by the engine's own counters."""

        def compile_counting(plan: Plan) -> tuple[ov.CompiledModel, ExecutionGraph]:
            model, options = self._assemble(plan)
            compiled, _ = self._compile(plan, model, options, counting=True)
            return compiled, ExecutionGraph(compiled, self._layout)

        return profile_costs(self._captured, compile_counting, space, inputs, clock)

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write an `.xml` file, weights in a `.bin` file beside, that OpenVINO runs by itself.

        A plan that was never built here is compiled and read back first.
        """
        if plan.digest not in self._read_back:
            self.build(plan)
        model, _ = self._assemble(plan)
        options = self._read_back[plan.digest]
        metadata = {**metadata, "reduce_range": self._assembler.weight_bits == 7}
        return write_model(model, options, path, metadata)

    def _assemble(self, plan: Plan) -> tuple[ov.Model, Options]:
        """The model of a plan, and what it is compiled with."""
        for site, scheme in plan.assignment:
            chosen = self._layout.sites.get(site)
            if chosen is None:
                raise BackendError(
                    f"the plan names the site {site!r}, which the model does not have",
                    hint="search again, or load a plan of this model",
                )
            if site_support(chosen, scheme) is Support.UNSUPPORTED:
                why = why_unsupported(scheme)
                raise BackendError(
                    f"openvino does not run {scheme.value} at {site!r} ({chosen.kind.value})"
                    + (f": {why}" if why else ""),
                    hint="choose a scheme that `autoquant backends` lists as native for it",
                    sites=(site,),
                )
        return self._assembler.assemble(plan)

    def _compile(
        self, plan: Plan, model: ov.Model, options: Options, *, counting: bool = False
    ) -> tuple[ov.CompiledModel, Options]:
        """Compile the model of a plan, for the example's very shapes first; say with what options.

        With an open batch the engine makes some kernels only when they are called, and one that
        it cannot make gives an empty output, not an error. Where its own fusion of small ops
        (snippets) takes one that it has no code for, it compiles without.
        """
        threads = torch.get_num_threads()
        fixed = model.clone()
        try:
            fixed.reshape(dict(zip(fixed.inputs, self._shapes, strict=True)))
            compile_graph(fixed, options, threads)
            return compile_graph(model, options, threads, counting=counting), options
        except RuntimeError as error:
            if options.subgraphs and "snippets" in str(error):
                plain = replace(options, subgraphs=False)
                return self._compile(plan, model, plain, counting=counting)
            raise BackendError(
                f"openvino refuses plan {plan.digest}: {str(error).strip().splitlines()[-1]}",
                hint="pin the op that it names, or those beside it, to one scheme",
            ) from error

    def _compare(self, plan: Plan, compiled: ov.CompiledModel) -> ReadBack:
        """Describe what runs, and refuse a plan that the engine did not follow."""
        executions = ExecutionGraph(compiled, self._layout).executions()
        judge = Judge.of(plan, self._layout.sites, executions)
        executed = judge.read(plan)
        refuse_substitution("openvino", plan, executed, judge.accepts)
        return executed


def write_model(model: ov.Model, options: Options, path: Path, metadata: Mapping[str, Any]) -> Path:
    """Write a model as `.xml` with its weights in `.bin` beside, and what to compile it with.

    The weights of integer sites are stored in 8 bits. The model names the options that decide
    its precision; those that the plugin reads from a model it obeys by itself, and the marks on
    single ops hold whatever the precision hint.

    Raises:
        StorageError: The file cannot be written.
    """
    written = model.clone()
    compiled = options.with_threads(metadata.get("threads", 1))
    written.set_rt_info(json.dumps({**metadata, "openvino": compiled}), [METADATA])
    for name, value in options.properties.items():
        written.set_rt_info(value, ["runtime_options", name])
    with writing(path):
        ov.serialize(written, path)
    return path
