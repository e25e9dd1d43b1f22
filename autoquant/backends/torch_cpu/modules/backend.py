"""The module-by-module backend: a plan as a copy of the model with some modules replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.backends.protocol import Backend, BuildRequest, Executable, settle_range
from autoquant.backends.torch_cpu.engines import building, saturates, using_engine
from autoquant.backends.torch_cpu.kernel_table import KernelTable
from autoquant.backends.torch_cpu.lowered import tracing_form
from autoquant.backends.torch_cpu.modules.builder import ModuleBuilder
from autoquant.backends.torch_cpu.modules.module_costs import Built, time_modules
from autoquant.backends.torch_cpu.modules.readback import observe_modules, wrapped_calls
from autoquant.backends.torch_cpu.options import engine_of
from autoquant.backends.torch_cpu.support import module_support
from autoquant.backends.torch_cpu.torchscript import write_torchscript
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.quiet import no_warnings
from autoquant.core.readback import Ran, refuse_substitution
from autoquant.core.sites import OpKind, Site
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.module_calls import result_tensor

_READBACK_SAMPLES = 2
_REFUSALS = (
    AssertionError,
    AttributeError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


class TorchModulesBackend(Backend):
    """Replaces the modules of a model by torch's quantized, dynamic and bf16 ones.

    The model runs as the user wrote it. Every module converts its own input and output, so its
    neighbours see fp32; ops that a forward calls by function stay in fp32.
    """

    suffix = ".ts"

    def __init__(self, request: BuildRequest) -> None:
        engine = engine_of(request.settings)
        settings = settle_range(request.settings, lambda: saturates(engine))
        self.name = f"torch/{engine}"
        self._engine = engine
        self._captured = request.captured
        self._model = request.model
        self._custom = [item for item in request.captured.sites if item.kind is OpKind.CUSTOM]
        self._example = request.few_samples(_READBACK_SAMPLES)
        grids = TensorRanges(request.captured, request.statistics, settings)
        self._builder = ModuleBuilder(request.model, request.captured, grids, KernelTable(engine))

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How the engine runs one scheme of one site."""
        return module_support(self._engine, site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Replace modules at the cached scales, run the example, and read back."""
        with building(plan, self.name, self._engine, _REFUSALS):
            built, modules = self._build(plan)
            found = observe_modules(modules, lambda: self.run(built, self._example))
            custom = self._run_custom(plan, built, modules)
        executed = _read(plan, found) | custom
        hint = "pin this op to fp32 in the search space"
        refuse_substitution(self.name, plan, executed, lambda _, planned: (planned,), hint=hint)
        return Executable(built, executed)

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Run a built module, or the float model, with this engine's kernels."""
        with using_engine(self._engine), no_warnings(), torch.no_grad():
            return module(*inputs)

    def costs(
        self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Callable[[], float]
    ) -> CostTable:
        """What each module takes in each scheme, timed where it stands."""

        def build(plan: Plan) -> Built:
            with building(plan, self.name, self._engine, _REFUSALS):
                built, modules = self._build(plan)
            return lambda: self.run(built, inputs), modules

        return time_modules(space, build, clock)

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write a TorchScript file that `torch.jit.load` runs; `autoquant.json` is inside."""
        module = self.build(plan).module
        values = {**metadata, "engine": self._engine}
        with tracing_form(module):
            return write_torchscript(module, self._example, path, self._engine, values, plan.digest)

    def _run_custom(
        self, plan: Plan, built: nn.Module, modules: Mapping[str, nn.Module]
    ) -> dict[str, Ran]:
        """By custom site that is called, what runs, once it gave what the float module gives."""
        custom = {site.name: modules[site.name] for site in self._custom}
        executed = {}

        def held(
            name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            result = forward(*args, **kwargs)
            if plan[name] is not Scheme.FP32:
                expected = self._model.get_submodule(name)(*args, **kwargs)
                _refuse_other_form(name, result_tensor(result), result_tensor(expected))
            executed[name] = Ran(plan[name], kernel=type(custom[name]).__name__)
            return result

        if custom:
            with wrapped_calls(custom, held):
                self.run(built, self._example)
        return executed

    def _build(self, plan: Plan) -> tuple[nn.Module, Mapping[str, nn.Module]]:
        """The model that takes flat tensors, and the module of each site."""
        schemes = dict(plan.assignment)
        for site in self._captured.sites:
            if self.support(site, schemes[site.name]) is Support.UNSUPPORTED:
                raise BackendError(
                    f"site {site.name}: {self.name} has no {schemes[site.name].value} kernel for "
                    f"a {site.kind.value} module",
                    hint=f"leave {schemes[site.name].value} out of its schemes",
                )
        built, modules = self._builder.build(plan)
        return self._captured.calling.flatten(built), modules


def _refuse_other_form(name: str, found: Tensor | None, expected: Tensor | None) -> None:
    """Refuse what the rest of the model does not take in a float tensor's place."""
    forms = [
        "no tensor" if item is None else f"{str(item.dtype)[6:]} of shape {tuple(item.shape)}"
        for item in (found, expected)
    ]
    if forms[0] != forms[1]:
        raise BackendError(
            f"site {name}: the module in int8 gives {forms[0]}, the float one {forms[1]}",
            hint="let it take and give float tensors, of the same shape",
        )


def _read(plan: Plan, found: Mapping[str, Mapping[Scheme, str]]) -> dict[str, Ran]:
    """By site, what runs; a path for whole blocks, which skips their modules, computes in fp32."""
    executed = {}
    for name, planned in plan.assignment:
        runs = found.get(name, {})
        if len(runs) == 1:
            ((scheme, kernel),) = runs.items()
            executed[name] = Ran(scheme, kernel=kernel)
        elif not runs and planned is Scheme.FP32:
            executed[name] = Ran(Scheme.FP32)
        else:
            words = " and ".join(item.value for item in Scheme if item in runs)
            executed[name] = Ran(None, kernel=words or "nothing: another path computes the block")
    return executed
