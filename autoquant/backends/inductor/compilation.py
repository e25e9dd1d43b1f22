"""torch.compile, and what its graph says that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch._inductor.config as inductor_config
from torch import Tensor, nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.fx import Graph, GraphModule, Node

from autoquant.backends.inductor.conversion import MARK
from autoquant.core.precision import Scheme
from autoquant.core.quiet import quiet
from autoquant.errors import BackendError, first_line

_INT8_OPS = ("onednn.qconv", "onednn.qlinear")
_INT8_LOWERINGS = ("qconv", "qlinear")


def check_compiler() -> None:
    """Make sure that inductor can compile here: it writes C++."""
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise BackendError(
            "inductor: torch.compile needs a C++ compiler at run time, and none is found here",
            hint="install g++ or clang++, or set the environment variable CXX to one",
        ) from error


class Compiled(nn.Module):
    """A converted graph, compiled at its first call with each shape and thread count.

    Attributes:
        reading: What the last compilation lowered to int8 kernels.
    """

    def __init__(self, converted: GraphModule) -> None:
        super().__init__()
        self._seen: set[tuple[object, ...]] = set()
        self.reading = Reading(_scales_of(converted))
        self._compiled = torch.compile(
            converted,
            dynamic=False,
            options={
                "post_grad_custom_pre_pass": self.reading.before_fusion,
                "post_grad_custom_post_pass": self.reading.after_fusion,
                "fx_graph_cache": False,  # a graph from the cache is not shown to the passes
            },
        )

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Any:
        """Run the compiled graph."""
        key = (torch.get_num_threads(), *(item.shape for item in inputs))
        if key in self._seen:
            return self._compiled(*inputs)
        outputs = self._compile(inputs)
        self._seen.add(key)
        return outputs

    def _compile(self, inputs: tuple[Tensor, ...]) -> Any:
        """Run for the first time, and see whether the inputs are left alone."""
        given = [item.clone() for item in inputs]
        # freezing makes weights constants, which int8 kernels need; dynamo reads it globally
        with quiet(), inductor_config.patch(freezing=True):
            try:
                outputs = self._compiled(*inputs)
            except Exception as error:
                raise BackendError(
                    f"inductor cannot compile: {first_line(error)}",
                    hint="run again with TORCHDYNAMO_VERBOSE=1; a C++ compiler with OpenMP and "
                    "Python's headers must be there",
                ) from error
        for index, (item, before) in enumerate(zip(inputs, given, strict=True)):
            if not torch.equal(item, before):
                item.copy_(before)
                raise BackendError(
                    f"inductor writes its result into the model's input {index}: it fused an int8 "
                    "Linear with the addition of that input",
                    hint="pin that Linear to fp32 in the search space",
                )
        return outputs


class Reading:
    """Looks at inductor's graph while it is compiled.

    Fusion leaves an op neither name nor metadata of its own, but each int8 op still reads the
    scales of its weight, which are those of one site.
    """

    def __init__(self, scales: Mapping[str, Tensor]) -> None:
        self._scales = scales
        self._ops: list[tuple[tuple[Tensor, ...], Scheme]] = []
        self._lowered = 0

    def before_fusion(self, graph: Graph) -> None:
        """Keep what each int8 op reads; its values can be looked at only after compilation."""
        self._ops = [
            (_constants(node), _scheme_of(node)) for node in graph.nodes if _is_int8_op(node)
        ]

    def after_fusion(self, graph: Graph) -> None:
        """Count the int8 ops that are left."""
        self._lowered = sum(_is_int8_op(node) or _is_lowered(node) for node in graph.nodes)

    def kernels(self) -> list[tuple[str, Scheme]]:
        """Site and scheme of each int8 op."""
        found = [(self._site_of(constants), scheme) for constants, scheme in self._ops]
        unknown = [site for site, _ in found if not site]
        if unknown or self._lowered != len(found):
            raise BackendError(
                f"inductor lowered {self._lowered} of {len(found)} int8 ops, and "
                f"{len(unknown)} of them belong to no site",
                hint="report the model and the plan",
            )
        return found

    def _site_of(self, constants: tuple[Tensor, ...]) -> str:
        for site, scale in self._scales.items():
            if any(torch.equal(value, scale) for value in constants):
                return site
        return ""


def _constants(node: Node) -> tuple[Tensor, ...]:
    owner = node.graph.owning_module
    values = (
        getattr(owner, str(source.target), None)
        for source in node.all_input_nodes
        if source.op == "get_attr"
    )
    return tuple(value for value in values if isinstance(value, Tensor) and value.ndim == 1)


def _scales_of(converted: GraphModule) -> dict[str, Tensor]:
    """By site, the scales of its weight where that is an integer one."""
    found: dict[str, Tensor] = {}
    for node in converted.graph.nodes:
        if MARK not in (node.meta.get("custom") or {}):
            continue
        weight = node.args[1]
        if "dequantize" in str(weight.target):
            found[node.meta["custom"][MARK]] = getattr(converted, weight.args[1].target)
    return found


def _is_int8_op(node: Node) -> bool:
    target = str(node.target)
    return node.op == "call_function" and target.startswith(_INT8_OPS) and "prepack" not in target


def _is_lowered(node: Node) -> bool:
    """Whether a node is inductor's lowering of a fused int8 op: a partial of a nested function."""
    function = getattr(node.target, "func", None)
    return getattr(function, "__name__", "").startswith(_INT8_LOWERINGS)


def _scheme_of(node: Node) -> Scheme:
    """A scale of the input that is computed in the graph is a dynamic one."""
    return Scheme.INT8_DYNAMIC if isinstance(node.args[1], Node) else Scheme.INT8
