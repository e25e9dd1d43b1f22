"""How long each node of a model takes, by ONNX Runtime's own profiler."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from autoquant.backends.onnxruntime.sessions import feed, open_session

_KERNEL = "_kernel_time"
_WARM_UP = 2


class ProfiledSession:
    """A session that times its nodes, on the same inputs at every call.

    Raises:
        BackendError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: bytes, inputs: tuple[Tensor, ...]) -> None:
        self._folder = TemporaryDirectory(prefix="autoquant-")
        stem = Path(self._folder.name) / "profile"
        self._session = open_session(model, torch.get_num_threads(), profile=stem)
        self._feed = feed(self._session, inputs)
        for _ in range(_WARM_UP):
            self.call()

    def call(self) -> None:
        """Run the model once."""
        self._session.run(None, self._feed)

    def finish(self) -> Mapping[str, float]:
        """Close the session, and give the least milliseconds of each node that has a name.

        The profiler's clock runs on while other processes have the core: the least is the node's.
        """
        path = Path(self._session.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        self._folder.cleanup()
        found: dict[str, list[float]] = defaultdict(list)
        for event in events:
            name = str(event.get("name", ""))
            if event.get("cat") == "Node" and name.endswith(_KERNEL):
                found[name.removesuffix(_KERNEL)].append(float(event["dur"]) / 1000.0)
        return {
            name: min(times[_WARM_UP:])
            for name, times in found.items()
            if name and len(times) > _WARM_UP
        }
