"""Ops in float: fp32, bf16, and formats that float arithmetic stands for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from autoquant.backends.torch_cpu.emission import ROUNDED_TO, Emitter, is_float32
from autoquant.backends.torch_cpu.forms import Form
from autoquant.backends.torch_cpu.operations import Kernel, Operation
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import TRANSPOSED
from autoquant.model.graph.site_walk import weights_of

_ATEN = torch.ops.aten


def float_kernel(form: Form = Form.FLOAT32) -> Kernel:
    """The op as it is, on float32 or bfloat16."""
    runs = Scheme.BF16 if form is Form.BFLOAT16 else Scheme.FP32
    return Kernel(form, (form,), _compute, runs)


def emulated_kernel(scheme: Scheme) -> Kernel:
    """fp32 arithmetic on inputs and weights that are rounded as a scheme rounds them."""
    return Kernel(
        Form.FLOAT32, (Form.FLOAT32,), partial(_emulate, scheme), scheme, Support.EMULATED
    )


def _compute(emitter: Emitter, operation: Operation, out: Form) -> None:
    emit_each(emitter, operation.nodes, out)


def emit_each(emitter: Emitter, nodes: Sequence[Node], out: Form) -> None:
    """Write ops as they are, in one form."""
    for node in nodes:
        emitter.begin(node.name)
        args, kwargs = emitter.arguments(node, out)
        emitter.put(node, out, emitter.call(node.target, *args, **kwargs))


def _emulate(scheme: Scheme, emitter: Emitter, operation: Operation, out: Form) -> None:
    root, *rest = operation.nodes
    weights = weights_of(root) if operation.site.kind.is_weighted else ()

    def give(source: Node) -> Any:
        if source in weights:
            per_channel = operation.site.kind not in TRANSPOSED
            value = emitter.store.rounded(source, scheme.weight, per_channel=per_channel)
            held = emitter.hold(value, f"{source.target}_{scheme.weight.value}")
            held.meta[ROUNDED_TO] = scheme.weight.value
            return held
        if source.op == "get_attr" or not is_float32(source):
            return emitter.read(source, Form.FLOAT32).node
        return emitter.rounded(source, scheme)

    emitter.begin(root.name)
    made = emitter.call(root.target, *map_arg(root.args, give), **map_arg(root.kwargs, give))
    emitter.put(root, out, made)
    emit_each(emitter, rest, out)
    if scheme is Scheme.FP16 and is_float32(operation.last):
        emitter.begin("")
        made = emitter.read(operation.last, out).node
        half = emitter.call(_ATEN.to.dtype, made, torch.float16)
        emitter.put(operation.last, out, emitter.call(_ATEN.to.dtype, half, torch.float32))
