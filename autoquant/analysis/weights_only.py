"""Weights-only sensitivity: a first look that needs neither data nor calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.fx import Node

from autoquant.analysis.marks import MarkedGraph, mark
from autoquant.analysis.output_error import row_of_noise
from autoquant.analysis.rounded_run import is_float, weights_of
from autoquant.analysis.trials import Question
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Method, Part, SensitivityTable
from autoquant.core.sites import Site
from autoquant.model.torch_ao.rounding import SchemeRounding

METHOD = "relative rounding error of the weights; activations are not looked at"


def measure_weights(question: Question) -> SensitivityTable:
    """Give the relative rounding error of the weights of each knob and scheme.

        noise = sum ||dW||^2 / sum ||W||^2 over the weights of the knob.

    That is the noise-to-signal ratio at the op's output for inputs that are uncorrelated and of
    one variance. What lies between the op and the network's outputs, and everything that
    activations do, is left out: a heuristic for a first look. A knob without weights has no row,
    and a row for both parts is that of the weights.

    Args:
        question: Model and knobs; its data are not looked at.
    """
    marked = mark(question.captured, question.space)
    weights = _weights_by_site(marked)
    rows = []
    for trial in question.trials():
        found = [(marked.sites[name], item) for name in trial.knob.sites for item in weights[name]]
        if found and trial.part is not Part.ACTIVATION:
            noise = _relative_error(found, trial.scheme, question.rounding)
            rows.append(row_of_noise(trial, noise, 0.0, Method.WEIGHTS_ONLY))
    return SensitivityTable(rows=tuple(rows), method=METHOD, samples=0)


def _relative_error(
    weights: Sequence[tuple[Site, Tensor]], scheme: Scheme, rounding: SchemeRounding
) -> float:
    """Divide sum ||dW||^2 by sum ||W||^2."""
    error = sum(_power(rounding.weight(site, scheme, weight) - weight) for site, weight in weights)
    signal = sum(_power(weight) for _, weight in weights)
    return error / signal if signal else 0.0


def _power(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _weights_by_site(marked: MarkedGraph) -> Mapping[str, list[Tensor]]:
    """By site name, its weights: of a module, or read by a functional op; each once."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    for node, site in marked.roots.items():
        sources = [node] if node.op == "call_module" else node.all_input_nodes
        for source in sources:
            if (site.name, str(source.target)) not in seen:
                seen.add((site.name, str(source.target)))
                found[site.name] += _weights_at(marked, source)
    return found


def _weights_at(marked: MarkedGraph, node: Node) -> list[Tensor]:
    if node.op == "call_module":
        module = marked.module.get_submodule(str(node.target))
        return [parameter.detach() for _, parameter in weights_of(module)]
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        value = getattr(marked.module.get_submodule(owner), name)
        return [value.detach()] if is_float(value) and value.ndim > 1 else []
    return []
