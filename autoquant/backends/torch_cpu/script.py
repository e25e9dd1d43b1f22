"""TorchScript of a lowered graph, written op by op: nothing is traced, sizes stay free."""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.jit import ScriptModule
from torch.jit._recursive import wrap_cpp_module

from autoquant.backends.torch_cpu.stored_weights import stored
from autoquant.errors import first_line
from autoquant.model.graph.tensor_paths import take

_INFIX: Mapping[Callable[..., Any], str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.truediv: "/",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
_FUNCTIONS: Mapping[Any, str] = {
    operator.neg: "-",
    torch.sym_max: "max",
    torch.sym_min: "min",
    torch.sym_int: "int",
    torch.sym_float: "float",
    torch.sym_not: "not ",
    math.ceil: "math.ceil",
    math.floor: "math.floor",
}


_GIVEN = re.compile(r"[vc]\d+|self|torch|math|float|int|max|min")


class UnscriptableError(Exception):
    """A node that TorchScript has no words for."""


def script_graph(graph: GraphModule) -> ScriptModule:
    """Write a graph, of ATen and quantized ops, as TorchScript that gives the same; not yet frozen.

    Raises:
        UnscriptableError: A node is no op, or TorchScript refuses the whole.
    """
    return _compile(_Writer(graph))


def storable_script(
    graph: GraphModule, inputs: Sequence[str], nest: Callable[[Sequence[str]], str]
) -> ScriptModule:
    """Write a graph as TorchScript that a file can hold.

    Frozen, unless a kernel's packed weight cannot be stored: then it is packed on loading. `nest`
    gives the expression of what is returned from the names of the graph's results.

    Raises:
        UnscriptableError: As `script_graph`.
    """
    writer = _Writer(graph, storable=True, inputs=inputs, nest=nest)
    scripted = _compile(writer)
    return scripted if writer.packs_on_loading else _freeze(scripted)


def _compile(writer: _Writer) -> ScriptModule:
    source = writer.write()
    try:
        scripted = _module_of(writer.holder.eval())
        scripted.define(source)
    except Exception as error:
        raise UnscriptableError(first_line(error)) from error
    return scripted


def _module_of(holder: nn.Module) -> ScriptModule:
    """What a holder holds as TorchScript, without a method.

    In a compilation unit of its own, which goes with the last of it: what `torch.jit.script` makes
    is held, weights and all, as long as the process lives. Only modules within need it.
    """
    found: ScriptModule
    if next(holder.children(), None) is not None:
        found = torch.jit.script(holder)
        return found
    unit = torch._C.CompilationUnit()
    made: Any = torch._C.ScriptModule("__torch__.Lowered", unit, True)  # type: ignore[call-arg]
    held = {name: value for name, value in vars(holder).items() if not name.startswith("_")}
    for name, value in {**held, **holder._buffers}.items():
        made._register_attribute(name, torch._C._jit_try_infer_type(value).type(), value)
    found = wrap_cpp_module(made)
    return found


def freeze_graph(graph: GraphModule) -> ScriptModule:
    """Write a graph as TorchScript and fold its constants into it.

    Raises:
        UnscriptableError: As `script_graph`.
    """
    return _freeze(script_graph(graph))


def _freeze(scripted: ScriptModule) -> ScriptModule:
    try:
        frozen = torch.jit.freeze(scripted.eval())
    except RuntimeError as error:
        raise UnscriptableError(first_line(error)) from error
    found: ScriptModule = frozen
    return found


def _holder() -> nn.Module:
    """What holds constants under flat names.

    Of a class of its own: TorchScript gives all instances of one class the same methods.
    """
    made: nn.Module = type("Lowered", (nn.Module,), {})()
    return made


def _as_tuple(names: Sequence[str]) -> str:
    return f"({''.join(f'{name}, ' for name in names)})"


class _Writer:
    def __init__(
        self,
        graph: GraphModule,
        *,
        storable: bool = False,
        inputs: Sequence[str] = (),
        nest: Callable[[Sequence[str]], str] = _as_tuple,
    ) -> None:
        self._graph = graph
        self._storable = storable
        self._inputs = iter(inputs)
        self._nest = nest
        self.packs_on_loading = False
        self.holder = _holder()
        self._names: dict[Node, str] = {}

    def write(self) -> str:
        """Source of `forward`."""
        inputs: list[str] = []
        lines: list[str] = []
        for node in self._graph.graph.nodes:
            if node.op == "placeholder":
                self._call_as(node, next(self._inputs, ""))
                inputs.append(f"{self._name(node)}: Tensor")
            elif node.op == "get_attr":
                self._names[node] = self._hold(node)
            elif node.op == "output":
                (results,) = node.args
                names = [self._argument(item, None) for item in results]
                lines.append(f"return {self._nest(names)}")
            else:
                lines.append(f"{self._name(node)} = {self._call(node)}")
        head = f"def forward(self, {', '.join(inputs)}):"
        return "\n    ".join([head, *lines]) + "\n"

    def _call_as(self, node: Node, name: str) -> None:
        """Take a name that can be one in TorchScript, and is none of those given here."""
        plain = name.replace(".", "_")
        is_free = not _GIVEN.fullmatch(plain) and plain not in self._names.values()
        if plain.isidentifier() and not keyword.iskeyword(plain) and is_free:
            self._names[node] = plain

    def _name(self, node: Node) -> str:
        return self._names.setdefault(node, f"v{len(self._names)}")

    def _hold(self, node: Node) -> str:
        value = take(self._graph, str(node.target))
        name = f"c{len(self._names)}"
        if self._storable and isinstance(value, Tensor) and value.is_mkldnn:
            owner = self._graph.get_submodule(str(node.target).rpartition(".")[0])
            self.holder.add_module(name, stored(owner.recipe))  # type: ignore[arg-type]
            self.packs_on_loading = True
            return f"self.{name}.packed"
        if isinstance(value, Tensor):
            self.holder.register_buffer(name, value)
        else:
            setattr(self.holder, name, value)
        return f"self.{name}"

    def _call(self, node: Node) -> str:
        target = node.target
        if isinstance(target, OpOverload):
            return self._op(node, target)
        if target is operator.getitem:
            source, place = node.args
            return f"{self._argument(source, None)}[{self._argument(place, None)}]"
        args = [self._argument(item, None) for item in node.args]
        if target in _INFIX:
            return f"({args[0]} {_INFIX[target]} {args[1]})"  # type: ignore[index]
        if target in _FUNCTIONS:
            return f"{_FUNCTIONS[target]}({', '.join(args)})"
        raise UnscriptableError(f"{getattr(target, '__name__', target)} is no op of torch's")

    def _op(self, node: Node, target: OpOverload) -> str:
        schema = target._schema
        namespace, _, name = schema.name.partition("::")
        if name == "sym_size":
            return f"{self._argument(node.args[0], None)}.size({node.args[1]})"
        if name == "sym_numel":
            return f"{self._argument(node.args[0], None)}.numel()"
        types = {item.name: item.type for item in schema.arguments}
        places = [item for item in schema.arguments if not item.kwarg_only]
        args = [
            self._argument(value, item.type) for value, item in zip(node.args, places, strict=False)
        ]
        args += [f"{key}={self._argument(item, types[key])}" for key, item in node.kwargs.items()]
        return f"torch.ops.{namespace}.{name}({', '.join(args)})"

    def _argument(self, value: Any, kind: Any) -> str:
        if isinstance(value, Node):
            return self._name(value)
        if isinstance(value, (list, tuple)):
            inner = _element_type(kind)
            items = ", ".join(self._argument(item, inner) for item in value)
            text = _type_text(kind)
            return f"torch.jit.annotate({text}, [{items}])" if text else f"[{items}]"
        if isinstance(value, bool) or value is None:
            return str(value)
        if isinstance(value, (int, float)):
            return _number(value, kind)
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
            return str(value)
        if isinstance(value, torch.device):
            return f"torch.device({str(value)!r})"
        if isinstance(value, str):
            return repr(value)
        raise UnscriptableError(f"a {type(value).__name__} is no argument in TorchScript")


def _element_type(kind: Any) -> Any:
    if kind is None:
        return None
    if kind.kind() == "OptionalType":
        kind = kind.getElementType()
    return kind.getElementType() if kind.kind() == "ListType" else None


def _type_text(kind: Any) -> str:
    """The annotation of a list, where literals alone do not tell it."""
    if kind is None:
        return ""
    if kind.kind() == "OptionalType":
        kind = kind.getElementType()
    text = str(kind.annotation_str) if kind.kind() == "ListType" else ""
    return text if "__torch__" not in text and "SymInt" not in text else ""


def _number(value: float, kind: Any) -> str:
    wants_float = kind is not None and "float" in str(kind).lower()
    if isinstance(value, int) and not wants_float:
        return repr(value)
    number = float(value)
    return repr(number) if math.isfinite(number) else f"float('{number}')"
