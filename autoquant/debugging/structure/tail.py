"""Post-processing inside the model: ops after a softmax or after NMS-like ops, quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch.fx import Node

from autoquant.core.findings.concerns import Concern, Topic, Trial, attention, note
from autoquant.core.precision import Scheme
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.captured import Capture

_SOFTMAX = frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax"})
_RANKING = frozenset(
    {
        *("argmax", "argmin", "argsort", "topk", "sort", "msort", "kthvalue", "nonzero"),
        *("mode", "median", "unique", "nms", "batched_nms", "multinomial"),
        *("bucketize", "searchsorted", "one_hot"),
    }
)
"""Names of ops that rank or select."""


def find_quantized_tail(
    captured: Capture, schemes: Mapping[str, Scheme | None]
) -> Iterator[Concern]:
    """Find quantization after a softmax without weights behind it, and after NMS-like ops.

    With weights behind it a softmax is a part of the network (an attention layer): where its own
    output is quantized that is a note.
    """
    owner = captured.site_of
    weighted = {site.name for site in captured.sites if site.kind.is_weighted}
    for node in captured.graph.graph.nodes:
        is_softmax, is_ranking = op_name(node) in _SOFTMAX, _is_ranking(node)
        if not (is_softmax or is_ranking):
            continue
        own = [owner[node.name]] if node.name in owner and is_softmax else []
        behind = list(
            dict.fromkeys(owner[item.name] for item in _behind(node) if item.name in owner)
        )
        integer = [site for site in (*own, *behind) if _is_integer(schemes.get(site))]
        if not integer:
            continue
        if weighted.isdisjoint(behind):
            yield _after(
                node, integer, "ranks and selects" if is_ranking else "gives probabilities"
            )
        elif own and _is_integer(schemes.get(own[0])):
            yield note(
                Topic.SETTINGS,
                own,
                "the probabilities of this softmax are quantized with the fixed step 1/256",
                "in attention over many tokens most probabilities are below one step",
                "compare with the softmax in fp32 or int16",
            )


def _after(node: Node, sites: list[str], why: str) -> Concern:
    return attention(
        Topic.SETTINGS,
        sites,
        f"quantized at or behind {node.name}, which {why}: no weight comes behind it",
        "coordinates and probabilities need more than 8 bits, and the ops save next to no time",
        "pin these sites to fp32, or take the post-processing out of the model",
        Trial(scheme=Scheme.FP32),
    )


def _behind(node: Node) -> Iterator[Node]:
    """Every node that depends on this one."""
    seen: set[Node] = set()
    waiting = list(node.users)
    while waiting:
        found = waiting.pop(0)
        if found not in seen:
            seen.add(found)
            waiting.extend(found.users)
            yield found


def _is_ranking(node: Node) -> bool:
    return node.op == "call_function" and op_name(node) in _RANKING


def _is_integer(scheme: Scheme | None) -> bool:
    """Whether activations are put on an integer grid; None: a QConfig of no known scheme."""
    return scheme is None or not scheme.activation.is_float
