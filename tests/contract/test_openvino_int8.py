"""What OpenVINO's plugin gets wrong in int8 is written so that it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoquant.backends.targets import load_target
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.errors import BackendError
from tests.backend_contract import Opened

pytest.importorskip("openvino")

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Layers without bias, whose products nothing shields, and what a test makes of them."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.point = nn.Conv2d(8, 8, 1)
        self.rows = nn.Linear(8, 8)
        self.both = nn.Linear(16, 8)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def rows_of(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def product(net: Net, x: Tensor) -> Tensor:
    rows = rows_of(x)
    return (net.rows(rows) @ rows.transpose(1, 2)) @ rows


def read_by_a_sum_and_a_layer(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    return y + net.point(y)


def read_by_two_sums(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    return (y + x) * (y - x)


def read_as_an_activation_and_as_it_is(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    return torch.relu(y) + net.point(y)


def a_product_of_two_tensors_read_twice(net: Net, x: Tensor) -> Tensor:
    y = product(net, x)
    return y + net.rows(y)


def a_scaled_product_read_twice(net: Net, x: Tensor) -> Tensor:
    y = product(net, x) / 8
    return y + net.rows(y)


def a_pool_that_counts_padding(net: Net, x: Tensor) -> Tensor:
    return net.point(functional.avg_pool2d(x + 2, 3, 1, 1))


def padding_beyond_the_range(net: Net, x: Tensor) -> Tensor:
    return net.point(functional.pad(torch.tanh(x), (1, 1, 1, 1), value=3.0))


def the_largest_of_rows(net: Net, x: Tensor) -> Tensor:
    return net.rows(rows_of(x).amax(1))


def the_smallest_of_rows(net: Net, x: Tensor) -> Tensor:
    return net.rows(rows_of(x).amin(1))


def the_largest_beside_the_mean(net: Net, x: Tensor) -> Tensor:
    return net.both(torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1))


def the_largest_of_a_pool(net: Net, x: Tensor) -> Tensor:
    return net.rows(functional.adaptive_max_pool2d(net.conv(x), 1).flatten(1))


FORWARDS = (
    read_by_a_sum_and_a_layer,
    read_by_two_sums,
    read_as_an_activation_and_as_it_is,
    a_product_of_two_tensors_read_twice,
    a_scaled_product_read_twice,
    a_pool_that_counts_padding,
    padding_beyond_the_range,
    the_largest_of_rows,
    the_smallest_of_rows,
    the_largest_beside_the_mean,
    the_largest_of_a_pool,
)


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda item: item.__name__)
def test_int8_computes_what_reference_numerics_say(forward: Forward) -> None:
    torch.manual_seed(0)
    net = Net(forward).eval()
    settings = load_target("openvino").settle(BuildSettings(backend="openvino"), None)
    opened = Opened(settings, net, (torch.randn(4, 8, 8, 8),))
    plan = Plan.of(
        {
            site.name: Scheme.INT8
            if site.kind.is_weighted or "pool" in site.name or "matmul" in site.name
            else Scheme.FP32
            for site in opened.captured.sites
        }
    )
    for site in opened.captured.sites:
        if plan[site.name] is Scheme.INT8:
            assert opened.backend.support(site, Scheme.INT8) is Support.NATIVE
    found, expected = opened.outputs(plan), opened.expected(plan)
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_what_an_einsum_computes_on_its_way_is_quantized_by_no_range_of_another() -> None:
    """Its sum over an image would have had the range of its result."""

    def summed(net: Net, x: Tensor) -> Tensor:
        return torch.einsum("bchw,oc->bo", x, net.rows.weight)

    opened = Opened(BuildSettings("openvino"), Net(summed).eval(), (torch.randn(4, 8, 8, 8),))
    (site,) = opened.captured.sites
    with pytest.raises(BackendError, match="calibration saw none of that name, within 'einsum'"):
        opened.backend.build(Plan.of({site.name: Scheme.INT8}))
