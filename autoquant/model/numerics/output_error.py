"""What rounding some sites of a graph does to its outputs."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from autoquant.model.data.batches import Batch
from autoquant.model.data.output_noise import OutputNoises
from autoquant.model.data.outputs import named_outputs
from autoquant.model.graph.captured import Capture
from autoquant.model.numerics.rounded_graph import RoundedGraph


def output_noises(
    captured: Capture, rounded: RoundedGraph, batches: Iterable[Batch]
) -> OutputNoises:
    """Gather signal and noise of the outputs."""
    noises = OutputNoises()
    with torch.no_grad():
        for batch in batches:
            expected, found = (run(*batch.inputs) for run in (captured.graph, rounded.run))
            noises.add(named_outputs(expected), named_outputs(found), len(batch))
    return noises
