"""Running a `.tflite` file: torch tensors in and out of LiteRT's interpreter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import Tensor, nn

from autoquant.backends.litert.schema import Array
from autoquant.core.quiet import no_warnings
from autoquant.errors import BackendError, first_line
from autoquant.model.data.outputs import OutputStructure

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
    with no_warnings():
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


WriteBatch = Callable[[int], bytes]


class LiteRtModule(nn.Module):
    """Runs one plan's files: one for each batch size, opened for each thread count.

    LiteRT files have a fixed batch size. Batches of the sizes that the backend converts run as
    they are; others run in pieces of the first of these sizes, the last one filled up with its own
    last sample.

    Args:
        write: Gives the file of a batch size.
        sizes: Batch sizes that have a file.
        structure: Of the model's outputs.
    """

    def __init__(self, write: WriteBatch, sizes: Sequence[int], structure: OutputStructure) -> None:
        super().__init__()
        self._write = write
        self._sizes = tuple(sizes)
        self._structure = structure
        self._files: dict[int, bytes] = {}
        self._sessions: dict[tuple[int, int], Session] = {}

    def forward(self, *inputs: Tensor) -> Any:
        """Compute a batch, with as many threads as torch would take."""
        count = len(inputs[0])
        if count in self._sizes:
            outputs = self.open_file(count).run(inputs)
        else:
            outputs = self._in_pieces(inputs, count)
        return self._structure.build(outputs)

    def open_file(self, size: int) -> Session:
        """Open the file of a batch size for torch's thread count, once."""
        key = (size, torch.get_num_threads())
        if key not in self._sessions:
            self._sessions[key] = Session(self._file(size), key[1])
        return self._sessions[key]

    def __reduce__(self) -> tuple[Any, ...]:
        files = {size: self._file(size) for size in self._sizes}
        return (LiteRtModule, (files.__getitem__, self._sizes, self._structure))

    def _file(self, size: int) -> bytes:
        if size not in self._files:
            self._files[size] = self._write(size)
        return self._files[size]

    def _in_pieces(self, inputs: tuple[Tensor, ...], count: int) -> list[Tensor]:
        size = self._sizes[0]
        session = self.open_file(size)
        pieces = []
        for start in range(0, count, size):
            piece = tuple(
                _filled(item[start : start + size], size) if _is_batched(item, count) else item
                for item in inputs
            )
            pieces.append(session.run(piece))
        if any(item.ndim == 0 or len(item) != size for item in pieces[0]):
            raise BackendError(
                f"a batch of {count} samples was given, and an output has no dimension of samples "
                "to cut it by",
                hint=f"give batches of {' or '.join(map(str, self._sizes))} samples",
            )
        return [torch.cat(column)[:count] for column in zip(*pieces, strict=True)]


def _is_batched(item: Tensor, count: int) -> bool:
    return item.ndim > 0 and len(item) == count


def _filled(piece: Tensor, size: int) -> Tensor:
    missing = size - len(piece)
    return torch.cat([piece, piece[-1:].repeat_interleave(missing, 0)]) if missing else piece
