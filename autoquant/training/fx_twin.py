"""The fake-quantized twin of a plan: what is trained computes as the engine will, in float."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.core.statistics import CalibrationStatistics
from autoquant.model.calibration import calibrate
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.conversion import prepare, quiet_torch
from autoquant.model.torch_ao.fake_quantized import (
    cast_through_bfloat16,
    fake_quantize,
    round_straight,
)
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.qconfig import QuantizationSettings, build_qconfig_mapping
from autoquant.model.torch_ao.rounding import Format, SchemeRounding
from autoquant.training.fx_weights import FxWeights


class FxTwin:
    """A plan's fake-quantized model over trainable weights.

    Observers of torch's own `prepare` become fake-quantizes, so that tensors are rounded exactly
    where the converted model quantizes them; weights are rounded after batch norms are folded into
    them. Sites in fp32 are left alone. Everything runs in eval mode: no dropout, no batch
    statistics.

    Args:
        captured: The captured float model.
        plan: A scheme for every site.
        settings: What the target decides.
        weights: What is trained.
        example: One batch.
    """

    def __init__(
        self,
        captured: Capture,
        plan: Plan,
        settings: QuantizationSettings,
        weights: FxWeights,
        example: tuple[Tensor, ...],
    ) -> None:
        self.weights = weights
        self._captured = captured
        self._plan = plan
        self._settings = settings
        self._example = example
        self._sites = {site.name: site for site in captured.sites}
        self._graph: GraphModule | None = None
        self._statistics: CalibrationStatistics | None = None
        self._formats: dict[str, Format] = {}

    def take_ranges(self, statistics: CalibrationStatistics) -> None:
        """Round activations on the scales that calibration found."""
        cache = ScaleCache(statistics, self._settings.ranges.fixed_tensors)
        mapping = build_qconfig_mapping(
            self._captured.addresses, self._sites, self._plan, self._settings
        )
        graph = prepare(self._captured.traced, mapping, self._example)
        with quiet_torch():
            fake_quantize(graph, cache)
        groups = [
            group
            for site, found in self._captured.members.items()
            if self._plan[site] is Scheme.BF16
            for group in found
        ]
        cast_through_bfloat16(graph, groups, self._captured.no_tensors)
        rounding = SchemeRounding(self._sites, self._settings, cache)
        self._formats = dict(self._weight_formats(graph, rounding))
        self._graph = graph.eval()
        self._statistics = statistics

    @property
    def statistics(self) -> CalibrationStatistics:
        """The ranges that it rounds on."""
        if self._statistics is None:
            raise ValueError("take_ranges comes first")
        return self._statistics

    def calibrate(self, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """Calibrate the float model with the weights as they are now, and take the ranges."""
        graph = _with_parameters(self._captured.graph, self.weights.graph_parameters())
        current = replace(self._captured, traced=replace(self._captured.traced, module=graph))
        self.take_ranges(calibrate(current, batches))

    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        """Compute outputs; gradients reach the weights."""
        if self._graph is None:
            raise ValueError("take_ranges comes first")
        parameters = {
            name: round_straight(self._formats[name], value) if name in self._formats else value
            for name, value in self.weights.graph_parameters().items()
        }
        _feed_recurrent(self._graph, parameters)
        return functional_call(self._graph, parameters, inputs)

    def _weight_formats(
        self, graph: GraphModule, rounding: SchemeRounding
    ) -> list[tuple[str, Format]]:
        """How each of the graph's parameters is rounded; those that are not are left out."""
        found = []
        for site in self._sites.values():
            scheme = self._plan[site.name]
            chosen = rounding.weight_format(site, scheme)
            if site.function is None and chosen is not None:
                names = _stored_parameters(graph.get_submodule(site.module), site, scheme)
                found += [(name, chosen) for name in names]
        return found


def _stored_parameters(module: nn.Module, site: Site, scheme: Scheme) -> list[str]:
    """Parameters that a scheme rounds: weights, and under bf16 biases too."""
    return [
        f"{site.module}.{name}"
        for name, _ in module.named_parameters()
        if scheme is Scheme.BF16 or name.rpartition(".")[2].startswith("weight")
    ]


def _with_parameters(graph: GraphModule, parameters: dict[str, Tensor]) -> GraphModule:
    """A copy of a float graph that holds these values."""
    copied = copy.deepcopy(graph)
    with torch.no_grad():
        for name, value in parameters.items():
            copied.get_parameter(name).copy_(value)
    return copied


def _feed_recurrent(graph: GraphModule, parameters: dict[str, Tensor]) -> None:
    """Hand recurrent modules their weights: they read a list that functional_call does not swap."""
    for path, module in graph.named_modules():
        if isinstance(module, nn.RNNBase):
            names = map(str, module._flat_weights_names)
            module._flat_weights = [parameters[f"{path}.{name}"] for name in names]
