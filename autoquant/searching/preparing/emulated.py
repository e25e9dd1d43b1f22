"""What reference numerics make of a plan, on a few samples."""

from __future__ import annotations

import torch

from autoquant.model.data.batches import take_samples
from autoquant.model.data.output_noise import OutputNoises, to_decibels
from autoquant.model.data.outputs import named_outputs
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounded_graph import Choices, RoundedGraph
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.model.subject import Subject


def emulated_decibels(
    subject: Subject, captured: Capture, rounding: SchemeRounding, choices: Choices, samples: int
) -> float:
    """SQNR of the outputs against the captured float graph, in dB; of the outputs that count."""
    rounded = RoundedGraph(mark_sites(captured), rounding, choices)
    noises = OutputNoises()
    with torch.no_grad():
        for batch in take_samples(subject.evaluation or subject.calibration, samples):
            expected, found = (run(*batch.inputs) for run in (captured.graph, rounded.run))
            noises.add(named_outputs(expected), named_outputs(found), len(batch))
    return to_decibels(noises.ratio(subject.outputs)[0])
