"""The clock is read between the nodes of a model's own code, and drift cancels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Tracer

from autoquant.backends.torch_cpu.stamps import stamp, time_nodes, warm_up

READING_S = 1e-4


class Machine:
    """A clock that costs time itself, on a machine that gets slower."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now = 0.0
        self.drift = drift

    def clock(self) -> float:
        self.now += READING_S
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds * (1.0 + self.drift * self.now)


class Work(nn.Module):
    def __init__(self, machine: Machine, seconds: float) -> None:
        super().__init__()
        self.machine = machine
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        self.machine.work(self.seconds)
        return x


class Leaves(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return isinstance(m, Work)


def traced(machine: Machine) -> GraphModule:
    model = nn.Sequential(Work(machine, 0.004), Work(machine, 0.020))
    return GraphModule(model, Leaves().trace(model))


@pytest.mark.parametrize("drift", [0.0, 0.02], ids=["steady", "slowing down"])
def test_each_node_has_its_own_time(drift: float) -> None:
    machine = Machine(drift)
    inputs = torch.ones(1)

    def run(module: GraphModule) -> object:
        machine.work(0.001)
        return module(inputs)

    model = traced(machine)
    found, rivals = time_nodes(
        stamp(model, machine.clock),
        run,
        lambda: run(model),
        warm_up(lambda: machine.work(0.010), machine.clock),
        pairs=12,
        limit_s=60.0,
        clock=machine.clock,
    )
    # a rival is timed with one reading of the clock in its time, 1% of it
    assert found.nodes == pytest.approx({"_0": 0.4, "_1": 2.0}, rel=0.02)
    assert found.call == pytest.approx(0.1, rel=0.2)
    assert len(rivals) == 12


def test_long_calls_are_timed_in_two_pairs() -> None:
    machine = Machine()
    model = traced(machine)
    _, rivals = time_nodes(
        stamp(model, machine.clock),
        lambda module: module(torch.ones(1)),
        lambda: machine.work(0.024),
        warm_up(lambda: machine.work(9.0), machine.clock),
        pairs=12,
        limit_s=2.0,
        clock=machine.clock,
    )
    assert rivals == pytest.approx((9.0, 9.0), rel=0.01)


def test_a_stamped_model_computes_what_the_model_computes() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    graph = torch.fx.symbolic_trace(model)
    stamped = stamp(graph, Machine().clock)
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    output, stamps = stamped.module(inputs)
    assert torch.equal(output, model(inputs))
    assert stamped.nodes == ("_0", "_1", "_2")
    assert len(stamps) == 2 + 3
