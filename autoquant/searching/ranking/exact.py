"""Exact sensitivity: each knob and scheme alone, with what lies upstream of it computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from autoquant.core.plan import Plan
from autoquant.core.precision import Precision, Scheme
from autoquant.core.sensitivity import Part, RowKey, SensitivityRow, SensitivityTable
from autoquant.core.space import Knob
from autoquant.model.data.batches import Batch
from autoquant.model.data.outputs import OutputWeights
from autoquant.model.heap import trim_heap
from autoquant.model.numerics.rounded_graph import Choices, choices_of
from autoquant.model.numerics.rounding import Format, SchemeRounding
from autoquant.searching.ranking.marks import MarkedGraph, mark
from autoquant.searching.ranking.output_error import FloatOutputs, OutputError
from autoquant.searching.ranking.rounded_run import RoundedRun, Shared, Values, Weights
from autoquant.searching.ranking.trials import Question, Trial, by_knob, list_changes

METHOD = "one knob at a time, reference numerics, float prefix shared"
MEMORY_BYTES = 1 << 28
Keep = Callable[[Sequence[SensitivityRow]], None]


def measure_exact(
    question: Question,
    *,
    trials: Sequence[Trial] | None = None,
    around: Plan | None = None,
    known: Mapping[RowKey, SensitivityRow] | None = None,
    keep: Keep = lambda rows: None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[int], None] = lambda rows: None,
) -> SensitivityTable:
    """Measure the output error that each knob and scheme causes alone.

    Numerics are the reference computation (rounding to the scheme's grid at the same scales as
    the candidates); the rows are emulated. Only what lies downstream of a knob runs again; rows
    whose tensors round equally (int8 and int16 have the same weights) are measured once.

    With `around`, everything else is rounded as that plan says, a row is the plan with one knob
    changed to another scheme, and its noise is the whole output noise of the changed plan.

    Args:
        question: Model, knobs and data.
        trials: Which rows to measure; by default all: every knob, scheme and part, or with
            `around` every change of one knob.
        around: Measure changes of this plan instead of the float model.
        known: Rows that an earlier process measured, taken over as they are.
        keep: Called with the rows of each knob once they are there.
        memory_bytes: Tensors of the unchanged model up to this size are kept for all knobs; those
            of further chunks are computed again for each knob. At least one chunk is in memory.
        progress: Called with the number of rows done.
    """
    marked = mark(question.captured, question.space)
    if trials is None:
        trials = list_changes(question.space, around) if around else question.trials()
    rows = dict(known or {})
    base = choices_of(around) if around else {}
    runner = _Runner(marked, question.rounding, base, memory_bytes, question.outputs)
    chunks = question.chunks(memory_bytes)
    with torch.no_grad():
        for knob, wanted in by_knob(trials).items():
            missing = [trial for trial in wanted if trial.key not in rows]
            found = runner.measure(knob, missing, chunks) if missing else []
            rows.update({row.key: row for row in found})
            if found:
                keep(found)
            progress(len(wanted))
            trim_heap()
        noise = runner.base_noise(chunks) if around else 0.0
    return SensitivityTable(
        rows=tuple(rows[trial.key] for trial in trials),
        method=METHOD if around is None else f"{METHOD}, around plan {around.digest}",
        samples=sum(len(batch) for batch in chunks),
        around=around.digest if around else None,
        around_noise=noise,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """One chunk with the values that all of its rows share."""

    batch: Batch
    expected: FloatOutputs
    values: Values


class _Runner:
    """Measures the rows of one knob after the other over the same chunks."""

    def __init__(
        self,
        marked: MarkedGraph,
        rounding: SchemeRounding,
        base: Choices,
        memory_bytes: int,
        weights: OutputWeights,
    ) -> None:
        self._weights = weights
        self._marked = marked
        self._rounding = rounding
        self._base = base
        self._run = RoundedRun(marked, rounding)
        self._memory_left = memory_bytes
        self._kept: dict[int, _Chunk] = {}

    def measure(
        self, knob: Knob, trials: Sequence[Trial], chunks: Sequence[Batch]
    ) -> list[SensitivityRow]:
        """Measure rows of one knob."""
        reached = self._marked.reached(knob)
        groups = self._equal_trials(reached, trials)
        sums = [OutputError(self._weights) for _ in groups]
        weights: Weights = {}
        for chunk in self._prepared(chunks):
            shared = Shared(weights=weights)
            for group, row in zip(groups, sums, strict=True):
                row.add(chunk.expected, self._outputs(chunk, reached, group[0], shared))
        return [
            row.finish(trial) for group, row in zip(groups, sums, strict=True) for trial in group
        ]

    def base_noise(self, chunks: Sequence[Batch]) -> float:
        """Noise of the unchanged plan."""
        sums = OutputError(self._weights)
        for chunk in self._prepared(chunks):
            sums.add(chunk.expected, self._structured(chunk.values[self._marked.nodes[-1]]))
        return sums.noise()[0]

    def _prepared(self, chunks: Sequence[Batch]) -> Iterator[_Chunk]:
        """The chunks with their values: kept ones as they are, others computed again."""
        for index, batch in enumerate(chunks):
            chunk = self._kept.get(index)
            if chunk is None:
                chunk = self._prepare(batch)
                size = _bytes_of(chunk.values)
                if size <= self._memory_left:
                    self._memory_left -= size
                    self._kept[index] = chunk
            yield chunk

    def _prepare(self, batch: Batch) -> _Chunk:
        values = self._run.run_float(batch.inputs)
        expected = FloatOutputs(self._structured(values[self._marked.nodes[-1]]), batch)
        if self._base:
            values = self._run.run_plan(values, self._base)
        return _Chunk(batch, expected, values)

    def _outputs(self, chunk: _Chunk, reached: Sequence[Node], trial: Trial, shared: Shared) -> Any:
        choices = {**self._base}
        for site in trial.knob.sites:
            if trial.scheme is Scheme.FP32:
                choices.pop(site, None)
            else:
                choices[site] = (trial.scheme, trial.part)
        return self._structured(self._run.run_again(chunk.values, reached, choices, shared))

    def _structured(self, value: Any) -> Any:
        """What the output node holds, in the structure that the model returns, with its names."""
        return self._marked.nodes[-1].graph.process_outputs(value)

    def _equal_trials(self, reached: Sequence[Node], trials: Sequence[Trial]) -> list[list[Trial]]:
        """Group trials that round every tensor equally; bf16's own kernels are like no other."""
        groups: dict[object, list[Trial]] = {}
        for trial in trials:
            groups.setdefault(self._signature(reached, trial), []).append(trial)
        return list(groups.values())

    def _signature(self, reached: Sequence[Node], trial: Trial) -> object:
        """Everything that decides the outputs of a trial."""
        names, scheme, part = set(trial.knob.sites), trial.scheme, trial.part
        if self._base or (scheme.activation is Precision.BF16 and part is Part.BOTH):
            return scheme, part
        weights: list[Format | None] = []
        activations: list[Format | None] = []
        for node in reached:
            writer = self._marked.sites.lasts.get(node)
            if writer is not None and writer.name in names:
                activations.append(self._rounding.write_format(writer, scheme, node.name))
            site = self._marked.sites.roots.get(node)
            if site is not None and site.name in names:
                weights.append(self._rounding.weight_format(site, scheme))
                activations += [
                    self._rounding.read_format(site, scheme, source.name)
                    for source in self._marked.sites.operands[node].reads
                ]
        return (
            () if part is Part.ACTIVATION else tuple(weights),
            () if part is Part.WEIGHT else tuple(activations),
        )


def _bytes_of(values: Values) -> int:
    return sum(
        value.numel() * value.element_size()
        for node, value in values.items()
        if isinstance(value, Tensor) and node.op not in ("placeholder", "get_attr")
    )
