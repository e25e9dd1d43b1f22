"""Plan -> model, module by module: each weighted module lowered alone, between float neighbours."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoquant.backends.torch_cpu.kernel_table import KernelTable
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.backends.torch_cpu.lowering import Lowering
from autoquant.core.calls import show
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import LOOKUPS, OpKind, Site
from autoquant.errors import BackendError, first_line
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.capture import capture
from autoquant.model.graph.captured import INPUT_OF, Capture
from autoquant.model.graph.custom_module import Observed, custom_module


class ModuleBuilder:
    """Builds the modules of plans; each is built once for a site and a scheme."""

    def __init__(
        self, model: nn.Module, captured: Capture, grids: TensorRanges, table: KernelTable
    ) -> None:
        self._model = model
        self._captured = captured
        self._grids = grids
        self._table = table
        self._lowerings: dict[str, tuple[Capture, Lowering]] = {}
        self._known: dict[tuple[str, Scheme], nn.Module] = {}

    def build(self, plan: Plan) -> tuple[nn.Module, Mapping[str, nn.Module]]:
        """Give the model with its sites replaced, and the module of each site.

        Weights that stay in float are shared with the float model.

        Raises:
            BackendError: A module has no kernel of its scheme.
            ModelError: A module cannot be exported alone.
        """
        built = copy_sharing(self._model).eval()
        schemes = dict(plan.assignment)
        modules: dict[str, nn.Module] = {}
        for site in self._captured.sites:
            scheme = schemes[site.name]
            old = built.get_submodule(site.module)
            new = old if scheme is Scheme.FP32 else self._module(site, scheme)
            modules[site.name] = new
            if new is not old:
                _replace(built, old, new)
        return built, modules

    def _module(self, site: Site, scheme: Scheme) -> nn.Module:
        if (site.name, scheme) not in self._known and site.kind is OpKind.CUSTOM:
            self._known[site.name, scheme] = self._custom(site)
        if (site.name, scheme) not in self._known:
            captured, lowering = self._lowering(site)
            plan = dict.fromkeys((item.name for item in captured.sites), scheme)
            made = LoweredModel.of(lowering.lower(plan, {}), self._table.engine)
            self._known[site.name, scheme] = _InLayout(made)
        return self._known[site.name, scheme]

    def _custom(self, site: Site) -> nn.Module:
        """What the user's own function makes of a module."""
        module = self._model.get_submodule(site.module)
        own = custom_module(module)
        if own is None:
            raise TypeError(f"{site.name} is no custom module")
        keys = (f"{site.name}{INPUT_OF}", site.name)
        observed = Observed(*map(self._grids.int8_grid, keys))
        kind = type(module).__name__
        try:
            made = own.int8(module, observed)
        except Exception as error:
            raise BackendError(
                f"site {site.name}: {kind}.autoquant.int8 raised "
                f"{type(error).__name__}: {first_line(error)}",
                hint=f"mend it, or pin {site.name} to fp32",
            ) from error
        if not isinstance(made, nn.Module) or made is module:
            raise BackendError(
                f"site {site.name}: {kind}.autoquant.int8 gave {show(made)}",
                hint="let it give another module, the quantized one",
            )
        return made.eval()

    def _lowering(self, site: Site) -> tuple[Capture, Lowering]:
        if site.name not in self._lowerings:
            wrapped = _Alone(self._model.get_submodule(site.module)).eval()
            example = _example(site)
            captured = capture(wrapped, (example,), how="export", dynamic=[_free_axes(site)])
            grids = _SiteGrids(site, captured, self._grids)
            self._lowerings[site.name] = (captured, Lowering(captured, grids, self._table))
        return self._lowerings[site.name]


class _Alone(nn.Module):
    """A module with a name, called with one tensor."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


class _InLayout(nn.Module):
    """A lowered module in the place of a float one.

    Its outputs lie in memory as its input does, since the model may view them. Its hook has torch's
    encoder layers call it: without any they read the weights of their linear layers themselves.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_forward_pre_hook(_nothing)

    def forward(self, x: Tensor) -> Any:
        found = self.inner(x)
        if not x.is_contiguous():
            return found
        return pytree.tree_map_only(Tensor, lambda item: item.contiguous(), found)


def _nothing(module: nn.Module, given: tuple[Any, ...]) -> None:
    """Change nothing before a call."""


class _SiteGrids:
    """Grids of a module's graph: what the site reads, and what it writes."""

    def __init__(self, site: Site, captured: Capture, grids: TensorRanges) -> None:
        self._keys = dict.fromkeys(captured.lasts, site.name)
        self._read = f"{site.name}{INPUT_OF}"
        self._grids = grids
        self.weight_bits = grids.weight_bits

    def int8_grid(self, tensor: str) -> Grid:
        """Grid of a tensor by the name of its node."""
        return self._grids.int8_grid(self._keys.get(tensor, self._read))

    def int16_grid(self, tensor: str) -> Grid:
        """Symmetric grid of a tensor."""
        return self._grids.int16_grid(self._keys.get(tensor, self._read))


def _example(site: Site) -> Tensor:
    (shape, *_) = site.input_shapes
    if site.kind in LOOKUPS:
        return torch.zeros(shape, dtype=torch.int64)
    return torch.zeros(shape)


def _free_axes(site: Site) -> tuple[int, ...]:
    """Axes of the input whose size may change: all but channels."""
    (shape, *_) = site.input_shapes
    axes = range(len(shape))
    if site.kind in LOOKUPS:
        return tuple(axes)
    channels = 1 if site.kind.value.startswith("conv") else len(shape) - 1
    return tuple(axis for axis in axes if axis != channels)


def copy_sharing(model: nn.Module) -> nn.Module:
    """Copy a model's modules; parameters and buffers are shared."""
    shared = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` at every path of `old`, in place."""
    paths = [path for path, item in model.named_modules(remove_duplicate=False) if item is old]
    for path in paths:
        model.set_submodule(path, new)
