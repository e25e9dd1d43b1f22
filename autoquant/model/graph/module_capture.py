"""Capture module by module: the weighted modules that any model calls, without a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.fx.passes.shape_prop import _extract_tensor_metadata

from autoquant.core.glance import few
from autoquant.core.sites import OpKind, Site
from autoquant.errors import ModelError
from autoquant.model.data.calling import Calling, FlatModel, failing
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.costs import macs_of, weight_count_of
from autoquant.model.graph.custom_module import custom_module, custom_modules
from autoquant.model.graph.float_model import paths_within
from autoquant.model.graph.module_calls import first_tensor, result_tensor, watch_calls
from autoquant.model.graph.reach import WORTH_SAYING

_KINDS: Mapping[type[nn.Module], OpKind] = {
    nn.Conv1d: OpKind.CONV1D,
    nn.Conv2d: OpKind.CONV2D,
    nn.Conv3d: OpKind.CONV3D,
    nn.ConvTranspose1d: OpKind.CONV_TRANSPOSE1D,
    nn.ConvTranspose2d: OpKind.CONV_TRANSPOSE2D,
    nn.ConvTranspose3d: OpKind.CONV_TRANSPOSE3D,
    nn.Linear: OpKind.LINEAR,
    nn.Embedding: OpKind.EMBEDDING,
    nn.EmbeddingBag: OpKind.EMBEDDING_BAG,
    nn.LSTM: OpKind.LSTM,
    nn.GRU: OpKind.GRU,
}


def _kind(module: nn.Module) -> OpKind | None:
    return _KINDS.get(type(module)) if custom_module(module) is None else OpKind.CUSTOM


_WHOLE = "model"
"""Path of the whole model, of flat tensors, in the one-node graph that stands for it."""


def whole_model(captured: Capture) -> nn.Module:
    """The model that was captured module by module, as the user gave it."""
    flat = captured.graph.get_submodule(_WHOLE)
    return flat.model if isinstance(flat, FlatModel) else flat


def capture_modules(
    model: nn.Module,
    example: tuple[Tensor, ...],
    leaf_modules: Sequence[str],
    calling: Calling,
    dynamic: Sequence[Sequence[int]],
) -> Capture:
    """Run a model once and list the weighted modules that it calls.

    Nothing is known of what lies between them: every site decides for itself, functional calls
    are none, and no batch norm is folded.

    Raises:
        ModelError: The model cannot be run on the example, or calls no weighted module.
    """
    modules = dict(model.named_modules())
    custom = custom_modules(model)
    within = paths_within(modules, leaf_modules) | (paths_within(modules, custom) - {*custom})
    kinds = {
        name: kind
        for name, module in modules.items()
        if name and name not in within and (kind := _kind(module)) is not None
    }
    calls = _Calls(model, kinds, batch=len(example[0]) if example[0].ndim else 1)
    with (
        failing("the model", "the example inputs", example),
        torch.no_grad(),
        watch_calls(model, kinds, calls.take_input, calls.take_output),
    ):
        calling.call(model, example)
    if not calls.sites:
        raise ModelError(
            "the model calls no weighted module that a scheme could be chosen for",
            hint="capture: modules looks at nn.Linear, convolutions, embeddings and recurrent "
            "layers that are called as modules",
        )
    return Capture(
        how="modules",
        leaf_modules=tuple(leaf_modules),
        graph=_one_node(calling.flatten(model), example),
        sites=tuple(calls.sites.values()),
        agreements=(),
        members={name: ((name,),) for name in calls.sites},
        no_tensors=frozenset(
            f"input_{index}" for index, item in enumerate(example) if not item.is_floating_point()
        ),
        folded={},
        calling=calling,
        dynamic=tuple(map(tuple, dynamic)),
        notices=tuple(_unseen(model, calls.sites)),
    )


def _unseen(model: nn.Module, sites: Collection[str]) -> Iterator[str]:
    """Say which modules hold weights that no site has, where these are more than a few."""
    held = {id(item) for name in sites for item in model.get_submodule(name).parameters()}
    total = sum(item.numel() for item in model.parameters())
    sizes: Counter[str] = Counter()
    for path, item in model.named_parameters():
        if id(item) not in held:
            name = path.rpartition(".")[0]
            owner = type(model.get_submodule(name)).__name__
            sizes[f"{owner} at {name or 'the model itself'}"] += item.numel()
    share = 1.0 - sizes.total() / max(total, 1)
    if share < 1.0 - WORTH_SAYING:
        left = [name for name, _ in sizes.most_common()]
        yield f"sites hold {share:.1%} of the weights; not seen: {few(left)}."


class _Calls:
    """Makes sites of the calls of one forward."""

    def __init__(self, model: nn.Module, kinds: Mapping[str, OpKind], batch: int) -> None:
        self.sites: dict[str, Site] = {}
        self._model = model
        self._kinds = kinds
        self._batch = batch
        self._read: Tensor | None = None

    def take_input(self, _path: str, args: tuple[Any, ...]) -> None:
        """Note what a module is about to read; weighted modules call no other."""
        self._read = first_tensor(args)

    def take_output(self, path: str, result: Any) -> None:
        """Make a site, or add to what its module costs."""
        module, written = self._model.get_submodule(path), result_tensor(result)
        if self._read is None or written is None:
            return
        inputs, output = (tuple(self._read.shape),), tuple(written.shape)
        kind, weight_count = self._kinds[path], weight_count_of(module)
        macs = macs_of(kind, inputs, output, weight_count) // max(self._batch, 1)
        known = self.sites.get(path)
        if known is not None:
            self.sites[path] = replace(known, macs=known.macs + macs)
            return
        self.sites[path] = Site(
            name=path,
            kind=kind,
            module=path,
            function=None,
            index=None,
            node=path,
            fused=(type(module).__name__,),
            input_shapes=inputs,
            output_shape=output,
            macs=macs,
            parameter_count=sum(item.numel() for item in module.parameters()),
            weight_count=weight_count,
        )


def _one_node(flat: nn.Module, example: tuple[Tensor, ...]) -> GraphModule:
    """A graph that calls the whole model, on the flat tensors of its inputs."""
    graph = Graph()
    inputs = []
    for index, item in enumerate(example):
        node = graph.placeholder(f"input_{index}")
        node.meta["tensor_meta"] = _extract_tensor_metadata(item)
        inputs.append(node)
    graph.output(graph.call_module(_WHOLE, tuple(inputs)))
    return GraphModule({_WHOLE: flat}, graph)
