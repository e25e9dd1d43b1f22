"""A whole backend in one file: int8 weights by rounding, all arithmetic in float."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from autoquant.backends.exported_file import writing
from autoquant.backends.protocol import (
    Backend,
    Bench,
    BuildRequest,
    Executable,
    Target,
    without_options,
)
from autoquant.core.backends import Row
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.readback import Ran, refuse_substitution
from autoquant.core.sites import OpKind, Site
from autoquant.job import BackendSettings

ROW = Row("toy_backend", "weights on a coarse grid", section="toy_backend:ToySettings")


class ToySettings(BackendSettings):
    """The bits of a weight; null: four or eight, whichever is faster."""

    bits: Annotated[int, Field(ge=2, le=8)] | None = 8


def kind_support(kind: OpKind, scheme: Scheme) -> Support:
    """int8 of every module with a weight; fp32 of everything."""
    if scheme is Scheme.FP32:
        return Support.NATIVE
    rounded = kind in (OpKind.LINEAR, OpKind.CONV2D) and scheme is Scheme.INT8
    return Support.NATIVE if rounded else Support.UNSUPPORTED


def site_support(site: Site, scheme: Scheme) -> Support:
    """The same of a site of that kind."""
    return kind_support(site.kind, scheme)


class ToyBackend(Backend):
    """Rounds the weights of the modules that a plan has in int8."""

    name = "toy"
    suffix = ".pt"

    def __init__(self, request: BuildRequest) -> None:
        self._captured = request.captured
        self._model = request.model
        self._top = 2 ** (int(request.settings.options["bits"]) - 1) - 1

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How one scheme of one site runs."""
        return site_support(site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Round weights, and read back which modules hold rounded ones."""
        model = copy.deepcopy(self._model)
        modules = dict(model.named_modules())
        for site in self._captured.sites:
            if plan[site.name] is Scheme.INT8 and self.support(site, Scheme.INT8) is Support.NATIVE:
                weight = modules[site.module].weight
                step = weight.detach().abs().max() / self._top
                with torch.no_grad():
                    weight.copy_((weight / step).round() * step)
        executed = {
            site.name: Ran(self._scheme(modules.get(site.module)), kernel="float")
            for site in self._captured.sites
        }
        refuse_substitution(self.name, plan, executed, self._accepts)
        return Executable(self._captured.calling.flatten(model), executed)

    def _scheme(self, module: nn.Module | None) -> Scheme:
        weight = getattr(module, "weight", None)
        if weight is None or weight.unique().numel() > 2 * self._top + 1:
            return Scheme.FP32
        return Scheme.INT8

    def _accepts(self, name: str, planned: Scheme) -> tuple[Scheme, ...]:
        """A site that follows another stays in float."""
        follows = {site.name: site.follows is not None for site in self._captured.sites}
        return (planned, Scheme.FP32) if follows[name] else (planned,)

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write the rounded weights, and the plan beside."""
        with writing(path):
            state = self.build(plan).module.state_dict()
            torch.save({"state": state, "autoquant": json.dumps(dict(metadata))}, path)
        return path


def choose(settings: BuildSettings, bench: Bench | None) -> BuildSettings:
    """Choose the bits that the job leaves open: by timing, or eight where nothing is timed."""
    if settings.options["bits"] is None:
        settings = settings.with_options(bits=8 if bench is None else _faster(settings, bench))
    return settings


def _faster(settings: BuildSettings, bench: Bench) -> int:
    def speedup(bits: int) -> float:
        own = settings.with_options(bits=bits)
        plan = bench.space(own).uniform(Scheme.INT8)
        return bench.time(ToyBackend(bench.request(own)), plan, pairs=3).speedup.value

    found = max((8, 4), key=speedup)
    bench.progress.note(f"bits: {found}, the fastest here")
    return found


TARGET = Target(
    open_backend=ToyBackend,
    site_support=without_options(site_support),
    kind_support=without_options(kind_support),
    variants=lambda: {"toy": BuildSettings(backend="toy", options={"bits": 8})},
    choose=choose,
)
