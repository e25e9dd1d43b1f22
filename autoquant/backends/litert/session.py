"""Running a `.tflite` file: torch tensors in and out of LiteRT's interpreter."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import Tensor

from autoquant.backends.litert.schema import Array
from autoquant.errors import BackendError, first_line

_PINNED = "pin the op that it names to fp32 in the search space"
_IN_FLOAT = "rewrite that op of the model, or search with another backend.name"
_MISSING = re.compile(r"find op for builtin opcode '(\w+)'")


def open_interpreter(content: bytes, threads: int) -> Interpreter:
    """Open a file with the kernels that LiteRT itself prefers (XNNPACK where it can).

    Raises:
        BackendError: LiteRT has no kernel for an operator with these types.
    """
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise _refusal(error) from error
    return interpreter


class Session:
    """One file, open: its shapes and its thread count are fixed."""

    def __init__(self, content: bytes, threads: int) -> None:
        self._interpreter = open_interpreter(content, threads)
        self._inputs = _indices(self._interpreter.get_input_details())
        self._outputs = _indices(self._interpreter.get_output_details())

    def run(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Compute one batch; the results are copies."""
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, _to_array(value))
        self.invoke()
        return [torch.from_numpy(self._interpreter.get_tensor(index)) for index in self._outputs]

    def invoke(self) -> None:
        """Compute what the inputs now hold.

        Raises:
            BackendError: A kernel refuses the types of its tensors.
        """
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise _refusal(error) from error


def observed_tensors(content: bytes, inputs: tuple[Tensor, ...]) -> Iterator[tuple[int, Array]]:
    """Run a float file with its plainest kernels, and give every float tensor's values.

    Raises:
        BackendError: LiteRT has no kernel for an operator.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            interpreter = Interpreter(
                model_content=content,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:  # an operator that LiteRT has no kernel for
            raise _refusal(error, _IN_FLOAT) from error
    for index, value in zip(_indices(interpreter.get_input_details()), inputs, strict=True):
        interpreter.set_tensor(index, _to_array(value))
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise _refusal(error, _IN_FLOAT) from error
    for details in interpreter.get_tensor_details():
        if details["dtype"] is np.float32:
            try:
                values = interpreter.get_tensor(details["index"])
            except ValueError:  # scratch tensors of kernels hold nothing to read
                continue
            yield int(details["index"]), values


def _refusal(error: Exception, hint: str = _PINNED) -> BackendError:
    text = first_line(error)
    missing = _MISSING.search(text)
    if missing:
        return BackendError(
            f"litert has no kernel for {missing[1]}, which the model needs in any precision",
            hint=_IN_FLOAT,
        )
    return BackendError(
        f"litert refuses the file: {text}",
        hint=hint,
    )


def _indices(details: list[dict[str, Any]]) -> list[int]:
    return [int(item["index"]) for item in details]


def _to_array(value: Tensor) -> Array:
    array = value.detach().contiguous().numpy()
    return array.astype(np.int32) if array.dtype == np.int64 else array
