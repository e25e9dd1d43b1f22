"""Decompositions whose registrations are kept equal torch's own, and leave torch as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_impls import op_implementations_dict
from torch.export import Dim, ExportedProgram, exported_program

from autoquant.model.graph.cells import CELLS
from autoquant.model.graph.decomposing import decomposed
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded


class Attention(nn.Module):
    """Composite ops that stay whole, views that do not, and a cell that is taken apart."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        last = mixed.transpose(1, 2).flatten(2)[:, -1].clone().relu_()
        return self.cell(last, last)


def exported(model: nn.Module, example: Tensor) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=({0: Dim.DYNAMIC},))


def told(program: ExportedProgram) -> list[tuple[str, str, str, str]]:
    """Each node with its arguments, its shape and the modules that it comes from."""
    return [
        (
            node.format_node() or "",
            str(node.target),
            str(getattr(node.meta.get("val"), "shape", None)),
            str(node.meta.get("nn_module_stack")),
        )
        for node in program.graph.nodes
    ]


def core() -> dict[object, object]:
    """torch's own table for the ops that it calls core."""
    return torch.export.default_decompositions().materialize()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("network", "example", "table"),
    [
        (MixedNet, images(4), lambda: dict(CELLS)),
        (TextNet, torch.zeros(4, 7).long(), lambda: dict(CELLS)),
        (Attention, torch.ones(4, 5, 8), lambda: dict(CELLS)),
        (Attention, torch.ones(4, 5, 8), core),
    ],
    ids=["mixed", "text", "attention", "attention-core"],
)
def test_a_program_is_decomposed_as_torch_does_it(
    network: Callable[[], nn.Module], example: Tensor, table: Callable[[], dict[object, object]]
) -> None:
    model = seeded(network)
    expected = exported(model, example).run_decompositions(table())
    assert told(decomposed(exported(model, example), table())) == told(expected)


def test_torch_is_left_as_it_was() -> None:
    program = exported(seeded(LinearNet), torch.randn(4, 16))
    decomposed(program, dict(CELLS))
    ops = exported_program._collect_all_valid_cia_ops()
    before = {op: dict(op.py_kernels) for op in ops}
    rules, listing = dict(op_implementations_dict), exported_program._collect_all_valid_cia_ops
    decomposed(program, dict(CELLS))
    assert {op: dict(op.py_kernels) for op in ops} == before
    assert op_implementations_dict == rules
    assert exported_program._collect_all_valid_cia_ops is listing


def test_an_op_that_a_library_brings_later_stays_whole_too() -> None:
    decomposed(exported(seeded(LinearNet), torch.randn(4, 16)), dict(CELLS))
    library = torch.library.Library("autoquant_later", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x + x, "CompositeImplicitAutograd")

    class Later(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.autoquant_later.twice(x)

    targets = [
        str(node.target)
        for node in decomposed(exported(Later(), torch.randn(4, 16)), dict(CELLS)).graph.nodes
    ]
    assert "autoquant_later.twice.default" in targets
