"""A compiled model as a torch module."""

from __future__ import annotations

from typing import Any

import openvino as ov
import torch
from torch import Tensor, nn

from autoquant.backends.openvino.engine import Options, compile_graph
from autoquant.model.data.outputs import OutputStructure


class OpenVinoModule(nn.Module):
    """Runs a model with as many threads as torch would use; one compilation for each number.

    Inputs are read where torch keeps them, unless they are strided; outputs are copied, because
    the engine overwrites its own with the next call. Calls must not overlap.
    """

    def __init__(
        self,
        model: ov.Model,
        options: Options,
        outputs: OutputStructure,
        compiled: ov.CompiledModel,
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.compiled = compiled
        self._outputs = outputs
        self._requests = {torch.get_num_threads(): compiled.create_infer_request()}

    def forward(self, *inputs: Tensor) -> Any:
        """Compute the outputs."""
        arrays = [item.detach().contiguous().numpy() for item in inputs]
        found = self._request().infer(arrays, share_inputs=True)
        return self._outputs.build([torch.from_numpy(array) for array in found.to_tuple()])

    def _request(self) -> ov.InferRequest:
        """The request for torch's present number of threads."""
        threads = torch.get_num_threads()
        if threads not in self._requests:
            compiled = compile_graph(self.model, self.options, threads)
            self._requests[threads] = compiled.create_infer_request()
        return self._requests[threads]
