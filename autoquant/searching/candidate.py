"""A candidate of a search: from it a mapping, a model and a backend."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.targets import load_target
from autoquant.core.glance import Glance
from autoquant.core.measurement import Candidate
from autoquant.results.wording import counts_text, or_busy
from autoquant.searching.build_context import BuildContext

if TYPE_CHECKING:
    from autoquant.searching.mapping_latency import MappingLatency
    from autoquant.torch_ao.qconfig import QConfig, QConfigMapping
    from autoquant.torch_ao.way_out import MappingCoverage, PlanMapping


@dataclass(frozen=True, init=False, repr=False, eq=False)
class ResultCandidate(Candidate):
    """A candidate that can be built again."""

    _context: BuildContext = field(kw_only=True)

    def __init__(self, candidate: Candidate, context: BuildContext) -> None:
        super().__init__(*(getattr(candidate, item.name) for item in fields(Candidate)))
        object.__setattr__(self, "_context", context)

    @property
    def example(self) -> tuple[Tensor, ...]:
        """A few input samples of the search."""
        return self._context.example

    @property
    def metadata(self) -> dict[str, Any]:
        """What an exported file carries: the candidate, and how its latency was timed."""
        return {
            **self.to_json(),
            "threads": self._context.latency_threads,
            "batch_size": self._context.latency_batch,
        }

    def recipe(self, path: Path) -> str | None:
        """One line of Python that makes `run` of its exported file, as it was timed.

        None where nothing here runs such a file.
        """
        build = self._context.build
        known = load_target(build.backend).recipe
        return None if known is None else known(build, path, self._context.latency_threads)

    def qconfig_mapping(self, model: nn.Module | None = None) -> QConfigMapping:
        """Give the plan as torch's QConfigMapping, for `prepare_fx` and `convert_fx`.

        The model is traced by torch.fx, its calls are paired with the sites of the search, and the
        mapping is verified: torch prepares and converts once, and each op must agree with its plan
        within a level. A warning says what the mapping cannot carry (`mapping_coverage` gives it
        as values); these sites are in fp32.

        Plans with int16 or fp16 sites need `backend_config=aq.backend_config()` in both calls, and
        a model with `leaf_modules` the same in torch's PrepareCustomConfig. After `prepare_fx`
        calibrate, or call `fix_scales`.

        Args:
            model: The float model that was searched; None: the one in memory, or what the entry
                point of the search's job gives.

        Raises:
            ModelError: torch.fx cannot trace the model (names the line), or torch's own fusion
                changes it.
            PlanError: An op in fp32 computes something else than its plan (names the first); or
                the model was captured module by module.
        """
        model = self._context.find_model(model)
        found = self.torch_mapping(model)
        if not found.coverage.is_complete:
            warnings.warn(str(found.coverage), stacklevel=2)
        if not self._context.is_of(model):
            warnings.warn(
                "the search rescaled channels, and this mapping is of that model: prepare "
                "candidate.float_model(), not the model as given",
                stacklevel=2,
            )
        return found.mapping

    def float_model(self, model: nn.Module | None = None) -> nn.Module:
        """Give the float model that plans are built of, which is what `prepare_fx` must get.

        Where the search rescaled channels (`model.equalise`), it is a copy of the same class and
        function with other parameters; else the model itself.

        Args:
            model: As for `qconfig_mapping`, which takes either.

        Raises:
            ModelError: It is not the one that was searched.
        """
        return self._context.float_model(self._context.find_model(model))

    def mapping_coverage(self, model: nn.Module | None = None) -> MappingCoverage:
        """Say what of the plan its QConfigMapping carries, and why the rest stays in fp32.

        Args:
            model: As for `qconfig_mapping`.
        """
        return self.torch_mapping(model).coverage

    def mapping_latency(
        self, model: nn.Module | None = None, *, pairs: int = 20, threads: int = 1
    ) -> MappingLatency:
        """Time what torch.ao makes of the mapping beside what `quantize` gives, in turn.

        Args:
            model: As for `qconfig_mapping`.
            pairs: How often the two are timed in turn, at first.
            threads: Of both.
        """
        from autoquant.searching.mapping_latency import time_mapping

        model = self._context.find_model(model)
        backend = self.open_backend(model)
        return time_mapping(
            self.torch_mapping(model),
            backend.build(self.plan).module,
            backend.run,
            self._context.timed,
            pairs=pairs,
            threads=threads,
        )

    def torch_mapping(self, model: nn.Module | None = None) -> PlanMapping:
        """Give the plan in torch.ao's hands: mapping, coverage, converted model.

        Args:
            model: As for `qconfig_mapping`.
        """
        way = self._context.open_way_out(self._context.find_model(model))
        return way.of(self.plan)

    def module_qconfigs(self) -> dict[str, QConfig | None]:
        """Give the plan as torch's QConfig of each module, by path, for its eager mode.

        None leaves a module in float. bf16 is a cast, which no QConfig carries; `quantize` makes
        it. Ops that a forward calls by function have no module, and are left out.
        """
        from autoquant.torch_ao.qconfig import qconfigs_by_module

        return qconfigs_by_module(self._context.sites, self.plan, self._context.build)

    def to_quantizer(self) -> Any:
        """Give the plan as a quantizer for torchao's `prepare_pt2e`.

        It takes int8 and int8_dynamic at the modules that PT2E can address; a warning names the
        sites that stay in fp32.

        Raises:
            BackendError: The extra `inductor` is not installed.
        """
        load_target("inductor")
        from autoquant.backends.inductor.quantizer import to_quantizer

        return to_quantizer(self.plan, self._context.sites)

    def fix_scales(self, prepared: GraphModule, model: nn.Module | None = None) -> None:
        """Give the observers of a model that torch prepared the scales of the search, in place.

        It needs no calibration then: `convert_fx` may follow. All fixed ranges are honoured, and
        int16 activations stay rounded after `convert_fx`.

        Args:
            prepared: From `prepare_fx` with this candidate's `qconfig_mapping()`.
            model: As for `qconfig_mapping`.

        Raises:
            ValueError: It has tensors that the search did not calibrate.
        """
        self._context.open_way_out(self._context.find_model(model)).fix_scales(prepared)

    def quantize(
        self, model: nn.Module, *, other_weights: bool = False, reduce_range: bool = False
    ) -> nn.Module:
        """Build the plan on a model: converted, ready to run, without calibrating again.

        The packed weights carry their engine, except qnnpack's: for that one set
        `torch.backends.quantized.engine = "qnnpack"` before running.

        Args:
            model: The float model that was searched; it is not changed.
            other_weights: Take a model with other weights than those that were searched, at the
                scales of the search: for one that was trained a little further.
            reduce_range: Let int8 leave out a bit, for CPUs whose kernels overflow with eight (x86
                without VNNI) where those of the search do not; a warning says where that is so.

        Raises:
            ModelError: It is no float module, cannot be captured, or has other weights.
            PlanError: It has other sites than the one that was searched.
            BackendError: The engine refuses the plan on this machine.
        """
        backend = self.open_backend(model, other_weights=other_weights, reduce_range=reduce_range)
        return self._context.calling.nest(backend.build(self.plan).module, model)

    def open_backend(
        self, model: nn.Module, *, other_weights: bool = False, reduce_range: bool = False
    ) -> Backend:
        """Open the backend of the search on a model, to build, run and export plans.

        Args:
            model: The float model that was searched; it is not changed.
            other_weights: As for `quantize`.
            reduce_range: As for `quantize`.

        Raises:
            ModelError: It is no float module, cannot be captured, or has other weights.
            PlanError: It has other sites than the one that was searched.
            BackendError: The backend's extra is not installed here.
        """
        context = self._context
        build, target = context.build, load_target(context.build.backend)
        if reduce_range:
            build = build.with_weight_bits(7)
        elif not build.ranges.is_reduced and target.overflows(build):
            warnings.warn(
                f"int8 sums of {build.backend} overflow on this CPU, and the search took all eight "
                "bits: what int8 ops give may be far off; reduce_range=True leaves out a bit",
                stacklevel=3,
            )
        checked, captured = context.capture_again(model, other_weights=other_weights)
        request = BuildRequest(
            model=checked,
            captured=captured,
            statistics=context.statistics,
            settings=build,
            example=context.example,
            timed=context.timed,
        )
        return target.open_backend(request)

    def _repr_html_(self) -> str:
        rows = [
            (
                name,
                or_busy(item, f"{item.value:.4g}"),
                "" if item.stderr is None else f"{item.stderr:.2g}",
            )
            for name, item in self.measurements.items()
        ]
        title = f"candidate {self.number} ({self.origin}): {counts_text(self.plan)}"
        step = "candidate.quantize(model), aq.export(candidate, model, path), candidate.plan"
        return Glance(title, ("measurement", "value", "standard error"), rows, step).html
