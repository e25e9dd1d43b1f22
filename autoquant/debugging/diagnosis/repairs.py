"""Counterfactuals: how large the output error would be without certain roundings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor
from torch.fx import Interpreter

from autoquant.backends.protocol import IntegerWriter
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part
from autoquant.core.sites import Site
from autoquant.debugging.diagnosis.grids import planned_grids
from autoquant.debugging.samples.sample_error import energies, noise_ratio
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import Batch
from autoquant.model.data.outputs import output_rows
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounded_graph import RoundedGraph
from autoquant.model.numerics.rounding import Format, SchemeRounding

_CHUNK = 8
"""Samples that run at once: memory is that of their activations."""


class MendedRounding(SchemeRounding):
    """Rounds tensors as a plan's schemes do, but some on other grids, or not at all.

    Args:
        ranges: Of all tensors.
        writers: Kinds and schemes whose kernels write integers, whoever reads them.
        mended: By tensor; None: it is not rounded.
    """

    def __init__(
        self,
        ranges: TensorRanges,
        writers: Collection[IntegerWriter],
        mended: Mapping[str, Grid | None],
    ) -> None:
        super().__init__(ranges, writers)
        self._mended = mended

    def read_format(self, site: Site, scheme: Scheme, tensor: str) -> Format | None:
        """How a tensor is rounded where the site reads it; None: not at all."""
        return self._of(super().read_format(site, scheme, tensor), tensor)

    def write_format(self, site: Site, scheme: Scheme, tensor: str) -> Format | None:
        """How a tensor is rounded where the site writes it; None: not at all."""
        return self._of(super().write_format(site, scheme, tensor), tensor)

    def _of(self, planned: Format | None, tensor: str) -> Format | None:
        if not isinstance(planned, Grid):
            return planned
        found = self._mended.get(tensor, planned)
        return found if found is None or _is_as_fine(found, planned) else planned


class Repairs:
    """Measures the output error of a plan with some of its faults mended, by reference numerics.

    What the model returns is not rounded, as where a target hands that out so; kernels that write
    integers whoever reads them (torch's onednn) round it once more.
    """

    def __init__(
        self,
        marked: SiteNodes,
        ranges: TensorRanges,
        writers: Collection[IntegerWriter],
        plan: Plan,
        probe: Batch,
    ) -> None:
        self.plan = plan
        self._marked = marked
        self._ranges = ranges
        self._writers = writers
        self._unread = _unread(marked, planned_grids(marked, plan, SchemeRounding(ranges, writers)))
        self._probe = probe

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
        choices = {
            site: (scheme, Part.ACTIVATION if site in exact_weights else Part.BOTH)
            for site, scheme in self.plan.assignment
            if scheme is not Scheme.FP32 and site not in raised
        }
        rounding = MendedRounding(self._ranges, self._writers, {**self._unread, **mended})
        run = RoundedGraph(self._marked, rounding, choices)
        return noise_ratio(*energies(self._expected, self._rows(run)))

    @cached_property
    def _expected(self) -> Sequence[Tensor]:
        return self._rows(Interpreter(self._marked.module))

    @cached_property
    def _chunks(self) -> tuple[Batch, ...]:
        """The probe in parts; whole where an output has no row for each sample."""
        first, *rest = self._probe.parts(_CHUNK)
        with torch.no_grad():
            rows = output_rows(self._marked.module(*first.inputs), first)
        return (first, *rest) if len(rows[0]) == len(first) else (self._probe,)

    def _rows(self, run: Interpreter) -> list[Tensor]:
        """Every output as rows, one for each sample."""
        with torch.no_grad():
            parts = [output_rows(run.run(*chunk.inputs), chunk) for chunk in self._chunks]
        return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def _unread(marked: SiteNodes, grids: Mapping[str, Grid]) -> dict[str, Grid | None]:
    """Results that no site keeps in integers."""
    return {node.name: None for node in marked.lasts if node.name not in grids}


def _is_as_fine(grid: Grid, planned: Grid) -> bool:
    """Whether two grids are of one precision; a tensor may be read in several."""
    return (grid.high - grid.low > 255) == (planned.high - planned.low > 255)
