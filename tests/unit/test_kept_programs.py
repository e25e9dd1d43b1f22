"""Programs that the tests keep are those that an export gives anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoquant.model.data.calling import Calling
from autoquant.model.graph.exporting import export_program
from autoquant.model.graph.functional import functional_graph
from tests.kept_programs import keeping
from tests.networks import LinearNet, TextNet, seeded


class Constants(nn.Module):
    """Tensors that are no parameters: one of the module's, one of its forward's, and a tied one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.scale = torch.rand(4)
        self.register_buffer("shift", torch.rand(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * self.scale + self.shift) + torch.tensor([1.0, 2, 3, 4])


EXAMPLES: dict[Callable[[], nn.Module], Tensor] = {
    LinearNet: torch.randn(4, 16),
    TextNet: torch.randint(50, (4, 7)),
    Constants: torch.randn(4, 4),
}


class Counting:
    """Exports, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *arguments: object) -> object:
        self.count += 1
        return export_program(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", EXAMPLES, ids=lambda item: item.__name__)
def test_a_kept_program_is_the_model_that_it_is_asked_for(
    network: Callable[[], nn.Module],
) -> None:
    export, given = Counting(), (Calling.plain(1), (EXAMPLES[network],), ((0,),))
    take = keeping(export)  # type: ignore[arg-type]
    take(seeded(network), *given)
    model = seeded(network)
    program, writes, guards = take(model, *given)
    assert export.count == 1
    again = export_program(model, *given)
    fresh, plain = functional_graph(*again[:2]), functional_graph(program, writes)
    assert str(plain.graph) == str(fresh.graph)
    assert guards.conditions == again[2].conditions
    held = [dict(graph.named_parameters()) for graph in (plain, fresh)]
    assert held[0].keys() == held[1].keys()
    assert all(held[0][name] is held[1][name] for name in held[0])
    with torch.no_grad():
        assert torch.equal(plain(EXAMPLES[network]), model(EXAMPLES[network]))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.last.bias.data.add_(1),
        lambda model: setattr(model.last, "bias", None),
        lambda model: setattr(model, "more", 3),
        lambda model: setattr(model, "second", nn.Linear(32, 32, bias=False)),
        lambda model: model.register_forward_hook(lambda *_: None),
    ],
    ids=["value", "parameter", "attribute", "module", "hook"],
)
def test_another_model_is_exported(change: Callable[[nn.Module], object]) -> None:
    export, given = Counting(), (Calling.plain(1), (torch.zeros(4, 16),), ((0,),))
    take = keeping(export)  # type: ignore[arg-type]
    take(seeded(LinearNet), *given)
    model = seeded(LinearNet)
    change(model)
    take(model, *given)
    assert export.count == 2


def test_other_inputs_are_exported() -> None:
    export, model = Counting(), seeded(LinearNet)
    take = keeping(export)  # type: ignore[arg-type]
    for example, axes in [
        (torch.zeros(4, 16), (0,)),
        (torch.zeros(4, 16), ()),
        (torch.ones(4, 16), (0,)),
    ]:
        take(model, Calling.plain(1), (example,), (axes,))
    assert export.count == 3
