"""A model with rescaled channels: the same class, the same function, other parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.core.equalisation import Equalisation, Factor
from autoquant.errors import ModelError
from autoquant.model.equalisation.groups import Groups
from autoquant.model.equalisation.parameters import Term
from autoquant.model.equalisation.scales import Scales
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.float_model import copy_of, named_tensors
from autoquant.model.graph.tensor_paths import put
from autoquant.model.weights_digest import weights_digest


def equalisation_of(groups: Groups, scales: Scales, model: nn.Module) -> Equalisation:
    """What each parameter and buffer is multiplied with, so that channels are divided by scales."""
    return Equalisation(factors=tuple(_factors(groups, scales, named_tensors(model))))


def signed(equalisation: Equalisation, model: nn.Module) -> Equalisation:
    """The same with the digest of the rescaled model's weights."""
    return replace(equalisation, weights=weights_digest(rescaled(model, equalisation)))


def rescaled(model: nn.Module, equalisation: Equalisation) -> nn.Module:
    """A copy of a model with rescaled parameters."""
    found = copy_of(model)
    held = named_tensors(found)
    by_name: dict[str, list[Factor]] = {}
    for factor in equalisation.factors:
        if not _fits(factor, held.get(factor.name)):
            raise ModelError(
                f"the model has no {factor.name} that equalisation could rescale",
                hint="give the model that was searched",
            )
        by_name.setdefault(factor.name, []).append(factor)
    with torch.no_grad():
        for name, factors in by_name.items():
            wide = held[name].double()
            for factor in factors:
                wide *= torch.tensor(factor.values, dtype=torch.float64).reshape(factor.shape)
            held[name].copy_(wide)
    return found


def rebound(captured: Capture, model: nn.Module) -> Capture:
    """The same capture over the parameters of a model with the same graph."""
    assert captured.weights is not None
    held = named_tensors(model)
    weights = _over(captured.weights, held)
    with torch.no_grad():
        computed = {path: item.detach().contiguous() for path, item in weights().items()}
    return replace(captured, graph=_over(captured.graph, {**held, **computed}), weights=weights)


def _over(module: GraphModule, held: dict[str, Tensor]) -> GraphModule:
    """A graph over other tensors, as far as there are any at its paths."""
    root = nn.Module()
    for node in module.graph.find_nodes(op="get_attr"):
        path = str(node.target)
        put(root, path, held[path] if path in held else _at(module, path))
    return GraphModule(root, copy.deepcopy(module.graph))


def _at(module: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    found: Tensor = getattr(module.get_submodule(owner), name)
    return found


def _factors(groups: Groups, scales: Scales, held: dict[str, Tensor]) -> Iterator[Factor]:
    for name, term in groups.terms:
        values = _values(term, scales, held)
        if (values != 1.0).any():
            yield Factor(name, tuple(values.shape), tuple(values.reshape(-1).tolist()))


def _values(term: Term, scales: Scales, held: dict[str, Tensor]) -> Scales:
    own = scales[term.channels]
    if term.variance is None:
        return own**term.power
    variance = held[term.variance].detach().double().numpy()
    spread = np.sqrt(variance / own**2 + term.epsilon) / np.sqrt(variance + term.epsilon)
    found: Scales = own * spread
    return found


def _fits(factor: Factor, held: Tensor | None) -> bool:
    return (
        held is not None
        and held.ndim == len(factor.shape)
        and all(size in (1, own) for size, own in zip(factor.shape, held.shape, strict=True))
    )
