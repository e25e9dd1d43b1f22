"""Sites of the exported graph meet the calls of torch.fx's graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoquant.errors import ModelError
from tests import fx_networks as nets
from tests.networks import LinearNet, MixedNet, TextNet, seeded
from tests.unit.torch_ao.wayout import captured, pictures, rows, tokens, way_out

pytestmark = pytest.mark.filterwarnings("ignore")

BATCHES = {
    nets.ResNet: (pictures(4),),
    MixedNet: (pictures(4),),
    LinearNet: (rows(4, 16),),
    nets.Spellings: (rows(4, 16),),
    nets.Functional: (pictures(4),),
    nets.Aliased: (rows(4, 16),),
    TextNet: (tokens(4),),
}


@pytest.mark.slow
@pytest.mark.parametrize("network", BATCHES, ids=lambda item: item.__name__)
def test_every_site_is_computed_by_a_call_of_torch_fx(network: type[nn.Module]) -> None:
    matched = way_out(network, BATCHES[network]).matched
    assert dict(matched.missing) == {}
    found = captured(network, BATCHES[network])
    fused_away = {site.name for site in found.sites} - set(matched.sites.values())
    assert {site.kind.value for site in found.sites if site.name in fused_away} <= {"activation"}


@pytest.mark.parametrize("network", BATCHES, ids=lambda item: item.__name__)
def test_a_paired_call_is_of_the_module_and_the_op_of_its_site(network: type[nn.Module]) -> None:
    matched = way_out(network, BATCHES[network]).matched
    modules = dict(seeded(network).named_modules(remove_duplicate=False))
    sites = {site.name: site for site in captured(network, BATCHES[network]).sites}
    for node in matched.traced.fused.graph.nodes:
        site = sites.get(matched.sites.get(node.name, ""))
        if site is not None and node.op == "call_module":
            assert modules[str(node.target)] is modules[site.module]
        elif site is not None:
            assert matched.traced.scopes[node.name][0] == site.module


@pytest.mark.parametrize("network", BATCHES, ids=lambda item: item.__name__)
def test_a_paired_tensor_has_the_values_of_its_key(network: type[nn.Module]) -> None:
    (batch,) = BATCHES[network]
    matched = way_out(network, BATCHES[network]).matched
    seen: dict[str, Tensor] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                seen[n.name] = value.clone()
            return value

    with torch.no_grad():
        Recorder(matched.traced.fused).run(batch[:2].clone())
    assert len(matched.tensors) > 3
    for name, key in matched.tensors.items():
        if name in seen:
            expected = matched.values[key]
            assert torch.allclose(seen[name], expected, rtol=1e-3, atol=1e-4), (name, key)


def test_one_sum_is_found_in_every_spelling() -> None:
    matched = way_out(nets.Spellings, BATCHES[nets.Spellings]).matched
    nodes = {node.name: node for node in matched.traced.fused.graph.nodes}
    sums = {site: nodes[name] for name, site in matched.sites.items() if ":add:" in site}
    assert [node.op for node in sums.values()].count("call_method") == 1
    assert len(sums) == 5


@pytest.mark.slow
def test_what_torch_fx_keeps_whole_is_named() -> None:
    matched = way_out(nets.Attention, (rows(4, 5, 16),)).matched
    assert {site.partition(":")[0] for site in matched.missing} == {"mha"}
    assert set(matched.missing.values()) == {"torch.fx keeps 'mha' (MultiheadAttention) whole"}


def test_a_model_that_torch_fx_cannot_follow_is_refused_with_its_line() -> None:
    with pytest.raises(ModelError, match="cannot trace module 'inner'") as caught:
        way_out(nets.Branching, (rows(4, 16),))
    assert "fx_networks.py:" in caught.value.message
    assert "if x.shape[1] > 3:" in caught.value.message
    assert "quantize(model)" in str(caught.value.hint)


def test_a_layer_that_torch_fuses_differently_at_each_call_is_refused() -> None:
    with pytest.raises(ModelError, match="fusion changes what 'layer' computes") as caught:
        way_out(nets.Torn, (rows(4, 16),))
    assert "aq.split_shared(model, batch, ['layer'])" in str(caught.value.hint)
