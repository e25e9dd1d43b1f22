"""What the search needs of a backend."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from autoquant.core.build import BuildSettings
from autoquant.core.costs import CostTable
from autoquant.core.measurement import EAGER_FP32, Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.progress import Progress
from autoquant.core.readback import ReadBack
from autoquant.core.sites import FOLLOWING_KINDS, OpKind, Site
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics
from autoquant.model.data.batches import Batch
from autoquant.model.data.few_samples import few_samples
from autoquant.model.graph.captured import Capture


@dataclass(frozen=True, slots=True, eq=False)
class Executable:
    """A plan, built.

    Attributes:
        module: Call it with the model's inputs, torch tensors in and out. It computes with as many
            threads as `torch.get_num_threads()` says when it is called.
        executed: By site, what really runs, read back from the engine's own dump.
        estimated_ms: What a model of the target says that one call takes; None where the time of
            `module` is the target's own.
    """

    module: nn.Module
    executed: ReadBack
    estimated_ms: float | None = None

    @property
    def kind(self) -> Kind:
        """`measured` when every site runs a real kernel, else `emulated`."""
        emulated = any(ran.is_emulated for ran in self.executed.values())
        return Kind.EMULATED if emulated else Kind.MEASURED

    def runs(self, plan: Plan) -> Plan:
        """What was built, with what really runs: a pool may run in float between int8 ops."""
        found = {site: ran.scheme for site, ran in self.executed.items()}
        return Plan.of({site: found.get(site) or planned for site, planned in plan.assignment})


@dataclass(frozen=True, slots=True, eq=False)
class BuildRequest:
    """What a backend builds plans from.

    Attributes:
        model: The float model as given, in eval mode; never changed.
        captured: Its sites and its traced graph.
        statistics: Of its tensors; no backend calibrates again.
        settings: How plans are built.
        example: One batch.
        timed: Inputs of the latency measurement: what an estimate is for.
    """

    model: nn.Module
    captured: Capture
    statistics: CalibrationStatistics
    settings: BuildSettings
    example: tuple[Tensor, ...]
    timed: tuple[Tensor, ...]

    def few_samples(self, count: int) -> tuple[Tensor, ...]:
        """The first samples of the example; all where the graph does not run on those alone."""
        axes = tuple(next(iter(free), None) for free in self.captured.dynamic)
        return few_samples(self.captured, Batch(self.example, axes=axes or None), count)


class Backend(Protocol):
    """One target: an engine on this machine, or a model of one elsewhere; what targets derive from.

    Attributes:
        name: `torch/onednn`, `openvino`.
        suffix: Of the file that `export` writes, with its dot.
        rival: What speed-ups are over: `EAGER_FP32`, or the reference of an estimate.
        rival_ms: What the rival takes, where latency is estimated; None where it is measured.
    """

    name: str
    suffix: str
    rival: str = EAGER_FP32
    rival_ms: float | None = None

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How the target runs one scheme of one site."""

    def build(self, plan: Plan) -> Executable:
        """Build a plan and read back what really runs.

        Raises:
            BackendError: The engine refuses, or runs something else than planned.
        """

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Run a built module, or the float model, on the target; by default without gradients."""
        with torch.no_grad():
            return module(*inputs)

    def costs(
        self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Callable[[], float]
    ) -> CostTable | None:
        """What the target knows of the latency of each op and boundary, in milliseconds.

        Args:
            space: What may be chosen.
            inputs: The batch of the latency measurement.
            clock: Seconds.

        Returns:
            None, by default, where it knows nothing finer than the time of a whole plan.

        Raises:
            BackendError: No plan of the space can be built.
        """
        del space, inputs, clock
        return None

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write the file that the engine's own API runs, the plan inside.

        Args:
            plan: What to build.
            path: The file to write.
            metadata: JSON values that the file carries under the name `autoquant`.

        Raises:
            BackendError: The engine refuses the plan.
            StorageError: The file cannot be written.
        """


@dataclass(frozen=True, slots=True)
class Timed:
    """A plan that a bench has timed.

    Attributes:
        call: Runs it once.
        speedup: Over the float model.
    """

    call: Callable[[], object]
    speedup: Measurement


