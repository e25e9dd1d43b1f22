"""What is captured and read back on a few samples must run on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.target import open_backend
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.data.batches import Batch
from autoquant.model.data.calling import Calling
from autoquant.model.data.few_samples import few_samples
from autoquant.model.graph.capture import Capture, capture


class Messages(nn.Module):
    """Edges name nodes by number."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        features = self.embed(nodes)
        return torch.zeros_like(features).index_add(0, edges[1], features[edges[0]])


GRAPH = (torch.randn(6, 4), torch.tensor([[5, 4, 3, 2], [0, 1, 2, 5]]))


def captured_graph(model: nn.Module) -> Capture:
    calling, _ = Calling.of(GRAPH, model)
    return capture(model, GRAPH, how="export", calling=calling, dynamic=((0,), (1,)))


def test_edges_that_point_beyond_the_first_samples_keep_all() -> None:
    captured = captured_graph(Messages().eval())
    kept = few_samples(captured, Batch(GRAPH, axes=(0, 1)))
    assert [item.shape for item in kept] == [item.shape for item in GRAPH]


def test_of_rows_the_first_are_kept() -> None:
    captured = capture(nn.Linear(4, 2).eval(), (GRAPH[0],), how="export")
    assert few_samples(captured, Batch(GRAPH[:1]))[0].shape == (2, 4)


def test_a_plan_of_a_graph_network_is_read_back_on_the_whole_graph() -> None:
    model = Messages().eval()
    captured = captured_graph(model)
    statistics = calibrate(captured, [GRAPH])
    settings = BuildSettings(backend="torch", options={"engine": "x86"})
    backend = open_backend(BuildRequest(model, captured, statistics, settings, GRAPH, GRAPH))
    built = backend.build(Plan.of({site.name: Scheme.INT8_DYNAMIC for site in captured.sites}))
    assert str(built.executed["embed"]) == "int8_dynamic native"
