"""Op by op, a graph is written out as torch does it by tracing all of it anew."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

pytest.importorskip("openvino", reason="needs the extra openvino")

from autoquant.backends.openvino.decompositions import decompositions
from autoquant.backends.openvino.recurrent import RECURRENT
from autoquant.model.graph.capture import capture
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.decomposing import decompose
from autoquant.model.graph.exported import export_float, origins
from tests.encoders import VisionTransformer
from tests.kinds import ConvNeXtBlock, MobileNet, ResNet, UNet, WindowBlock
from tests.networks import seeded


class Pooled(nn.Module):
    """Torch pools a tensor whose channels lie last by an op in place."""

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = nn.functional.adaptive_avg_pool1d(torch.relu(x).transpose(1, 2), 1)
        return pooled


IMAGES = torch.randn(2, 3, 16, 16)
NETWORKS: dict[str, tuple[type[nn.Module], Tensor]] = {
    "residual": (ResNet, IMAGES),
    "depthwise": (MobileNet, torch.randn(2, 3, 32, 32)),
    "vision transformer": (VisionTransformer, IMAGES),
    "windows": (WindowBlock, IMAGES),
    "layer scale": (ConvNeXtBlock, IMAGES),
    "skips": (UNet, IMAGES),
    "pooled": (Pooled, torch.randn(2, 6, 4)),
}


_VIEWS = {"aten.reshape.default", "aten.view.default", "aten._unsafe_view.default"}


def ops_of(graph: GraphModule) -> Counter[str]:
    """Ops by name, views by one; copies, and what gives sizes, may be repeated either way."""
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return Counter(
        "view" if name in _VIEWS else name
        for name in called
        if name.startswith("aten.") and name not in ("aten.sym_size.int", "aten.clone.default")
    )


def traced_anew(captured: Capture, example: tuple[Tensor, ...]) -> GraphModule:
    program = export_float(captured, example).program
    with torch.no_grad():
        graph = program.run_decompositions(decompositions(RECURRENT)).module()
    assert isinstance(graph, GraphModule)
    return graph


@pytest.mark.parametrize("name", NETWORKS)
def test_the_ops_and_the_outputs_are_those_of_torchs_own_decompositions(name: str) -> None:
    network, example = NETWORKS[name]
    captured = capture(seeded(network), (example,), how="export", dynamic=((0,),))
    found = decompose(captured.graph, decompositions(RECURRENT))
    assert ops_of(found) == ops_of(traced_anew(captured, (example,)))
    for batch in (example, torch.cat([example, example])):
        with torch.no_grad():
            (output,) = found(batch)
            torch.testing.assert_close(output, captured.graph(batch), rtol=1e-5, atol=1e-6)
    computed = {node.name for node in captured.graph.graph.nodes if node.op == "call_function"}
    assert {
        origins(found.graph)[node.name] for node in found.graph.nodes if node.op == "call_function"
    } <= computed
