"""What each op and boundary takes on an accelerator, from its description."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autoquant.backends.profile.reading import SOURCE
from autoquant.backends.profile.schema import FUSED, Accelerator
from autoquant.backends.profile.traffic import Traffic
from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind
from autoquant.core.precision import Precision, Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.errors import BackendError
from autoquant.model.graph.captured import Capture

_BIAS_BYTES = 4
_CONVOLUTIONS = frozenset({OpKind.CONV1D, OpKind.CONV2D, OpKind.CONV3D})
_GROUPS = 6
"""Position among the arguments of a convolution."""


def priced_scheme(site: Site, scheme: Scheme) -> Scheme:
    """The scheme that a site is priced as: without weights, int16 weights leave int8."""
    return Scheme.INT8 if scheme is Scheme.INT16_WEIGHT and not site.kind.is_weighted else scheme


class Estimator:
    """Prices the sites of one captured model on one accelerator.

    The time of an op is that of its arithmetic or of its memory traffic, whichever is longer
    (the roofline of Williams et al., CACM 52(4), 2009), plus a fixed launch. Every reader of a
    tensor in another format converts it for itself, so that the total is a sum over ops and
    boundaries.
    """

    def __init__(
        self, accelerator: Accelerator, captured: Capture, traffic: Traffic, example_batch: int
    ) -> None:
        self._accelerator = accelerator
        self._sites = captured.sites
        self._kinds = {site.name: site.kind for site in captured.sites}
        self._traffic = traffic
        self._example_batch = example_batch
        self._depthwise = _depthwise_sites(captured)

    def table(self, support: Mapping[str, Iterable[Scheme]], batch: int) -> CostTable:
        """Price every choice for calls with `batch` samples.

        Raises:
            BackendError: Measured times are of another batch.
        """
        self._check_batch(batch)
        formats = {
            site.name: {scheme: scheme.activation for scheme in support[site.name]}
            for site in self._sites
        }
        ops = {
            (site.name, scheme): self._op_ms(site, scheme, batch)
            + self._outside_ms(site.name, scheme.activation, batch)
            for site in self._sites
            for scheme in support[site.name]
        }
        edges = {
            (writer, reader): {
                (before, after): sum(self._convert_ms(*pair, size, batch) for size in sizes)
                for before in formats[writer]
                for after in formats[reader]
                if (pair := (before.activation, after.activation))[0] is not pair[1]
            }
            for (writer, reader), sizes in self._traffic.between.items()
        }
        return CostTable(self._accelerator.call_us / 1e3, ops, edges, Kind.ESTIMATED, "ms")

    def _op_ms(self, site: Site, chosen: Scheme, batch: int) -> float:
        scheme = priced_scheme(site, chosen)
        measured = self._accelerator.measured_ms(site, scheme)
        if measured is not None:
            return measured
        rate = self._accelerator.rate(site.kind, scheme)
        if rate is None:
            raise ValueError(f"{site.name} is not described in {scheme.value}")
        within = self._kinds.get(site.follows or "") in self._accelerator.function(site).fused_into
        if rate == FUSED or within:
            return 0.0
        if site.name in self._depthwise:
            rate *= self._accelerator.depthwise_share
        work = site.macs * batch if site.macs else self._scaled(_largest_tensor(site), batch)
        busiest = max(work / rate, self._traffic_seconds(site, scheme, batch))
        return busiest * 1e3 + self._accelerator.launch_us / 1e3

    def _traffic_seconds(self, site: Site, scheme: Scheme, batch: int) -> float:
        bandwidth = self._accelerator.bandwidth
        if bandwidth is None:
            raise ValueError("rates without bandwidth")  # reading refuses that
        weight_bits = scheme.weight.bits if site.kind.is_weighted else Precision.FP32.bits
        biases = site.parameter_count - site.weight_count
        weight_bytes = site.weight_count * weight_bits / 8 + biases * _BIAS_BYTES
        elements = sum(map(math.prod, _inputs(site))) + math.prod(site.output_shape)
        activation_bytes = self._scaled(elements, batch) * scheme.activation.bits / 8
        return weight_bytes / bandwidth.weights + activation_bytes / bandwidth.activations

    def _outside_ms(self, site: str, chosen: Precision, batch: int) -> float:
        outside = self._accelerator.outside
        if outside is None or outside is chosen:
            return 0.0
        read = self._traffic.read_from_outside.get(site, ())
        written = self._traffic.written_outside.get(site, ())
        return sum(self._convert_ms(outside, chosen, size, batch) for size in read) + sum(
            self._convert_ms(chosen, outside, size, batch) for size in written
        )

    def _convert_ms(self, before: Precision, after: Precision, elements: int, batch: int) -> float:
        conversion = self._accelerator.conversions[before][after]
        seconds = self._scaled(elements, batch) / conversion.elements_per_second
        return seconds * 1e3 + conversion.fixed_us / 1e3

    def _scaled(self, elements: int, batch: int) -> float:
        """Elements of activations for another batch than the example's."""
        return elements * batch / self._example_batch

    def _check_batch(self, batch: int) -> None:
        measured = self._accelerator.measured
        if measured is not None and measured.batch != batch:
            raise BackendError(
                f"{SOURCE}: measured.batch is {measured.batch}, but a call has {batch} samples",
                hint=f"set backend.batch_size: {measured.batch}, or measure calls of {batch}",
            )


def _inputs(site: Site) -> tuple[tuple[int, ...], ...]:
    """Shapes of the activations that a site reads; a functional one lists its weight too."""
    is_functional = site.kind.is_weighted and site.function is not None
    return site.input_shapes[:1] if is_functional else site.input_shapes


def _largest_tensor(site: Site) -> int:
    return max(math.prod(shape) for shape in (*_inputs(site), site.output_shape))


def _depthwise_sites(captured: Capture) -> frozenset[str]:
    """Convolutions whose every output channel reads one input channel."""
    found = set()
    for site in captured.sites:
        root = captured.nodes.get(captured.members[site.name][0][0])
        if root is None or site.kind not in _CONVOLUTIONS:
            continue
        channels = site.input_shapes[0][1]
        if 1 < channels == (root.args[_GROUPS] if len(root.args) > _GROUPS else 1):
            found.add(site.name)
    return frozenset(found)
