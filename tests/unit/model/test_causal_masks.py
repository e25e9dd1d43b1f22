"""torch's own transformers are captured with any mask, at any size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import transformer

from autoquant.model.graph.capture import capture
from autoquant.model.graph.causal_masks import masks_as_given

WIDTH = 8


class Net(nn.Module):
    """Rows, of shape (batch, steps, 8), through an encoder or a decoder."""

    def __init__(self, run: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True), 2
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(WIDTH, 2, 16, batch_first=True), 2
        )
        self.register_buffer("near", torch.full((4, 4), -torch.inf).triu(2))
        self.run = run

    def forward(self, rows: Tensor) -> Tensor:
        return self.run(self, rows)


def causal(rows: Tensor) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(rows.shape[1])


def encoded(net: Net, rows: Tensor) -> Tensor:
    return net.encoder(rows, mask=causal(rows))


def encoded_by_a_hint(net: Net, rows: Tensor) -> Tensor:
    return net.encoder(rows, mask=causal(rows), is_causal=True)


def encoded_by_a_buffer(net: Net, rows: Tensor) -> Tensor:
    return net.encoder(rows, mask=net.near)


def decoded(net: Net, rows: Tensor) -> Tensor:
    return net.decoder(rows, rows.flip(1), tgt_mask=causal(rows))


def decoded_all_in_one(net: Net, rows: Tensor) -> Tensor:
    """As by nn.Transformer, which gives its mask on to both."""
    memory = net.encoder(rows, mask=causal(rows))
    return net.decoder(rows, memory, tgt_mask=causal(rows), memory_mask=causal(rows))


@pytest.mark.parametrize(
    "run", [encoded, encoded_by_a_hint, encoded_by_a_buffer, decoded, decoded_all_in_one]
)
def test_a_transformer_of_torch_is_captured_with_its_mask(
    run: Callable[[Net, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model = Net(run).eval()
    captured = capture(model, (torch.randn(3, 4, WIDTH),), how="export")
    with torch.no_grad():
        for batch in (3, 5):
            rows = torch.randn(batch, 4, WIDTH)
            torch.testing.assert_close(captured.graph(rows), model(rows), rtol=1e-5, atol=1e-6)


def test_a_mask_that_is_given_may_hide_anything() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 16), 1).eval()
    rows, mask = torch.randn(4, 3, WIDTH), causal(torch.empty(3, 4))
    captured = capture(model, (rows, mask), how="export", dynamic=[(1,), ()])
    for given in (mask, mask.flip(0).flip(1), torch.zeros(4, 4)):
        with torch.no_grad():
            found, expected = captured.graph(rows, given), model(rows, given)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_torch_looks_at_masks_again_afterwards() -> None:
    mask = causal(torch.empty(3, 4))
    with masks_as_given():
        assert not transformer._detect_is_causal_mask(mask)
        assert transformer._detect_is_causal_mask(mask, is_causal=True)
    assert transformer._detect_is_causal_mask(mask)
