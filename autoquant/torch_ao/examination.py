"""A user's own QConfigMapping: prepared, calibrated, converted and looked at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantizeBase, QConfig, QConfigMapping
from torch.fx import GraphModule

from autoquant.backends.examination import other_row, site_row, weight_row
from autoquant.core.findings.structure import OpRow, ShownConfiguration
from autoquant.core.precision import Scheme
from autoquant.core.qconfigs import ObserverFacts, QConfigFacts
from autoquant.core.quiet import no_warnings
from autoquant.core.sites import Site
from autoquant.errors import BackendError, first_line
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.data.trees import copied
from autoquant.model.graph.captured import Capture
from autoquant.torch_ao.calls import RELUS, Call, list_calls
from autoquant.torch_ao.conversion import convert, prepare, using_engine
from autoquant.torch_ao.mapping import owners
from autoquant.torch_ao.matching import match
from autoquant.torch_ao.readback import Spy, observe_execution
from autoquant.torch_ao.scales import KnownScale, activation_observers, replace_observer
from autoquant.torch_ao.tensor_types import observe_types
from autoquant.torch_ao.tracing import FxModel, trace
from autoquant.torch_ao.values import inputs_of

_REFUSALS = (RuntimeError, ValueError, AssertionError, NotImplementedError, IndexError, TypeError)


def examine_mapping(
    model: nn.Module,
    captured: Capture,
    mapping: QConfigMapping,
    batches: Sequence[tuple[Tensor, ...]],
    engine: str,
) -> ShownConfiguration:
    """Prepare, calibrate and convert a model with a mapping of the user's own, and look at it.

    Raises:
        ModelError: torch.fx cannot trace the model, or torch's own fusion changes it.
        BackendError: torch refuses the mapping, or the engine what came of it.
    """
    given = [inputs_of(model, captured, batch) for batch in batches]
    traced = trace(model, captured.leaf_modules)
    matched = match(model, captured, traced, batches[0], given[0])
    qconfigs, converted = convert_calibrated(model, captured, mapping, given, engine)
    with _running(engine):
        spy = Spy(converted)
        spy.run(*copied(given[0]), enable_io_processing=False)
    types, runs = observe_types(spy), observe_execution(spy, matched.sites)
    sites = captured.by_name
    nodes = {site: node for node, site in reversed(list(matched.sites.items()))}
    facts = {name: qconfigs.get(nodes.get(name, "")) for name in sites}
    schemes = {name: _scheme(sites[name], item) for name, item in facts.items()}
    owner = owners(matched)

    def row(call: Call) -> OpRow:
        found, name = types.get(call.node), matched.sites.get(call.node)
        if name is None:
            label = call.module or f"{call.scope}:{_name(call)}"
            return other_row(label, call.node, owner.get(call.node), found)
        scheme = schemes[name]
        honoured = name in runs and scheme is not None and runs[name].honours(scheme)
        run = str(runs.get(name, "nothing"))
        return site_row(
            sites[name], call.node, scheme, facts[name], run, found, took_effect=honoured
        )

    weights = (
        weight_row(site, schemes[name], facts[name], types.get(nodes.get(name, "")))
        for name, site in sites.items()
    )
    return ShownConfiguration(
        ops=tuple(
            row(call)
            for call in list_calls(traced)
            if not (call.target in RELUS and call.node in owner and call.node not in matched.sites)
        ),
        weights=tuple(item for item in weights if item is not None),
        qconfigs=facts,
        schemes=schemes,
        floats=frozenset(name for name, run in runs.items() if run.kernel is Scheme.FP32),
        unmatched=tuple(unmatched_entries(mapping, traced)),
    )


def convert_calibrated(
    model: nn.Module,
    captured: Capture,
    mapping: QConfigMapping,
    given: Sequence[tuple[Any, ...]],
    engine: str,
) -> tuple[Mapping[str, QConfigFacts | None], GraphModule]:
    """Prepare, calibrate and convert a model; gives what torch configured for each call too.

    Raises:
        BackendError: torch refuses the mapping.
    """
    with _running(engine):
        prepared = prepare(model, mapping, given[0], captured.leaf_modules)
        qconfigs = qconfigs_by_node(prepared)
        for inputs in given:
            prepared(*copied(inputs))
        _keep_int16(prepared)
        return qconfigs, convert(prepared, engine)


@contextmanager
def _running(engine: str) -> Iterator[None]:
    """Within, torch converts or runs on an engine; what it raises is a refusal."""
    try:
        with using_engine(engine), no_warnings(), torch.no_grad():
            yield
    except LookupError as error:
        raise BackendError(
            f"torch refuses the QConfigMapping: {first_line(error)}",
            hint="give all types of modules that are fused (Conv2d, ReLU) one QConfig",
        ) from error
    except _REFUSALS as error:
        raise BackendError(
            f"torch/{engine} refuses the QConfigMapping: {first_line(error)}",
            hint="give the op that it names no QConfig (None)",
        ) from error


def _keep_int16(prepared: GraphModule) -> None:
    """Let observers of int16 round, where conversion leaves them in the graph, in place."""
    for observer, _ in activation_observers(prepared):
        if observer.dtype is torch.int16:
            scale, zero_point = observer.calculate_qparams()
            low, high = int(observer.quant_min), int(observer.quant_max)  # type: ignore[arg-type]
            grid = Grid(float(scale), int(zero_point), low, high)
            replace_observer(prepared, observer, KnownScale(observer, grid))


def _scheme(site: Site, facts: QConfigFacts | None) -> Scheme | None:
    return Scheme.FP32 if facts is None else facts.scheme(is_weighted=site.kind.is_weighted)


def _name(call: Call) -> str:
    return call.target if isinstance(call.target, str) else call.target.__name__


def qconfigs_by_node(prepared: GraphModule) -> Mapping[str, QConfigFacts | None]:
    """What torch configured for each call of a prepared graph, by the float node's name."""
    attributes = prepared.meta["_observed_graph_module_attrs"]
    with no_warnings():
        return {
            name: None if qconfig is None else describe(qconfig)
            for name, qconfig in attributes.node_name_to_qconfig.items()
        }


