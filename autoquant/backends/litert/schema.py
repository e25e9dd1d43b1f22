"""The tables of a `.tflite` file, read and written: the one place that knows its schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy, deepcopy
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

Array = npt.NDArray[Any]

_OP_NAMES: dict[int, str] = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()
}
_TYPE_NAMES: dict[int, str] = {
    code: name for name, code in vars(schema.TensorType).items() if name.isupper()
}
_DTYPES = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
}
_FILE_IDENTIFIER = b"TFL3"

INT32_BIAS = schema.TensorType.INT32
"""Value of `quantizedBiasType` that lets int16 kernels add up in int32."""


class Graph:
    """A `.tflite` file, unpacked: its first subgraph, its buffers and its op codes."""

    def __init__(self, content: bytes) -> None:
        self.model = schema.ModelT.InitFromPackedBuf(content, 0)
        self.subgraph = self.model.subgraphs[0]

    def copied(self) -> Graph:
        """Copy what an edit changes: the lists and their items, not the arrays within."""
        twin = copy(self)
        twin.model = copy(self.model)
        twin.model.buffers = list(self.model.buffers)
        twin.model.operatorCodes = list(self.model.operatorCodes)
        twin.model.metadata = [copy(entry) for entry in self.model.metadata or []]
        twin.model.signatureDefs = deepcopy(self.model.signatureDefs)
        twin.subgraph = copy(self.subgraph)
        twin.subgraph.tensors = [copy(tensor) for tensor in self.subgraph.tensors]
        twin.subgraph.operators = [copy(op) for op in self.subgraph.operators]
        twin.model.subgraphs = [twin.subgraph, *map(deepcopy, self.model.subgraphs[1:])]
        return twin

    @property
    def operators(self) -> list[Any]:
        """Operators in execution order."""
        return list(self.subgraph.operators)

    @property
    def inputs(self) -> list[int]:
        """Tensors that the caller writes."""
        return [int(index) for index in self.subgraph.inputs]

    @property
    def outputs(self) -> list[int]:
        """Tensors that the caller reads."""
        return [int(index) for index in self.subgraph.outputs]

    def op_name(self, operator: Any) -> str:
        """Name of what an operator computes (`CONV_2D`)."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return _OP_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def reads(self, operator: Any) -> list[int]:
        """Tensors that an operator reads; -1 where an optional one is left out."""
        return [int(index) for index in operator.inputs]

    def writes(self, operator: Any) -> list[int]:
        """Tensors that an operator writes."""
        return [int(index) for index in operator.outputs]

    def type_name(self, tensor: int) -> str:
        """Type of a tensor (`INT8`)."""
        return _TYPE_NAMES[self.subgraph.tensors[tensor].type]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a tensor."""
        shape = self.subgraph.tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def is_constant(self, tensor: int) -> bool:
        """Whether the file holds the tensor's values."""
        return self.model.buffers[self.subgraph.tensors[tensor].buffer].data is not None

    def values(self, tensor: int) -> Array:
        """The values of a constant, in its shape."""
        data = self.model.buffers[self.subgraph.tensors[tensor].buffer].data
        flat = np.frombuffer(np.asarray(data, np.uint8).tobytes(), _DTYPES[self.type_name(tensor)])
        return flat.reshape(self.shape(tensor))

    def add_buffer(self, values: Array) -> int:
        """Keep values in the file; returns the index of their buffer."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def add_tensor(
        self,
        like: int,
        type_name: str,
        suffix: str,
        quantization: Any = None,
        buffer: int = 0,
    ) -> int:
        """Add a tensor of another's shape; returns its index."""
        tensor = copy(self.subgraph.tensors[like])
        name = (tensor.name or b"").decode()
        self.subgraph.tensors.append(tensor)
        index = len(self.subgraph.tensors) - 1
        tensor.name = f"{name}/{suffix}"
        tensor.buffer = buffer
        self.retype(index, type_name, quantization)
        return index

    def retype(self, tensor: int, type_name: str, quantization: Any = None) -> None:
        """Give a tensor another type."""
        changed = self.subgraph.tensors[tensor]
        changed.type = getattr(schema.TensorType, type_name)
        changed.quantization = quantization

    def operator(self, name: str, reads: Iterable[int], writes: Iterable[int]) -> Any:
        """Make an operator without options."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(name)
        operator.inputs = np.asarray(list(reads), np.int32)
        operator.outputs = np.asarray(list(writes), np.int32)
        if name == "CAST":
            operator.builtinOptionsType = schema.BuiltinOptions.CastOptions
            operator.builtinOptions = schema.CastOptionsT()
            types = (
                self.subgraph.tensors[i].type for i in (operator.inputs[0], operator.outputs[0])
            )
            operator.builtinOptions.inDataType, operator.builtinOptions.outDataType = types
        return operator

    def pack(self) -> bytes:
        """Write the file."""
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
        return bytes(builder.Output())

    def name_signature(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Name what the caller writes and reads, in the order of the model's own."""
        for signature in self.model.signatureDefs or []:
            _name_entries(signature.inputs, self.inputs, inputs)
            _name_entries(signature.outputs, self.outputs, outputs)
        for tensors, names in ((self.inputs, inputs), (self.outputs, outputs)):
            for index, name in zip(tensors, names, strict=True):
                self.subgraph.tensors[index].name = name.encode()

    def add_metadata(self, name: str, content: bytes) -> None:
        """Keep bytes in the file under a name."""
        entry = schema.MetadataT()
        entry.name = name
        entry.buffer = self.add_buffer(np.frombuffer(content, np.uint8))
        self.model.metadata.append(entry)

    def drop_unused(self) -> None:
        """Drop tensors that no operator touches, and buffers that no tensor holds."""
        used = {*self.inputs, *self.outputs}
        for operator in self.subgraph.operators:
            used.update(self.reads(operator), self.writes(operator))
        place = {old: new for new, old in enumerate(sorted(used - {-1}))} | {-1: -1}
        self.subgraph.tensors = [self.subgraph.tensors[old] for old in sorted(used - {-1})]
        for item in (*self.subgraph.operators, self.subgraph):
            item.inputs = np.array([place[int(old)] for old in item.inputs], np.int32)
            item.outputs = np.array([place[int(old)] for old in item.outputs], np.int32)
        for signature in self.model.signatureDefs or []:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = place[int(entry.tensorIndex)]
        self._drop_unused_buffers()

    def _drop_unused_buffers(self) -> None:
        tensors = [tensor for part in self.model.subgraphs for tensor in part.tensors]
        holders = [*tensors, *self.model.metadata]
        used = sorted({0, *(holder.buffer for holder in holders)})
        place = {old: new for new, old in enumerate(used)}
        for holder in holders:
            holder.buffer = place[holder.buffer]
        self.model.buffers = [self.model.buffers[old] for old in used]

    def _code(self, name: str) -> int:
        wanted = getattr(schema.BuiltinOperator, name)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == wanted:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = wanted
        code.deprecatedBuiltinCode = min(wanted, 127)
        code.version = 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


