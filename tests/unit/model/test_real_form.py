"""Complex numbers in two real tensors: the same function, without a complex tensor left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoquant.errors import ModelError
from autoquant.model.graph.capture import capture
from autoquant.model.graph.decomposing import decompose
from autoquant.model.graph.real_form import write_in_real_numbers

TABLE = torch.export.default_decompositions().materialize()
TRANSFORMS = {"aten._fft_r2c.default", "aten._fft_c2r.default", "aten._fft_c2c.default"}

SHAPE = (3, 4, 8)
THREE, ZERO = torch.ones(8, 3, dtype=torch.complex64), torch.zeros((), dtype=torch.complex64)


def spectrum(x: Tensor) -> Tensor:
    return torch.fft.fft(x, norm="ortho")


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sizes": lambda x: spectrum(x).abs(),
    "angles": lambda x: spectrum(x).angle(),
    "parts": lambda x: spectrum(x).real - spectrum(x).imag,
    "products": lambda x: (spectrum(x) * spectrum(x * 2) * 3.0 * (1 + 2j)).abs(),
    "products with reals": lambda x: (x * spectrum(x) * torch.arange(8.0)).abs(),
    "quotients": lambda x: (spectrum(x) / (spectrum(x + 1) + 4) / x.exp() / 2).abs(),
    "sums": lambda x: torch.view_as_real(x + spectrum(x) - 1.5 + 2 * spectrum(-x) - x),
    "differences": lambda x: torch.view_as_real(torch.sub(x, spectrum(x), alpha=2)),
    "conjugates": lambda x: (spectrum(x) * spectrum(x + 1).conj()).real,
    "powers": lambda x: (spectrum(x) ** 2).abs() + (spectrum(x).abs() + 0j).pow(0.5).real,
    "exponentials": lambda x: torch.view_as_real(torch.exp(1j * x)),
    "polar": lambda x: torch.polar(x.abs(), x).imag,
    "made of two": lambda x: torch.complex(x, -x).sum((0, 2)).abs(),
    "matrices": lambda x: torch.view_as_real(spectrum(x) @ spectrum(x).transpose(1, 2)),
    "matrix and real": lambda x: torch.view_as_real(
        spectrum(x)[0] @ torch.ones(8, 3).to(torch.complex64) * 1j
    ),
    "split": lambda x: sum((part.abs() for part in spectrum(x).chunk(2, -1)), torch.zeros(())),
    "moved": lambda x: torch.view_as_real(
        torch.cat([spectrum(x).flip(-1), spectrum(x).roll(1, -1)], 1)
        .permute(2, 0, 1)[:, :, None]
        .expand(8, 3, 2, 8)
        .reshape(8, -1)[:, ::3]
    ),
    "chosen": lambda x: torch.where(x > 0, spectrum(x), ZERO).real,
    "there and back": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), n=4, dim=1) * 2,
    "in two axes": lambda x: torch.fft.ifft2(torch.fft.rfft2(x, norm="forward")).real,
    "constants": lambda x: (spectrum(x) * torch.polar(torch.ones(8), torch.arange(8.0))).real,
    "from a real type": lambda x: torch.view_as_real(x.to(torch.complex64) * 1j),
}


class Computed(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_complex_numbers_in_pairs_compute_the_same(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    graph = decompose(capture(Computed(function), (x,), how="export").graph, TABLE)
    expected = graph(x)
    write_in_real_numbers(graph, TABLE)
    torch.testing.assert_close(graph(x), expected, rtol=1e-4, atol=1e-4)
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_complex():
            beside = {str(item.target) for item in (*node.users, node)}
            assert beside & TRANSFORMS, node


def test_a_graph_without_complex_numbers_stays_as_it_is() -> None:
    x = torch.randn(SHAPE)
    graph = decompose(capture(Computed(torch.relu), (x,), how="export").graph, TABLE)
    before = graph.code
    write_in_real_numbers(graph, TABLE)
    assert graph.code == before


def test_complex_outputs_are_refused() -> None:
    x = torch.randn(SHAPE)
    graph = decompose(capture(Computed(spectrum), (x,), how="export").graph, TABLE)
    with pytest.raises(ModelError, match="complex inputs and outputs"):
        write_in_real_numbers(graph, TABLE)
