"""ONNX Runtime sessions, and a torch module that runs one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor, nn

from autoquant.backends.onnxruntime.plan_model import LEAST_BESIDE, PlanModel
from autoquant.errors import BackendError, first_line
from autoquant.model.data.outputs import OutputStructure
from autoquant.model.heap import is_large

_FATAL = 4
_OPTIMIZED = "optimized.onnx"


def session_entries() -> dict[str, str]:
    """What every session is opened with."""
    # waiting threads that spin slow down whatever else runs, and a search runs much beside
    return {"session.intra_op.allow_spinning": "0"}


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """An open session.

    Attributes:
        engine: ONNX Runtime's own.
        model: Whose constants it reads where they are, so that they must outlive it.
    """

    engine: onnxruntime.InferenceSession
    model: PlanModel

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """Run it on inputs by name.

        Raises:
            BackendError: ONNX Runtime fails.
        """
        try:
            found: list[Any] = self.engine.run(None, feed)
        except Exception as error:
            raise BackendError(
                f"onnxruntime fails to run the plan: {first_line(error)}",
                hint="pin the op that it names to fp32 in the search space",
            ) from error
        return found

    def feed(self, inputs: Sequence[Tensor]) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs by name, as arrays."""
        names = [item.name for item in self.engine.get_inputs()]
        return {
            name: np.ascontiguousarray(item.detach().numpy())
            for name, item in zip(names, inputs, strict=True)
        }


def open_session(
    model: PlanModel,
    threads: int,
    *,
    optimized: Path | None = None,
    profile: Path | None = None,
    packs: bool = True,
) -> Session:
    """Open a session on the CPU.

    Args:
        model: What it runs.
        threads: That a kernel may use.
        optimized: Where to write the optimized model; its larger constants go beside it.
        profile: Stem of the file to which the times of its nodes go.
        packs: Whether kernels pack their constants, as they do to run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    values = map(onnxruntime.OrtValue.ortvalue_from_numpy, model.constants.values())
    options.add_external_initializers(list(model.constants), list(values))
    for key, value in session_entries().items():
        options.add_session_config_entry(key, value)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        constants = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{constants}_file_name", "constants.bin")
        options.add_session_config_entry(f"{constants}_min_size_in_bytes", str(LEAST_BESIDE))
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if not packs:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        engine = onnxruntime.InferenceSession(
            model.graph, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise BackendError(
            f"onnxruntime refuses the model: {first_line(error)}",
            hint="pin the op that it names to fp32 in the search space",
        ) from error
    return Session(engine, model)


def open_and_dump(model: PlanModel, threads: int) -> tuple[Session, ModelProto]:
    """Open a session, and give the optimized model that it runs, without its larger constants.

    A session that writes its model keeps a copy of the constants beside those that it packs: where
    they are large, another one runs.

    Raises:
        BackendError: ONNX Runtime refuses the model.
    """
    with TemporaryDirectory(prefix="autoquant-") as folder:
        path = Path(folder) / _OPTIMIZED
        twice = is_large(model.constant_bytes)
        session = open_session(model, threads, optimized=path, packs=not twice)
        dump = onnx.load(str(path), load_external_data=False)
    return (open_session(model, threads) if twice else session), dump


class OnnxModule(nn.Module):
    """Runs an ONNX model with as many threads as torch has when it is called.

    Args:
        model: What runs.
        output_tree: How the outputs are put together; None: they stay a list.
        session: One that is already open, with as many threads as torch has now.
    """

    def __init__(
        self,
        model: PlanModel,
        output_tree: OutputStructure | None,
        session: Session | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._tree = output_tree
        self._sessions: dict[int, Session] = {}
        if session is not None:
            self._sessions[torch.get_num_threads()] = session

    def __reduce__(self) -> tuple[Any, ...]:
        return (OnnxModule, (self.model, self._tree))

    def session(self) -> Session:
        """The session for as many threads as torch has now."""
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions[threads] = open_session(self.model, threads)
        return self._sessions[threads]

    def forward(self, *inputs: Tensor) -> Any:
        """Give what the float model gives; arrays go in and come out without a copy of ours."""
        session = self.session()
        outputs = [torch.from_numpy(item) for item in session.run(session.feed(inputs))]
        return outputs if self._tree is None else self._tree.build(outputs)
