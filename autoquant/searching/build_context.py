"""What it takes to build the plans of a search again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from autoquant.core.build import BuildSettings
from autoquant.core.sites import Site, check_sites
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import JobError, ModelError, PlanError
from autoquant.model.data.batches import Batch, repeat_to
from autoquant.model.data.calling import Calling
from autoquant.model.data.few_samples import few_samples
from autoquant.model.equalisation.rewrite import rescaled
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.graph.float_model import (
    buffers_kept,
    check_float_model,
    copy_of,
    in_eval_mode,
)
from autoquant.model.weights_digest import weights_digest

if TYPE_CHECKING:
    from autoquant.torch_ao.way_out import WayOut


@dataclass(frozen=True, slots=True, eq=False)
class BuildContext:
    """What it takes to build a plan again.

    Attributes:
        sites: Of the model.
        leaf_modules: Paths that were not traced into.
        statistics: Of its tensors.
        build: What decides how plans are built.
        example: A few input samples.
        calling: How the model takes them.
        dynamic: By tensor, the axes whose size may change.
        axes: By tensor, the axis that counts samples; None: the first of each.
        latency_batch: Samples of the latency measurement.
        latency_threads: Threads of the latency measurement.
        weights: Digest of the model's weights; empty where an older version searched.
        load: Gives the model that was searched; None where only its user can.
        ways_out: A model and what torch.fx traced of it, the last one.
    """

    sites: tuple[Site, ...]
    leaf_modules: tuple[str, ...]
    statistics: CalibrationStatistics
    build: BuildSettings
    example: tuple[Tensor, ...]
    calling: Calling
    dynamic: tuple[tuple[int, ...], ...]
    axes: tuple[int | None, ...] | None = None
    latency_batch: int = 1
    latency_threads: int = 1
    weights: str = ""
    load: Callable[[], nn.Module] | None = None
    ways_out: list[tuple[nn.Module, WayOut]] = field(default_factory=list, repr=False)

    @property
    def timed(self) -> tuple[Tensor, ...]:
        """The example as a batch of the size whose latency was measured."""
        return repeat_to(Batch(self.example, axes=self.axes), self.latency_batch).inputs

    def find_model(self, given: nn.Module | None) -> nn.Module:
        """The model that is given, else the one that was searched.

        Raises:
            PlanError: The search was one from Python, in another process.
            ModelError: Its entry point fails.
        """
        if given is not None:
            return given
        try:
            if self.load is not None:
                return self.load()
        except JobError as error:
            raise PlanError(
                "the search's model is not at hand: it was one in memory",
                hint="give the model as the argument",
            ) from error
        raise PlanError("the search's model is not at hand", hint="give the model as the argument")

    def capture_again(
        self, model: nn.Module, *, other_weights: bool = False
    ) -> tuple[nn.Module, Capture]:
        """Check that a model is the one that was searched, and capture a copy.

        What is built shares weights with it, and the model may be trained further. One that holds
        what cannot be copied is captured itself.
        """
        given = in_eval_mode(check_float_model(model, self.leaf_modules))
        checked = self._equalised(given)
        if checked is model:
            with suppress(TypeError, RuntimeError):
                checked = copy_of(model)
        with buffers_kept(checked):
            captured = capture(
                checked,
                self.example,
                self.leaf_modules,
                self.build.capture,
                calling=self.calling,
                dynamic=self.dynamic,
            )
        check_sites(
            "the search",
            {site.name: site.kind for site in self.sites},
            captured.sites,
            hint="give the same model, with the same module names",
        )
        if not other_weights:
            self._check_weights(given)
        return checked, captured

    def float_model(self, model: nn.Module) -> nn.Module:
        """The model whose plans are built: the given one, or a copy with rescaled channels.

        Raises:
            ModelError: It is no float module, or not the one that was searched.
        """
        given = check_float_model(model, self.leaf_modules)
        self._check_weights(given)
        return self._equalised(given)

    def is_of(self, model: nn.Module) -> bool:
        """Whether plans are built of this very model, not of a copy with rescaled channels."""
        equalisation = self.build.equalisation
        return not equalisation or weights_digest(model) == equalisation.weights

    def _equalised(self, model: nn.Module) -> nn.Module:
        return model if self.is_of(model) else rescaled(model, self.build.equalisation)

    def _check_weights(self, model: nn.Module) -> None:
        if not (self.build.equalisation and self.is_of(model)):
            _check_same_weights(self.weights, model)

    def open_way_out(self, model: nn.Module) -> WayOut:
        """Trace a model for torch.ao; the last one is remembered."""
        from autoquant.torch_ao.way_out import WayOut

        if self.ways_out and self.ways_out[0][0] is model:
            self._check_weights(model)
            return self.ways_out[0][1]
        checked, captured = self.capture_again(model)
        way = WayOut(checked, captured, self.statistics, self.build, self.example)
        self.ways_out[:] = [(model, way)]
        return way


def _check_same_weights(searched: str, model: nn.Module) -> None:
    """Refuse another checkpoint: scales, accuracy and speed-up would all be another model's."""
    found = weights_digest(model)
    if searched and found != searched:
        raise ModelError(
            f"the model's weights (digest {found}) are not those that were searched ({searched}): "
            "its scales and its numbers are those of another checkpoint",
            hint="load the checkpoint of the search, or search again; other_weights=True (on the "
            "command line --other-weights) takes it as it is, for a model that was trained a "
            "little further",
        )


def keep_example(captured: Capture, batch: Batch) -> tuple[Tensor, ...]:
    """A few samples to capture with again; all where the model takes one number of them alone."""
    return tuple(item.detach().clone() for item in few_samples(captured, batch))
