"""A plan as an nn.Module that LiteRT computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.backends.litert.session import Session
from autoquant.errors import BackendError
from autoquant.model.data.outputs import OutputStructure

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
            if size not in self._files:
                self._files[size] = self._write(size)
            self._sessions[key] = Session(self._files[size], key[1])
        return self._sessions[key]

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
