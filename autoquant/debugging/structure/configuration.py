"""The table of what is configured for every op and weight, and whether it took effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from autoquant.backends.examination import Examination, other_row, site_row, weight_row
from autoquant.core.findings.concerns import Concern, Topic, attention
from autoquant.core.findings.structure import OpRow, WeightRow
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.scopes import scope_of


def list_ops(captured: Capture, examined: Examination) -> Iterator[OpRow]:
    """One row for every call of the float graph, in execution order.

    An op that was fused away or absorbed has no row of its own.
    """
    for call in _calls(captured):
        is_root = call.node in captured.roots
        if call.node in captured.site_of and not is_root:
            continue
        types = examined.types.get(call.node)
        if is_root and call.site is not None:
            yield site_row(
                captured.by_name[call.site],
                call.node,
                examined.schemes[call.site],
                examined.qconfigs.get(call.node),
                str(examined.executed[call.site]),
                types,
                took_effect=examined.honoured[call.site],
            )
        else:
            yield other_row(call.label, call.node, call.site, types)


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


def list_weights(captured: Capture, examined: Examination) -> Iterator[WeightRow]:
    """One row for the weight of every site that owns one."""
    for site in captured.sites:
        facts, types = examined.qconfigs.get(site.node), examined.types.get(site.node)
        row = weight_row(site, examined.schemes[site.name], facts, types)
        if row is not None:
            yield row


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
