"""An ONNX model whose larger constants stand beside it, in memory that plans share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    StringStringEntryProto,
    TensorProto,
    helper,
    numpy_helper,
)

from autoquant.backends.onnxruntime.grids import Array

LEAST_BESIDE = 1024
"""Bytes. Smaller constants, which ONNX Runtime reads when it infers shapes, stand in the graph."""

_LARGEST_FILE = 2_000_000_000

_BESIDE = "beside"
"""Stands for a file's name where a file has one."""


@dataclass(frozen=True, slots=True, eq=False)
class PlanModel:
    """An ONNX model whose larger constants stand beside it.

    What is serialized stays small: no plan has a copy of the weights, and none meets the limit of
    2 GiB that protobuf sets.

    Attributes:
        graph: Serialized; larger constants are only declared.
        constants: The values of these, by name.
    """

    graph: bytes
    constants: Mapping[str, Array]

    @property
    def constant_bytes(self) -> int:
        """Bytes of the constants that stand beside it."""
        return sum(item.nbytes for item in self.constants.values())

    def write(self, path: Path, metadata: Mapping[str, str], *, limit: int = _LARGEST_FILE) -> None:
        """Write the model as a file, its constants within; beyond a limit, in `<path>.data`.

        Each constant is a message of its own: messages of one type that follow one another are one
        (protobuf.dev, "Last One Wins": embedded messages are merged, repeated fields joined).

        Args:
            path: Where to.
            metadata: Of the model, by key.
            limit: Bytes of constants that may stand within; protobuf reads no more than 2 GiB.
        """
        model = ModelProto()
        model.ParseFromString(self.graph)
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        declared = [item for item in model.graph.initializer if item.name in self.constants]
        if self.constant_bytes > limit:
            self._write_beside(declared, path.with_name(f"{path.name}.data"))
            path.write_bytes(model.SerializeToString())
            return
        for item in declared:
            model.graph.initializer.remove(item)
        with path.open("wb") as file:
            file.write(model.SerializeToString())
            for name, values in self.constants.items():
                part = ModelProto()
                part.graph.initializer.append(numpy_helper.from_array(values, name))
                file.write(part.SerializeToString())

    def _write_beside(self, declared: Iterable[TensorProto], path: Path) -> None:
        """Write constants to a file, and say in their declarations where they are."""
        with path.open("wb") as file:
            for item in declared:
                values, start = self.constants[item.name], file.tell()
                del item.external_data[:]
                item.external_data.extend(_place(path.name, start, values.nbytes))
                file.write(values.data)


def plan_model(
    graph: GraphProto, constants: Mapping[str, Array | TensorProto], **settings: Any
) -> PlanModel:
    """Put a graph and its constants together.

    Args:
        graph: Without initializers.
        constants: By name; those that numpy has no type for are tensors of ONNX.
        settings: Of `onnx.helper.make_model`.
    """
    beside = {
        name: np.ascontiguousarray(values)
        for name, values in constants.items()
        if not isinstance(values, TensorProto) and values.nbytes >= LEAST_BESIDE
    }
    graph.initializer.extend(_initializers(constants, beside))
    return PlanModel(helper.make_model(graph, **settings).SerializeToString(), beside)


def _initializers(
    constants: Mapping[str, Array | TensorProto], beside: Mapping[str, Array]
) -> Iterable[TensorProto]:
    for name, values in constants.items():
        if name in beside:
            yield _declared(name, beside[name])
        elif isinstance(values, TensorProto):
            yield TensorProto(
                name=name, dims=values.dims, data_type=values.data_type, raw_data=values.raw_data
            )
        else:
            yield numpy_helper.from_array(values, name)


def _declared(name: str, values: Array) -> TensorProto:
    """A constant that stands beside the graph."""
    return TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(values.dtype),
        dims=values.shape,
        data_location=TensorProto.EXTERNAL,
        external_data=_place(_BESIDE, 0, values.nbytes),
    )


def _place(file: str, start: int, size: int) -> list[StringStringEntryProto]:
    """Where a constant is, as ONNX says it."""
    entries = {"location": file, "offset": str(start), "length": str(size)}
    return [StringStringEntryProto(key=key, value=value) for key, value in entries.items()]
