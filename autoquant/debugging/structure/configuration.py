"""The table of what is configured for every op and weight, and whether it took effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from autoquant.backends.examination import Examination, OpTypes
from autoquant.core.findings.concerns import Concern, Topic, attention
from autoquant.core.findings.structure import OpRow, WeightRow
from autoquant.core.precision import Scheme
from autoquant.core.qconfigs import ObserverFacts
from autoquant.core.sites import Site
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.scopes import scope_of

_FLOAT = "float32"
_STORED = {"qint8": "int8", "quint8": "int8"}


def list_ops(captured: Capture, examined: Examination) -> Iterator[OpRow]:
    """One row for every call of the float graph, in execution order.

    An op that was fused away or absorbed has no row of its own.
    """
    sites = {site.name: site for site in captured.sites}
    roots = {group[0] for groups in captured.members.values() for group in groups}
    absorbed = {
        name for groups in captured.members.values() for group in groups for name in group[1:]
    }
    for call in _calls(captured):
        if call.node in absorbed:
            continue
        types = examined.types.get(call.node)
        if call.node in roots and call.site is not None:
            yield _site_row(sites[call.site], call.node, examined, types)
        else:
            yield _other_row(call, types)


class _Call(NamedTuple):
    """A call of the graph, and the site whose scheme it takes."""

    node: str
    label: str
    site: str | None


def _calls(captured: Capture) -> Iterator[_Call]:
    if captured.how == "modules":
        yield from (_Call(site.node, site.name, site.name) for site in captured.sites)
        return
    owners = captured.site_of
    for node in captured.graph.graph.nodes:
        if node.op == "call_function" and node.name not in captured.no_tensors:
            label = f"{scope_of(node)}:{op_name(node) or 'getitem'}"
            yield _Call(node.name, label, owners.get(node.name))


def _site_row(site: Site, node: str, examined: Examination, types: OpTypes | None) -> OpRow:
    observer = _activation(examined, node)
    return OpRow(
        name=site.name,
        node=node,
        kind=site.kind.value,
        configured=_configured(site, node, examined),
        runs=str(examined.executed[site.name]),
        inputs=types.inputs if types else (),
        output=types.output if types else "",
        axis=observer.axis if observer else None,
        observer=observer.name if observer else "",
        took_effect=examined.honoured[site.name],
    )


def _other_row(call: _Call, types: OpTypes | None) -> OpRow:
    """A call without a scheme of its own: it takes what arrives."""
    return OpRow(
        name=call.label,
        node=call.node,
        kind="",
        configured=f"as {call.site}" if call.site else "",
        runs="",
        inputs=types.inputs if types else (),
        output=types.output if types else "",
        axis=None,
        observer="",
        took_effect=True,
    )


def _configured(site: Site, node: str, examined: Examination) -> str:
    scheme = examined.schemes[site.name]
    return scheme.value if scheme is not None else str(examined.qconfigs[node])


def _activation(examined: Examination, node: str) -> ObserverFacts | None:
    facts = examined.qconfigs.get(node)
    return facts.activation if facts is not None and facts.activation.is_quantizing else None


def list_weights(captured: Capture, examined: Examination) -> Iterator[WeightRow]:
    """One row for the weight of every site that owns one."""
    for site in captured.sites:
        types = examined.types.get(site.node)
        if not site.kind.is_weighted or types is None or types.weight is None:
            continue
        facts = examined.qconfigs.get(site.node)
        scheme, stored = examined.schemes[site.name], types.weight
        observer = facts.weight if facts is not None and facts.weight.is_quantizing else None
        configured = "bfloat16" if scheme is Scheme.BF16 else observer.dtype if observer else _FLOAT
        emulated = stored.dtype.endswith("in float32")
        yield WeightRow(
            site=site.name,
            configured=configured,
            stored=stored.dtype,
            axis=observer.axis if emulated and observer else stored.axis,
            scale_count=stored.scale_count,
            observer=observer.name if observer else "",
            took_effect=_same_type(configured, stored.dtype.partition(" ")[0]),
        )


def _same_type(configured: str, stored: str) -> bool:
    """`qint8` that is emulated is stored as `int8`, `float16` as `fp16`."""
    short = {"float16": "fp16", "bfloat16": "bf16"}
    return stored in (configured, _STORED.get(configured), short.get(configured))


def find_ineffective(
    ops: Sequence[OpRow], weights: Sequence[WeightRow], unmatched: Sequence[str]
) -> Iterator[Concern]:
    """Find what was configured and did not take effect."""
    for (configured, runs), names in _grouped(ops).items():
        yield attention(
            Topic.CONFIGURATION,
            tuple(dict.fromkeys(names)),
            f"configured as {configured}, runs {runs}",
            "the engine replaced the precision silently: accuracy and speed are not those of the "
            "configuration",
            "choose a scheme that `autoquant backends` lists for this kind of op",
        )
    wrong = {row.name for row in ops if not row.took_effect}
    for row in weights:
        if not row.took_effect and row.site not in wrong:
            yield attention(
                Topic.CONFIGURATION,
                (row.site,),
                f"its weight is configured as {row.configured} and stored as {row.stored}",
                "the weight is not what the configuration says",
                "choose a scheme that `autoquant backends` lists for this kind of op",
            )
    if unmatched:
        yield attention(
            Topic.CONFIGURATION,
            unmatched,
            "these entries of the QConfigMapping reach no op of the traced, fused model",
            "what they configure never happens, and torch says nothing about it",
            "use the names in the table below: a fused op has the path of its first module",
        )


def _grouped(ops: Sequence[OpRow]) -> Mapping[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for row in ops:
        if not row.took_effect:
            found.setdefault((row.configured, row.runs), []).append(row.name)
    return found


def refused(reason: str, mend: str) -> Concern:
    """The concern of a configuration that the engine refuses as a whole."""
    return attention(
        Topic.CONFIGURATION,
        ("the whole model",),
        reason,
        "no quantized model can be built from this configuration",
        mend,
    )
