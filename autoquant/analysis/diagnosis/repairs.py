"""Counterfactuals: how large the output error would be without certain roundings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from autoquant.analysis.badcases.sample_error import energies
from autoquant.analysis.diagnosis.module_marks import MarkedGraph
from autoquant.analysis.diagnosis.module_run import RoundedRun
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part
from autoquant.core.sites import Site
from autoquant.model.batches import Batch
from autoquant.model.outputs import output_rows
from autoquant.model.ranges.grid import Grid
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.qconfig import QuantizationSettings
from autoquant.model.torch_ao.rounding import Format, SchemeRounding


class BuiltRounding(SchemeRounding):
    """Rounds tensors on the grids that a built plan really has, and some not at all.

    Args:
        sites: By name.
        settings: What the target decides.
        cache: Scales of the tensors that have no grid in `grids`.
        grids: By tensor, from `read_grids`; None: it is not rounded.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        settings: QuantizationSettings,
        cache: ScaleCache,
        grids: Mapping[str, Grid | None],
    ) -> None:
        super().__init__(sites, settings, cache)
        self._grids = grids

    def input_format(self, site: Site, scheme: Scheme, tensor: str) -> Format | None:
        """How an input is rounded; `tensor` is the name of the node that gives it."""
        planned = super().input_format(site, scheme, tensor)
        return self._built(planned, tensor)

    def output_format(self, site: Site, scheme: Scheme, tensor: str) -> Format | None:
        """How the output is rounded; `tensor` is the name of the node that gives it."""
        planned = super().output_format(site, scheme, tensor)
        return self._built(planned, tensor)

    def _built(self, planned: Format | None, tensor: str) -> Format | None:
        return self._grids.get(tensor, planned) if isinstance(planned, Grid) else planned


@dataclass(frozen=True, slots=True, eq=False)
class Repairs:
    """Measures the output error of a plan with some of its faults mended, by reference numerics.

    Attributes:
        marked: The float graph.
        sites: By name.
        settings: What the target decides.
        cache: Scales by tensor.
        grids: Of the built plan.
        plan: What was built.
        probe: The samples on which errors are measured.
    """

    marked: MarkedGraph
    sites: Mapping[str, Site]
    settings: QuantizationSettings
    cache: ScaleCache
    grids: Mapping[str, Grid]
    plan: Plan
    probe: Batch

    def noise(
        self,
        mended: Mapping[str, Grid | None] = MappingProxyType({}),
        raised: Collection[str] = (),
        exact_weights: Collection[str] = (),
    ) -> Tensor:
        """Noise-to-signal ratio of each sample's outputs, shape (samples,), float64.

        Args:
            mended: By tensor, the grid that it has instead; None: it is not rounded.
            raised: Names of the ops that are left in fp32.
            exact_weights: Names of the ops whose weights alone are not rounded.
        """
        rounding = BuiltRounding(self.sites, self.settings, self.cache, {**self.grids, **mended})
        run = RoundedRun(self.marked, rounding)
        choices = {
            site: (scheme, Part.ACTIVATION if site in exact_weights else Part.BOTH)
            for site, scheme in self.plan.assignment
            if scheme is not Scheme.FP32 and site not in raised
        }
        output = self.marked.nodes[-1]
        with torch.no_grad():
            values = run.run_float(self.probe.inputs)
            expected = output_rows(values[output], self.probe)
            found = output_rows(run.run_plan(values, choices)[output], self.probe)
        signal, noise = energies(expected, found)
        return noise / signal.clamp_min(torch.finfo(torch.float64).tiny)
