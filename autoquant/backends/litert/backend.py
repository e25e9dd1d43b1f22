"""The LiteRT backend: a plan, written as a `.tflite` file and run by LiteRT's interpreter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoquant.backends.exported_file import METADATA, writing
from autoquant.backends.litert.convert import convert_float
from autoquant.backends.litert.flatbuffer import FloatFile, Written, write_plan
from autoquant.backends.litert.operators import MOVES, WEIGHTED
from autoquant.backends.litert.schema import operator_types
from autoquant.backends.litert.session import LiteRtModule
from autoquant.backends.litert.support import site_support
from autoquant.backends.protocol import Backend, BuildRequest, Executable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.readback import Ran, ReadBack, refuse_substitution
from autoquant.core.sites import Site
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.outputs import OutputStructure


class LiteRtBackend(Backend):
    """Builds plans from the float model, converted once for each batch size.

    LiteRT's interpreter does not say what an operator takes, so there are no costs.
    """

    name = "litert"
    suffix = ".tflite"

    def __init__(self, request: BuildRequest) -> None:
        self._captured = request.captured
        self._ranges = TensorRanges(request.captured, request.statistics, request.settings)
        self._sites = request.captured.by_name
        self._batches = {len(item[0]): item for item in (request.timed, request.example)}
        self._example = len(request.example[0])
        self._files: dict[int, FloatFile] = {}
        with torch.no_grad():
            self._structure = OutputStructure.of(self._captured.graph(*request.example))
        self._file(self._example)

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How LiteRT runs one scheme of one site."""
        return site_support(site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Write the file, and read back from it what each site runs.

        Sites that follow another (a norm, an activation) and have no kernel for its scheme run in
        fp32, and `executed` says so.
        """
        written = self._written(plan, self._example)
        executed = self._check(plan, written)
        sizes = [self._example, *(size for size in self._batches if size != self._example)]

        def write(size: int) -> bytes:
            if size == self._example:
                return written.content
            again = self._written(plan, size)
            self._check(plan, again)
            return again.content

        return Executable(LiteRtModule(write, sizes, self._structure), executed)

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write a `.tflite` file for the batch size of the latency measurement.

        Its metadata holds the plan under the name `autoquant`, as JSON.
        """
        size = next(iter(self._batches))
        text = json.dumps({**metadata, "engine": self.name, "batch_size": size}).encode()
        written = self._written(plan, size, {METADATA: text})
        self._check(plan, written)
        path = Path(path)
        with writing(path):
            path.write_bytes(written.content)
        return path

    def _file(self, size: int) -> FloatFile:
        if size not in self._files:
            self._files[size] = convert_float(self._captured, self._batches[size], self._ranges)
        return self._files[size]

    def _written(
        self, plan: Plan, size: int, metadata: Mapping[str, bytes] | None = None
    ) -> Written:
        return write_plan(self._file(size), dict(plan.assignment), metadata=metadata)

    def _check(self, plan: Plan, written: Written) -> ReadBack:
        """Say what runs, and refuse a file that does not follow its plan."""
        executed = self._read(plan, written)
        refuse_substitution(self.name, plan, executed, self._accepts)
        return executed

    def _read(self, plan: Plan, written: Written) -> dict[str, Ran]:
        """By site, what the operators of a file compute in."""
        found = read_back(written)
        return {site: self._ran(site, planned, found) for site, planned in plan.assignment}

    def _ran(self, site: str, planned: Scheme, found: Mapping[str, Operators]) -> Ran:
        if site not in found:  # the converter folded it
            support = self.support(self._sites[site], planned)
            return Ran(Scheme.FP32) if support is Support.UNSUPPORTED else Ran(planned, support)
        scheme, *others = found[site].schemes
        if scheme is None or others:
            return Ran(None, kernel="mixed types")
        if self.support(self._sites[site], scheme) is Support.UNSUPPORTED:
            return Ran(None, kernel="nothing: LiteRT has no such kernel")
        how = Support.EMULATED if scheme is Scheme.FP16 else Support.NATIVE
        return Ran(scheme, how, found[site].name)

    def _accepts(self, site: str, planned: Scheme) -> tuple[Scheme, ...]:
        """What may run for a plan: fp32 too, at a site that follows another."""
        follows = self._sites[site].follows is not None
        return (planned, Scheme.FP32) if follows else (planned,)


_ACTIVATIONS = {
    "INT8": Scheme.INT8,
    "INT16": Scheme.INT16,
    "FLOAT16": Scheme.FP16,
    "FLOAT32": Scheme.FP32,
}
_WEIGHTS = {
    Scheme.INT8: "INT8",
    Scheme.INT16: "INT8",
    Scheme.FP16: "FLOAT16",
    Scheme.FP32: "FLOAT32",
}
_CONTROL = frozenset({"", "INT32", "INT64", "BOOL"})
"""Types of biases, axes, shapes and masks: they do not say in what an operator computes."""


@dataclass(frozen=True, slots=True)
class Operators:
    """The operators of one site.

    Attributes:
        name: Of the first.
        schemes: In which they compute; None where types of one operator do not agree.
    """

    name: str
    schemes: frozenset[Scheme | None]


def read_back(written: Written) -> Mapping[str, Operators]:
    """By site, what its operators are.

    Operators that only move values, conversions between formats, and what makes masks and places
    are left out.
    """
    found: dict[str, Operators] = {}
    types = operator_types(written.content)
    for operator, (name, reads, writes) in zip(written.operators, types, strict=True):
        if operator.source is None or name in MOVES or _CONTROL.issuperset({*reads, *writes}):
            continue
        for site in operator.writes:
            known = found.get(site, Operators(name, frozenset()))
            schemes = known.schemes | {_scheme(name, reads, writes)}
            found[site] = Operators(known.name, schemes)
    return found


def _scheme(name: str, reads: list[str], writes: list[str]) -> Scheme | None:
    """The scheme that the types of one operator mean."""
    facts = WEIGHTED.get(name)
    if facts is None:
        return _only([*reads, *writes])
    scheme = _only([reads[facts.data], *writes])
    return scheme if scheme is not None and reads[facts.weight] == _WEIGHTS[scheme] else None


def _only(types: Iterable[str]) -> Scheme | None:
    used = set(types) - _CONTROL
    return _ACTIVATIONS.get(used.pop()) if len(used) == 1 else None