def operator_types(content: bytes) -> Iterator[tuple[str, list[str], list[str]]]:
    """Read a file's operators: the name of each, and the types of what it reads and writes."""
    model = schema.Model.GetRootAs(content, 0)
    part = model.Subgraphs(0)
    types = [_TYPE_NAMES[part.Tensors(i).Type()] for i in range(part.TensorsLength())]
    for index in range(part.OperatorsLength()):
        operator = part.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        name = _OP_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        reads = [operator.Inputs(i) for i in range(operator.InputsLength())]
        writes = [operator.Outputs(i) for i in range(operator.OutputsLength())]
        yield name, [types[i] if i >= 0 else "" for i in reads], [types[i] for i in writes]


def affine(scales: Array, zero_points: Array, axis: int = 0) -> Any:
    """Give the quantization of a tensor: real = scale * (stored - zero point).

    Args:
        scales: Shape (1,) for the tensor, or (channels,).
        zero_points: Of the same shape.
        axis: The dimension that the channels are.
    """
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.asarray(scales, np.float32)
    quantization.zeroPoint = np.asarray(zero_points, np.int64)
    quantization.quantizedDimension = axis
    return quantization


def _name_entries(entries: Iterable[Any], tensors: Sequence[int], names: Sequence[str]) -> None:
    """Name a signature's entries, in place; a tensor that is given twice has a name for each."""
    waiting: dict[int, list[str]] = {}
    for index, name in zip(tensors, names, strict=True):
        waiting.setdefault(index, []).append(name)
    for entry in entries:
        entry.name = waiting[int(entry.tensorIndex)].pop(0).encode()
