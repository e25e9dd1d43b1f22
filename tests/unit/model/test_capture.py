"""Sites of the captured graph, and errors that name the module and the line."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.core.json_values import json_of, value_of
from autoquant.core.sites import OpKind, Site
from autoquant.errors import ModelError
from autoquant.model.graph.capture import Capture, capture
from tests.networks import MixedNet, TextNet, images, seeded


@pytest.fixture(scope="module")
def captured() -> Capture:
    return capture(seeded(MixedNet), (images(4),))


def sites(captured: Capture) -> dict[str, Site]:
    return {site.name: site for site in captured.sites}


def test_fused_ops_are_one_site(captured: Capture) -> None:
    found = sites(captured)
    assert found["stem"].fused == ("Conv2d", "ReLU")
    assert "bn" not in found
    assert captured.members["b1:add:0"] == (("add", "relu_2"),)


def test_functions_are_named_by_their_module_and_call(captured: Capture) -> None:
    add = sites(captured)["b1:add:0"]
    assert (add.kind, add.module, add.function, add.index) == (OpKind.ADD, "b1", "aten.add", 0)


def test_a_module_called_twice_is_one_site(captured: Capture) -> None:
    assert captured.members["pool"] == (("max_pool2d",), ("max_pool2d_1",))


@pytest.mark.slow
def test_the_macs_of_a_module_are_those_of_all_its_calls() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x)[:, :, ::2])

    site = sites(capture(Repeated(), (images(4),)))["conv"]
    assert site.macs == (16 * 16 + 8 * 16) * 3 * 3
    assert site.output_shape == (4, 3, 16, 16)


def test_pools_cats_and_activations_agree_with_their_producers(captured: Capture) -> None:
    assert ("pool", "b1:add:0") in captured.agreements
    assert (":cat:0", "pool") in captured.agreements
    assert ("b1.act", "b1.conv1") in captured.agreements
    assert sites(captured)["b1.act"].follows == "b1.conv1"


def test_shapes_and_parameters_are_those_of_the_model(captured: Capture) -> None:
    stem = sites(captured)["stem"]
    assert stem.output_shape == (4, 16, 16, 16)
    assert stem.parameter_count == 16 * 3 * 9 + 16
    assert stem.weight_count == 16 * 3 * 9
    assert stem.macs == 16 * 16 * 16 * 3 * 9


def test_embeddings_and_recurrent_layers_are_sites() -> None:
    tokens = torch.arange(16).reshape(2, 8)
    found = sites(capture(seeded(TextNet), (tokens,)))
    assert found["embed"].kind is OpKind.EMBEDDING
    assert found["rnn"].kind is OpKind.LSTM
    assert found[":matmul:0"].kind is OpKind.MATMUL


def test_sites_survive_json(captured: Capture) -> None:
    assert all(value_of(Site, json_of(site)) == site for site in captured.sites)


def test_the_model_given_is_not_changed() -> None:
    model = seeded(MixedNet)
    before = [name for name, _ in model.named_modules()]
    capture(model, (images(2),))
    assert [name for name, _ in model.named_modules()] == before


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.conv(x)
        return self.conv(-x)


def test_a_model_that_cannot_be_exported_names_the_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Branching())
    with pytest.raises(ModelError) as caught:
        capture(model, (images(2),), how="export")
    assert "test_capture.py" in caught.value.message
    assert "if x.sum() > 0:" in caught.value.message


def test_it_is_captured_module_by_module_with_the_line_in_a_notice() -> None:
    found = capture(nn.Sequential(nn.Conv2d(3, 3, 1), Branching()), (images(2),))
    assert found.how == "modules"
    assert list(sites(found)) == ["0", "1.conv"]
    assert "if x.sum() > 0:" in found.notices[0]


def test_a_functional_convolution_is_a_site_where_it_is_called() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3, 1, 1))
            self.last = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.conv2d(x, self.weight))

    assert list(sites(capture(Functional(), (images(2),)))) == [":conv2d:0", "last"]


def test_the_sites_of_a_traced_model_have_the_paths_of_their_modules() -> None:
    class Kept(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return module_qualified_name == "1" or super().is_leaf_module(m, module_qualified_name)

    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    traced = torch.fx.GraphModule(model, Kept().trace(model))
    assert list(sites(capture(traced, (images(2),)))) == ["0", "1.0"]


def test_leaf_modules_are_kept_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Branching())
    found = sites(capture(model, (images(2),), leaf_modules=("1",)))
    assert list(found) == ["0"]


def test_an_unknown_leaf_module_is_refused() -> None:
    with pytest.raises(ModelError, match="no module 'layer9'"):
        capture(seeded(MixedNet), (images(2),), leaf_modules=("layer9",))


def test_wrong_example_shapes_are_named() -> None:
    with pytest.raises(ModelError, match="to have 3 channels, but got 5 channels"):
        capture(seeded(MixedNet), (torch.ones(2, 5, 8, 8),))


def test_a_model_without_sites_is_refused() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(x)

    with pytest.raises(ModelError, match="no op that a scheme could be chosen for"):
        capture(Nothing(), (images(2),))


def test_a_capture_that_there_is_no_longer_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"model\.capture: 'fx' is none of auto, export, modules"):
        capture(seeded(MixedNet), (images(2),), how="fx")
