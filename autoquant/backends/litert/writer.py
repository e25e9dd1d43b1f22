"""Rewrites a converted float file operator by operator."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoquant.backends.litert.constants import Constant, Constants
from autoquant.backends.litert.formats import FLOAT32, TYPES, Format, Formats
from autoquant.backends.litert.operators import MOVED_INPUT, MOVES, SAME_SCALE, WEIGHTED, Weights
from autoquant.backends.litert.origins import Origins
from autoquant.backends.litert.schema import INT32_BIAS, Graph
from autoquant.core.precision import Scheme

_LARGEST_FACTOR = 255.0
"""From a step of the accumulators of an int8 kernel to one of its output."""


@dataclass(frozen=True, slots=True)
class WrittenOperator:
    """One operator of a written file.

    Attributes:
        name: What it computes (`CONV_2D`, `QUANTIZE`).
        sites: Sites that it helps to compute; for a conversion, those of its reader.
        source: Its index in the float file; None for a conversion between formats.
        node: The captured node whose value it writes; empty where only the converter knows it.
        writes: Those of the sites whose values it computes: not those that hand their format on.
        writers: For a conversion, the sites that wrote what it converts.
    """

    name: str
    sites: tuple[str, ...]
    source: int | None
    node: str
    writes: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()


class PlanWriter:
    """One pass over the operators of a converted float file, in execution order."""

    def __init__(
        self,
        source: Graph,
        origins: Origins,
        formats: Formats,
        constants: Constants,
        float_outputs: Collection[int],
    ) -> None:
        self.graph = source.copied()
        self.table: list[WrittenOperator] = []
        self._float = source
        self._origins = origins
        self._formats = formats
        self._constants = constants
        self._float_outputs = float_outputs
        self._operators: list[Any] = []
        self._home: dict[int, tuple[int, Format]] = {}
        self._copies: dict[tuple[int, Format], int] = {}
        self._writers: dict[int, tuple[str, ...]] = {}
        self._sites: tuple[str, ...] = ()
        self._readers: dict[int, list[int]] = {}
        for index, operator in enumerate(source.operators):
            for tensor in source.reads(operator):
                self._readers.setdefault(tensor, []).append(index)

    def take_inputs_as(self, schemes: Mapping[int, Scheme]) -> None:
        """Give each input the format in which the first operator that computes reads it."""
        carried = {tensor: tensor for tensor in self._float.inputs}
        for index, operator in enumerate(self._float.operators):
            moves = self._float.op_name(operator) in MOVES
            for tensor in self._float.reads(operator):
                origin = carried.get(tensor)
                if origin is None:
                    continue
                if moves:
                    carried.update(dict.fromkeys(self._float.writes(operator), origin))
                elif origin not in self._home and self._is_activation(tensor):
                    self._set_home(origin, self._wanted(tensor, schemes.get(index, Scheme.FP32)))

    def write(self, schemes: Mapping[int, Scheme]) -> None:
        """Rewrite every operator."""
        for index, operator in enumerate(self._float.operators):
            self._sites = self._origins.sites_of(index)
            if self._float.op_name(operator) in MOVES:
                edited = self._moved(operator, self._reader_scheme(operator, schemes))
            else:
                edited = self._computed(operator, schemes.get(index, Scheme.FP32))
            self._append(edited, index, self._float.writes(operator)[0])

    def return_floats(self) -> None:
        """Convert outputs back to float32, as the model gives them."""
        self._sites = ()
        for tensor in self._float_outputs:
            if self._held(tensor)[1] != FLOAT32:
                self._convert(tensor, FLOAT32, into=tensor)

    def finished(self) -> bytes:
        """Write the file."""
        self.graph.subgraph.operators = self._operators
        self.graph.drop_unused()
        return self.graph.pack()

    def _reader_scheme(self, operator: Any, schemes: Mapping[int, Scheme]) -> Scheme | None:
        """Scheme of the one operator that reads what the converter moves for it alone.

        A pad before a strided convolution is such a move: after the conversion, not before it,
        an NPU's compiler makes it part of the convolution.
        """
        (written,) = self._float.writes(operator)[:1]
        readers = self._readers.get(written, [])
        is_own = written not in self._origins.nodes and len(readers) == 1
        return schemes.get(readers[0]) if is_own else None

    def _moved(self, operator: Any, scheme: Scheme | None) -> Any:
        """An operator that moves values, in the format of what it moves or of its one reader."""
        reads = self._float.reads(operator)
        moved = reads[MOVED_INPUT.get(self._float.op_name(operator), 0)]
        source, format_ = self._held(moved)
        if scheme is not None:
            source, format_ = self._read(moved, None, scheme), self._read_format(moved, scheme)
        inputs = [
            source
            if tensor == moved
            else self._add(self._constants.stored(tensor, format_), tensor)
            if self._is_operand(tensor) and format_ != FLOAT32
            else self._held(tensor)[0]
            for tensor in reads
        ]
        return self._edited(operator, inputs, format_)

    def _computed(self, operator: Any, scheme: Scheme) -> Any:
        """An operator that computes, under its scheme."""
        name = self._float.op_name(operator)
        reads = self._float.reads(operator)
        wanted = self._wanted(self._float.writes(operator)[0], scheme)
        if name in SAME_SCALE and scheme.is_static_integer and name != "CONCATENATION":
            wanted = self._read_format(reads[0], scheme)
        inputs = [
            self._read(tensor, wanted if name == "CONCATENATION" else None, scheme)
            if self._is_activation(tensor)
            else tensor
            for tensor in reads
        ]
        if wanted.type_name == "INT8" and name in WEIGHTED:
            wanted = self._wide_enough(wanted, reads, WEIGHTED[name])
        edited = self._edited(operator, inputs, wanted)
        if scheme is not Scheme.FP32:
            self._replace_constants(edited, operator, scheme)
            self._set_options(edited)
        return edited

    def _wide_enough(self, wanted: Format, reads: Sequence[int], facts: Weights) -> Format:
        """What an op writes, in steps that its kernel takes: XNNPACK knows no factor from 256 on.

        What calibration saw nothing but zeros of has the least steps that there are.
        """
        scales = self._constants.weight_scales(reads[facts.weight], facts)
        step = self._read_format(reads[facts.data], Scheme.INT8).scale * float(scales.max())
        return replace(wanted, scale=max(wanted.scale, step / _LARGEST_FACTOR))

    def _replace_constants(self, edited: Any, operator: Any, scheme: Scheme) -> None:
        """Put the rounded weight, bias and operands in place of the float ones."""
        reads = self._float.reads(operator)
        facts = WEIGHTED.get(self._float.op_name(operator))
        for position, tensor in enumerate(reads):
            if not self._is_operand(tensor):
                continue
            if facts is None or scheme is Scheme.FP16:
                constant = self._constants.operand(tensor, scheme)
            elif position == facts.weight:
                constant = self._constants.weight(tensor, facts)
            else:
                read = self._read_format(reads[facts.data], scheme)
                constant = self._constants.bias(tensor, reads[facts.weight], facts, read)
                if read.type_name == "INT16" and constant.type_name == "INT32":
                    edited.builtinOptions = copy(edited.builtinOptions)
                    edited.builtinOptions.quantizedBiasType = INT32_BIAS
            edited.inputs[position] = self._add(constant, tensor)

    def _set_options(self, edited: Any) -> None:
        """Let int16 kernels take any scale, not powers of two alone."""
        if hasattr(edited.builtinOptions, "potScaleInt16"):
            edited.builtinOptions = copy(edited.builtinOptions)
            edited.builtinOptions.potScaleInt16 = False

    def _edited(self, operator: Any, inputs: list[int], format_: Format) -> Any:
        edited = copy(operator)
        edited.inputs = np.asarray(inputs, np.int32)
        written = self._float.writes(operator)
        for tensor in written:
            if self._is_activation(tensor):
                self._set_home(tensor, format_)
            self._writers[tensor] = self._sites
        edited.outputs = np.asarray([self._held(tensor)[0] for tensor in written], np.int32)
        return edited

    def _append(self, operator: Any, source: int, tensor: int) -> None:
        self._operators.append(operator)
        self.table.append(
            WrittenOperator(
                self._float.op_name(operator),
                self._sites,
                source,
                self._origins.nodes.get(tensor, ""),
                self._origins.computed_by(source),
            )
        )

    def _read(self, tensor: int, exactly: Format | None, scheme: Scheme) -> int:
        """A tensor in the format of a scheme, converted where it is held in another."""
        index, held = self._held(tensor)
        wanted = exactly or self._read_format(tensor, scheme)
        if held == wanted:
            return index
        return self._convert(tensor, wanted)

    def _read_format(self, tensor: int, scheme: Scheme) -> Format:
        """As it is held where that is the scheme's type, else as calibration says."""
        _, held = self._held(tensor)
        return held if held.type_name == TYPES[scheme] else self._wanted(tensor, scheme)

    def _wanted(self, tensor: int, scheme: Scheme) -> Format:
        return self._formats.of(tensor, scheme) or FLOAT32

    def _convert(self, tensor: int, wanted: Format, into: int | None = None) -> int:
        """Append what turns a tensor into another format, once for all its readers."""
        index, held = self._held(tensor)
        if held == wanted:
            return index
        key = (tensor, wanted)
        if key in self._copies and into is None:
            return self._copies[key]
        if "FLOAT16" in (held.type_name, wanted.type_name) and FLOAT32 not in (held, wanted):
            index, held = self._convert(tensor, FLOAT32), FLOAT32
        if into is None:
            into = self._tensor(tensor, wanted)
        self._copies[key] = into
        name = _conversion(held, wanted)
        self._operators.append(self.graph.operator(name, [index], [into]))
        node = self._origins.nodes.get(tensor, "")
        writers = self._writers.get(tensor, ())
        self.table.append(WrittenOperator(name, self._sites, None, node, writers=writers))
        return into

    def _held(self, tensor: int) -> tuple[int, Format]:
        """Where a tensor of the float file is, and in which format its writer left it."""
        return self._home.get(tensor, (tensor, FLOAT32))

    def _set_home(self, tensor: int, format_: Format) -> None:
        index = tensor
        if format_ != FLOAT32:
            if tensor in self._float_outputs:
                index = self._tensor(tensor, format_)
            else:
                self.graph.retype(tensor, format_.type_name, format_.quantization)
        self._home[tensor] = (index, format_)

    def _tensor(self, like: int, format_: Format) -> int:
        suffix = format_.type_name.lower()
        return self.graph.add_tensor(like, format_.type_name, suffix, format_.quantization)

    def _add(self, constant: Constant, like: int) -> int:
        """Put a rounded constant into the file."""
        buffer = self.graph.add_buffer(constant.values)
        suffix = constant.type_name.lower()
        return self.graph.add_tensor(
            like, constant.type_name, suffix, constant.quantization, buffer
        )

    def _is_activation(self, tensor: int) -> bool:
        return (
            tensor >= 0
            and self._float.type_name(tensor) == "FLOAT32"
            and not self._float.is_constant(tensor)
        )

    def _is_operand(self, tensor: int) -> bool:
        return (
            tensor >= 0
            and self._float.type_name(tensor) == "FLOAT32"
            and self._float.is_constant(tensor)
        )


def _conversion(held: Format, wanted: Format) -> str:
    if held.is_float and wanted.is_float:
        return "CAST"
    return "DEQUANTIZE" if wanted.is_float else "QUANTIZE"
