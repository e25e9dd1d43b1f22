"""Plan -> QConfigMapping: every call of torch.fx's graph gets an entry of its own."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from torch import nn
from torch.ao.quantization import QConfig, QConfigMapping

from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.scopes import scope_of
from autoquant.torch_ao.backend_config import pass_through_ops
from autoquant.torch_ao.calls import RELUS, Call, list_calls, op_of
from autoquant.torch_ao.matching import Matched
from autoquant.torch_ao.qconfig import qconfig_for


def owners(matched: Matched) -> dict[str, str]:
    """By call of the fused graph, the site whose scheme it takes.

    That is its own; or that of its producer, for what hands its input's format on (a pool, a
    reshape) and for a relu, which torch fuses with what it reads.
    """
    graph = matched.traced.fused
    hands_on = pass_through_ops() | RELUS
    found = dict(matched.sites)
    for node in graph.graph.nodes:
        reads = [item for item in node.all_input_nodes if item.op != "get_attr"]
        if node.name in found or not reads or op_of(node, graph) not in hands_on:
            continue
        if reads[0].name in found:
            found[node.name] = found[reads[0].name]
    return found


def build_mapping(
    matched: Matched, sites: Mapping[str, Site], plan: Plan, settings: BuildSettings
) -> QConfigMapping:
    """Build the QConfigMapping that makes `prepare_fx` follow a plan.

    Nothing is inherited from an enclosing module. Method calls cannot be addressed one by one in
    torch: those of one module are quantized only where all of them take the same scheme.
    """
    mapping = QConfigMapping().set_global(None)
    owner = owners(matched)
    methods: dict[tuple[str, str], list[Call]] = defaultdict(list)
    modules: dict[str | None, list[Call]] = {}
    for call in list_calls(matched.traced):
        if call.is_method:
            methods[_method_owner(call)].append(call)
            continue
        modules.setdefault(call.module, []).append(call)
    for path, calls in modules.items():
        configs = [_qconfig(owner.get(call.node), sites, plan, settings) for call in calls]
        if path is not None:
            mapping.set_module_name(path, configs[0])
        if path is None or len({_scheme(owner.get(call.node), plan) for call in calls}) > 1:
            for call, qconfig in zip(calls, configs, strict=True):
                mapping.set_module_name_object_type_order(
                    call.scope,
                    call.target,  # type: ignore[arg-type]
                    call.index,
                    qconfig,
                )
    for (scope, method), calls in methods.items():
        qconfig = _qconfig(_common(calls, owner, plan), sites, plan, settings)
        if scope:
            mapping.set_module_name(scope, qconfig)
        else:
            mapping.set_object_type(method, qconfig)
    return mapping


def with_qconfigs(
    mapping: QConfigMapping,
    model: nn.Module,
    captured: Capture,
    sites: Collection[str],
    plan: Plan,
    settings: BuildSettings,
) -> QConfigMapping:
    """A copy of a mapping with a plan's QConfigs at the modules that compute some sites."""
    mapping = copy.deepcopy(mapping)
    for site in captured.sites:
        if site.name not in sites:
            continue
        qconfig = qconfig_for(site, plan[site.name], plan, settings)
        own = (name for name, owner in captured.site_of.items() if owner == site.name)
        scopes = {scope_of(captured.nodes[name]) for name in own}
        for path in {*scopes, *(captured.folded.get(scope, scope) for scope in scopes)}:
            if not list(model.get_submodule(path).children()):  # else ops of others are in it
                mapping.set_module_name(path, qconfig)
    return mapping


def split_methods(matched: Matched, plan: Plan) -> dict[str, str]:
    """Sites called as methods beside others of another scheme, and why they stay in float."""
    owner = owners(matched)
    methods: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in list_calls(matched.traced):
        if call.is_method:
            methods[_method_owner(call)].append(call)
    return {
        matched.sites[call.node]: f"torch has one QConfig for all methods in {scope or 'forward'!r}"
        for (scope, _), calls in methods.items()
        for call in calls
        if call.node in matched.sites and _common(calls, owner, plan) is None
    }


def _method_owner(call: Call) -> tuple[str, str]:
    """Torch looks a method up by its module's path, or in the root module by its own name."""
    return (call.scope, "") if call.scope else ("", str(call.target))


def _common(calls: Iterable[Call], owner: Mapping[str, str], plan: Plan) -> str | None:
    """A site that stands for all method calls of one module, None when their schemes differ."""
    found = [owner.get(call.node) for call in calls]
    schemes = {None if site is None else plan[site] for site in found}
    return found[0] if len(schemes) == 1 else None


def _scheme(site: str | None, plan: Plan) -> Scheme:
    return Scheme.FP32 if site is None else plan[site]


def _qconfig(
    site: str | None, sites: Mapping[str, Site], plan: Plan, settings: BuildSettings
) -> QConfig | None:
    if site is None:
        return None
    return qconfig_for(sites[site], plan[site], plan, settings)