def describe(qconfig: QConfig) -> QConfigFacts:
    """Say what a QConfig's observers are."""
    return QConfigFacts(_observer(qconfig.activation), _observer(qconfig.weight))


def _observer(constructor: Callable[[], Any]) -> ObserverFacts:
    made = constructor()
    observer = made.activation_post_process if isinstance(made, FakeQuantizeBase) else made
    dtype = getattr(observer, "dtype", torch.float32)
    scale, zero_point = getattr(observer, "scale", None), getattr(observer, "zero_point", None)
    is_fixed = type(observer).__name__.startswith("FixedQParams")
    return ObserverFacts(
        name=type(observer).__name__,
        dtype=str(dtype).removeprefix("torch."),
        axis=getattr(observer, "ch_axis", None),
        low=getattr(observer, "quant_min", None),
        high=getattr(observer, "quant_max", None),
        is_dynamic=bool(getattr(observer, "is_dynamic", False)),
        fixed=(float(scale), int(zero_point)) if is_fixed else None,  # type: ignore[arg-type]
    )


def unmatched_entries(mapping: QConfigMapping, traced: FxModel) -> Iterator[str]:
    """Entries of a mapping that name a module or a call and reach nothing, in words.

    A fused model has no batch norm or relu left to reach. Object types are not looked at: a
    mapping for many models lists types that one model lacks.
    """
    calls = list(list_calls(traced))
    reached = {path for call in calls for path in (call.scope, call.module) if path is not None}
    for path in mapping.module_name_qconfigs:
        if not any(item == path or item.startswith(f"{path}.") for item in reached):
            yield f"module name {path!r}"
    for pattern in mapping.module_name_regex_qconfigs:
        if not any(re.match(pattern, item) for item in reached):
            yield f"module names like {pattern!r}"
    orders = {(call.scope, call.target, call.index) for call in calls}
    for entry in mapping.module_name_object_type_order_qconfigs:
        if entry not in orders:
            path, target, index = entry
            name = getattr(target, "__name__", str(target))
            yield f"call {index} of {name} in module {path!r}"
