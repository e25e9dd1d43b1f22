"""What every backend promises, whoever brings it: its table, its read-back, its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.targets import load_target, reference_rounding
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounded_graph import RoundedGraph, choices_of
from tests.networks import LinearNet, seeded
from tests.spaces import full_space


def sqnr_db(expected: Tensor, found: Tensor) -> float:
    """Signal over noise; 200 dB and more where nothing differs."""
    noise = (expected - found).square().sum().clamp_min(1e-20)
    return float(10 * torch.log10(expected.square().sum() / noise))


class Opened:
    """One backend, opened on a small model.

    Args:
        settings: Which, and its options.
        model: None: a net of linear layers.
        inputs: Of the model; None: those of that net.
    """

    def __init__(
        self,
        settings: BuildSettings,
        model: nn.Module | None = None,
        inputs: tuple[Tensor, ...] | None = None,
    ) -> None:
        self.model = model or seeded(LinearNet)
        rows = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
        self.inputs = inputs or (rows,)
        self.captured = capture(self.model, self.inputs)
        self._statistics = calibrate(self.captured, [self.inputs])
        request = BuildRequest(
            self.model, self.captured, self._statistics, settings, self.inputs, self.inputs
        )
        self.settings = settings
        self.backend: Backend = load_target(settings.backend).open_backend(request)

    def outputs(self, plan: Plan) -> Any:
        """What a built plan gives."""
        return self.backend.run(self.backend.build(plan).module, self.inputs)

    def expected(self, plan: Plan) -> Any:
        """The same by reference numerics."""
        rounding = reference_rounding(self.captured, self._statistics, self.settings)
        rounded = RoundedGraph(mark_sites(self.captured), rounding, choices_of(plan))
        with torch.no_grad():
            return rounded.run(*self.inputs)


def check_all(opened: Opened, folder: Path) -> None:
    """Hold a backend to everything that all promise."""
    check_float(opened)
    check_table(opened)
    check_export(opened, folder)


def check_float(opened: Opened) -> None:
    """The all-fp32 plan is the model."""
    plan = Plan.of({site.name: Scheme.FP32 for site in opened.captured.sites})
    with torch.no_grad():
        expected = opened.model(*opened.inputs)
    torch.testing.assert_close(opened.outputs(plan), expected, rtol=1e-4, atol=1e-4)
    ran = opened.backend.build(plan).executed
    assert {item.scheme for item in ran.values()} == {Scheme.FP32}


def check_table(opened: Opened) -> None:
    """Each scheme that a leading site is said to run runs, as it is said to."""
    space = full_space(opened.captured, opened.backend)
    sites = {site.name: site for site in opened.captured.sites}
    for knob in space.knobs:
        for scheme in knob.schemes:
            choices = {item.name: item.schemes[-1] for item in space.knobs} | {knob.name: scheme}
            plan = space.plan(choices)
            ran = opened.backend.build(plan).executed
            for name in knob.sites:
                if sites[name].follows is None:
                    support = opened.backend.support(sites[name], scheme)
                    assert support is not Support.UNSUPPORTED
                    assert (ran[name].scheme, ran[name].support) == (scheme, support), name


def check_export(opened: Opened, folder: Path) -> None:
    """A file with the backend's suffix is written."""
    plan = Plan.of({site.name: Scheme.FP32 for site in opened.captured.sites})
    metadata = {"plan": {}, "threads": 1, "batch_size": len(opened.inputs[0])}
    path = opened.backend.export(plan, folder / f"model{opened.backend.suffix}", metadata)
    assert path.stat().st_size > 0
