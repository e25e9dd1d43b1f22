"""ONNX Runtime sessions, and a torch module that runs one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor, nn

from autoquant.errors import BackendError, first_line
from autoquant.model.data.outputs import OutputStructure

_FATAL = 4
_LARGE_BYTES = 1024
_OPTIMIZED = "optimized.onnx"


def session_entries() -> dict[str, str]:
    """What every session is opened with."""
    # waiting threads that spin slow down whatever else runs, and a search runs much beside
    return {"session.intra_op.allow_spinning": "0"}


def open_session(
    model: bytes,
    threads: int,
    *,
    optimized: Path | None = None,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open a session on the CPU.

    Args:
        model: A serialized ONNX model.
        threads: That a kernel may use.
        optimized: Where to write the optimized model; its larger constants go beside it.
        profile: Stem of the file to which the times of its nodes go.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    for key, value in session_entries().items():
        options.add_session_config_entry(key, value)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        constants = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{constants}_file_name", "constants.bin")
        options.add_session_config_entry(f"{constants}_min_size_in_bytes", str(_LARGE_BYTES))
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(
            f"onnxruntime refuses the model: {first_line(error)}",
            hint="pin the op that it names to fp32 in the search space",
        ) from error


def open_and_dump(model: bytes, threads: int) -> tuple[onnxruntime.InferenceSession, ModelProto]:
    """Open a session, and give the optimized model that it runs, without its larger constants.

    Raises:
        BackendError: ONNX Runtime refuses the model.
    """
    with TemporaryDirectory(prefix="autoquant-") as folder:
        path = Path(folder) / _OPTIMIZED
        session = open_session(model, threads, optimized=path)
        return session, onnx.load(str(path), load_external_data=False)


def run_session(session: onnxruntime.InferenceSession, feed: dict[str, Any]) -> list[Any]:
    """Run a session."""
    try:
        found: list[Any] = session.run(None, feed)
    except Exception as error:
        raise BackendError(
            f"onnxruntime fails to run the plan: {first_line(error)}",
            hint="pin the op that it names to fp32 in the search space",
        ) from error
    return found


class OnnxModule(nn.Module):
    """Runs an ONNX model with as many threads as torch has when it is called.

    Args:
        model: Serialized.
        output_tree: How the outputs are put together; None: they stay a list.
        session: One that is already open, with as many threads as torch has now.
    """

    def __init__(
        self,
        model: bytes,
        output_tree: OutputStructure | None,
        session: onnxruntime.InferenceSession | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._tree = output_tree
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        if session is not None:
            self._sessions[torch.get_num_threads()] = session

    def session(self) -> onnxruntime.InferenceSession:
        """The session for as many threads as torch has now."""
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions[threads] = open_session(self.model, threads)
        return self._sessions[threads]

    def forward(self, *inputs: Tensor) -> Any:
        """Give what the float model gives; arrays go in and come out without a copy of ours."""
        session = self.session()
        outputs = [torch.from_numpy(item) for item in run_session(session, feed(session, inputs))]
        return outputs if self._tree is None else self._tree.build(outputs)


def feed(
    session: onnxruntime.InferenceSession, inputs: Sequence[Tensor]
) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs by name, as arrays."""
    names = [item.name for item in session.get_inputs()]
    return {
        name: np.ascontiguousarray(item.detach().numpy())
        for name, item in zip(names, inputs, strict=True)
    }