class Bench(Protocol):
    """Times plans as candidates are timed, for a target that settles options by measuring."""

    @property
    def progress(self) -> Progress:
        """Shown the progress."""

    def request(self, settings: BuildSettings) -> BuildRequest:
        """What a backend with these settings is opened with."""

    def space(self, settings: BuildSettings) -> SearchSpace:
        """What may be chosen on a target with these settings."""

    def clock(self) -> AbstractContextManager[Callable[[], float]]:
        """The clock of a latency measurement, with its threads; enter it to time ops."""

    def time(
        self, backend: Backend, plan: Plan, pairs: int | None = None, rival: Timed | None = None
    ) -> Timed:
        """Measure a plan's speed over the float model.

        Args:
            backend: Builds it.
            plan: What to time.
            pairs: At most, where the machine is quiet.
            rival: What it is paired with instead, and timed no longer than shows which is faster.

        Raises:
            BackendError: The engine refuses the plan.
        """


IntegerWriter = tuple[OpKind, Scheme]


def every_kind(*schemes: Scheme) -> frozenset[IntegerWriter]:
    """All kinds of ops under some schemes, but for those that take the format of another."""
    kinds = frozenset(OpKind) - FOLLOWING_KINDS
    return frozenset((kind, scheme) for kind in kinds for scheme in schemes)


_Asked = TypeVar("_Asked", Site, OpKind)


def without_options(
    support: Callable[[_Asked, Scheme], Support],
) -> Callable[[BuildSettings, _Asked, Scheme], Support]:
    """The support of a target that is the same whatever its settings."""
    return lambda _, asked, scheme: support(asked, scheme)


def settle_range(settings: BuildSettings, overflows: Callable[[], bool]) -> BuildSettings:
    """Settings that say how many bits int8 weights take: as `backend.reduce_range` does.

    Seven bits of the weights keep two products of u8 and s8 within 16 bits (2 * 255 * 64),
    whatever the activations are.

    Args:
        settings: Where they say so already, they are given back.
        overflows: Whether eight bits overflow on this CPU, which then decides for `auto`.
    """
    if settings.ranges.weight_bits is not None:
        return settings
    asked = settings.options.get("reduce_range", "auto")
    is_reduced = overflows() if asked == "auto" else asked
    return settings.with_weight_bits(7 if is_reduced else 8)


@dataclass(frozen=True, slots=True)
class Target:
    """What the module of a backend offers, as its `TARGET`.

    Attributes:
        open_backend: Converts the float model once; plans are built from that.
        site_support: How the target runs one scheme of one site, before anything is built.
        kind_support: How it runs one scheme of a kind of op: a row of `autoquant backends`.
        variants: What of the target there is here, by the title of its table (`torch / onednn`).
        integer_writers: Kinds of ops whose kernels write integers under a scheme, whoever reads
            them; by default none.
        overflows: Whether sums of its int8 kernels overflow on this CPU with all eight bits; by
            default not.
        choose: Settings in which its options leave nothing open (`auto`): by timing plans, or
            without a bench by taking what works. By default they stay as they are.
        recipe: One line of Python that makes `run` of an exported file, as it is timed with a
            number of threads; None where nothing here runs the file.
        fixed_range: The range on whose grid it writes a site's results in integers; by default what
            calibration finds (None).
    """

    open_backend: Callable[[BuildRequest], Backend]
    site_support: Callable[[BuildSettings, Site, Scheme], Support]
    kind_support: Callable[[BuildSettings, OpKind, Scheme], Support]
    variants: Callable[[], Mapping[str, BuildSettings]]
    integer_writers: Callable[[BuildSettings], Collection[IntegerWriter]] = lambda settings: ()
    overflows: Callable[[BuildSettings], bool] = lambda settings: False
    choose: Callable[[BuildSettings, Bench | None], BuildSettings] = lambda settings, _: settings
    recipe: Callable[[BuildSettings, Path, int], str] | None = None
    fixed_range: Callable[[BuildSettings, Site], tuple[float, float] | None] = (
        lambda settings, site: None
    )

    def settle(self, settings: BuildSettings, bench: Bench | None) -> BuildSettings:
        """Settings that leave nothing open, before the first candidate: options and bits.

        Args:
            settings: As the job has them.
            bench: What times plans; None: nothing is timed.
        """
        chosen = self.choose(settings, bench)
        return settle_range(chosen, lambda: self.overflows(chosen))
