from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("litert_torch")

from autoquant.backends.litert.backend import read_back
from autoquant.backends.litert.convert import convert_float
from autoquant.backends.litert.flatbuffer import Boundary, FloatFile, Written, write_plan
from autoquant.backends.litert.schema import Graph, operator_types
from autoquant.backends.litert.session import Session
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.capture import capture
from tests.networks import MixedNet, images, seeded

pytestmark = pytest.mark.filterwarnings("ignore")


class Twins(nn.Module):
    """Two branches of the same shape and kind, a dropout, and a tensor that is only reshaped."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(8, 8)
        self.right = nn.Linear(8, 8)
        self.drop = nn.Dropout()
        self.last = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.left(x)) + self.right(x)
        return self.last(y.reshape(-1, 2, 4))


def converted(model: nn.Module, example: Tensor) -> FloatFile:
    captured = capture(model, (example,))
    statistics = calibrate(captured, [(example,)])
    ranges = TensorRanges(captured, statistics, BuildSettings(backend="litert"))
    return convert_float(captured, (example,), ranges)


@pytest.fixture(scope="module")
def mixed() -> FloatFile:
    return converted(seeded(MixedNet), images(2))


@pytest.fixture(scope="module")
def twins() -> FloatFile:
    torch.manual_seed(0)
    return converted(Twins().eval(), torch.randn(4, 8))


def uniform(file: FloatFile, scheme: Scheme) -> dict[str, Scheme]:
    sites = {site for sites in file.origins.deciding.values() for site in sites}
    return dict.fromkeys(sites, scheme)


def names(written: Written) -> list[str]:
    return [operator.name for operator in written.operators]


@pytest.mark.slow
def test_each_operator_is_its_own_site_although_branches_look_alike(twins: FloatFile) -> None:
    weights = {
        site: twins.graph.values(twins.graph.reads(operator)[1])
        for index, operator in enumerate(twins.graph.operators)
        if twins.graph.op_name(operator) == "FULLY_CONNECTED"
        for site in twins.origins.computed_by(index)
    }
    torch.manual_seed(0)
    model = Twins()
    assert set(weights) == {"left", "right", "last"}
    for site, weight in weights.items():
        assert np.array_equal(weight, model.get_submodule(site).weight.detach().numpy())


@pytest.mark.slow
def test_a_float_plan_is_the_converted_file(mixed: FloatFile) -> None:
    written = write_plan(mixed, uniform(mixed, Scheme.FP32))
    assert len(written.operators) == len(mixed.graph.operators)
    outputs = [
        Session(content, 1).run((images(2),))[0] for content in (written.content, mixed.content)
    ]
    assert torch.equal(*outputs)


def test_neighbours_of_one_scheme_need_no_conversion_between_them(mixed: FloatFile) -> None:
    found = names(write_plan(mixed, uniform(mixed, Scheme.INT8)))
    # one for the input, one for the other branch of the concatenation, one for the output
    assert (found.count("QUANTIZE"), found.count("DEQUANTIZE"), found.count("CAST")) == (2, 1, 0)


def test_a_site_alone_in_int8_is_fenced_by_conversions_that_name_it(mixed: FloatFile) -> None:
    schemes = uniform(mixed, Scheme.FP32) | {"b2.conv2": Scheme.INT8}
    written = write_plan(mixed, schemes)
    fences = [operator for operator in written.operators if operator.source is None]
    assert [(fence.name, fence.writers, fence.sites) for fence in fences] == [
        ("QUANTIZE", ("b2:mul:0",), ("b2.conv2",)),
        ("DEQUANTIZE", ("b2.conv2",), ("b2:add:0",)),
    ]


def test_an_accelerator_gets_a_file_without_floats(mixed: FloatFile) -> None:
    written = write_plan(mixed, uniform(mixed, Scheme.INT8), Boundary.PLAN)
    types = {
        kind for _, reads, writes in operator_types(written.content) for kind in (*reads, *writes)
    }
    assert types == {"INT8", "INT32"}


def test_int16_convolutions_have_int32_biases_and_depthwise_ones_int64(mixed: FloatFile) -> None:
    content = write_plan(mixed, uniform(mixed, Scheme.INT16)).content
    biases = {
        (name, reads[2]) for name, reads, _ in operator_types(content) if name.endswith("CONV_2D")
    }
    assert biases == {("CONV_2D", "INT32"), ("DEPTHWISE_CONV_2D", "INT64")}


def test_int8_weights_leave_no_float_weights_behind(mixed: FloatFile) -> None:
    graph = Graph(write_plan(mixed, uniform(mixed, Scheme.INT8)).content)
    constants = [t for t in range(len(graph.subgraph.tensors)) if graph.is_constant(t)]
    assert {graph.type_name(tensor) for tensor in constants} == {"INT8", "INT32"}


def test_the_read_back_tells_one_op_that_differs_from_the_rest(mixed: FloatFile) -> None:
    schemes = uniform(mixed, Scheme.FP32) | {"head": Scheme.FP16}
    found = read_back(write_plan(mixed, schemes))
    assert {site for site, runs in found.items() if runs.schemes == {Scheme.FP16}} == {"head"}
    assert {site for site, runs in found.items() if runs.schemes == {Scheme.FP32}} == set(
        schemes
    ) - {"head"}


def test_an_int16_operator_with_a_float_weight_is_no_scheme(twins: FloatFile) -> None:
    written = write_plan(twins, uniform(twins, Scheme.INT16))
    graph = Graph(written.content)
    index, operator = next(
        (index, operator)
        for index, operator in enumerate(graph.operators)
        if graph.op_name(operator) == "FULLY_CONNECTED"
    )
    graph.retype(graph.reads(operator)[1], "FLOAT32")
    (site,) = written.operators[index].writes
    assert read_back(replace(written, content=graph.pack()))[site].schemes == {None}


def test_metadata_is_kept_beside_what_the_converter_wrote(twins: FloatFile) -> None:
    schemes = uniform(twins, Scheme.INT8)
    graph = Graph(write_plan(twins, schemes, metadata={"autoquant": b"{}"}).content)
    entries = {entry.name: entry.buffer for entry in graph.model.metadata}
    assert bytes(graph.model.buffers[entries[b"autoquant"]].data) == b"{}"
    assert b"min_runtime_version" in entries
