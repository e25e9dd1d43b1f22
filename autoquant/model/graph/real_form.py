"""A graph without complex numbers, for engines that have none: two real tensors stand for one.

Fourier transforms stay: what they read is viewed as complex, and what they give as real, right
beside them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.errors import ModelError
from autoquant.model.graph.composites import Decompositions, mode_of, splice, value_of
from autoquant.model.graph.places import places
from autoquant.model.graph.tensor_paths import take

_ATEN = torch.ops.aten


class _Pair(NamedTuple):
    """Real and imaginary part of a complex tensor."""

    re: Tensor
    im: Tensor

    def stacked(self) -> Tensor:
        """The same as `torch.view_as_real` has it."""
        return torch.stack([self.re, self.im], -1)


_Part = Tensor | float


def _parts(value: Any) -> tuple[_Part, _Part]:
    """Real and imaginary part of whatever an op may read."""
    if isinstance(value, _Pair):
        return value.re, value.im
    if isinstance(value, complex):
        return value.real, value.imag
    return value if isinstance(value, Tensor) else float(value), 0.0


def _is_zero(part: _Part) -> bool:
    return isinstance(part, float) and part == 0.0


def _filled(part: _Part, like: Tensor) -> Tensor:
    return part if isinstance(part, Tensor) else torch.full_like(like, part)


def _paired(re: _Part, im: _Part) -> _Pair:
    tensors = [item for item in (re, im) if isinstance(item, Tensor)]
    return _Pair(_filled(re, tensors[0]), _filled(im, tensors[0]))


def _sum(first: Any, second: Any, sign: float) -> _Pair:
    (a, b), (c, d) = _parts(first), _parts(second)
    return _paired(a + sign * c, d * sign if _is_zero(b) else b if _is_zero(d) else b + sign * d)


def _product(first: Any, second: Any, times: Callable[[Any, Any], Any] = torch.mul) -> _Pair:
    (a, b), (c, d) = _parts(first), _parts(second)
    if _is_zero(d):
        return _paired(times(a, c), times(b, c))
    if _is_zero(b):
        return _paired(times(a, c), times(a, d))
    return _paired(times(a, c) - times(b, d), times(a, d) + times(b, c))


def _quotient(first: Any, second: Any) -> _Pair:
    c, d = _parts(second)
    if _is_zero(d):
        return _product(first, 1.0 / c if isinstance(c, float) else torch.reciprocal(c))
    size = c * c + d * d
    return _product(first, _paired(c / size, -d / size))


def _power(base: _Pair, exponent: float) -> _Pair:
    if exponent == 2:
        return _product(base, base)
    size, angle = _size(base) ** exponent, _angle(base) * exponent
    return _polar(size, angle)


def _size(value: _Pair) -> Tensor:
    return torch.sqrt(value.re * value.re + value.im * value.im)


def _angle(value: _Pair) -> Tensor:
    return torch.atan2(value.im, value.re)


def _polar(size: Tensor, angle: Tensor) -> _Pair:
    return _Pair(size * torch.cos(angle), size * torch.sin(angle))


def _conjugate(value: _Pair) -> _Pair:
    return _Pair(value.re, -value.im)


def _exp(value: _Pair) -> _Pair:
    return _polar(torch.exp(value.re), value.im)


def _cast(value: Any, **options: Any) -> Any:
    """To a complex type, or from one: as torch does it, the imaginary part is dropped."""
    dtype = options.get("dtype")
    if isinstance(value, _Pair):
        return value if dtype is None or dtype.is_complex else value.re.to(dtype)
    given = value.to(torch.float32)
    return _Pair(given, torch.zeros_like(given))


def _to_spectrum(x: Tensor, axes: list[int], norm: int, onesided: bool) -> _Pair:
    if not onesided:
        return _transform(_Pair(x, torch.zeros_like(x)), axes, norm, forward=True)
    return _viewed(torch.view_as_real(_ATEN._fft_r2c.default(x, axes, norm, onesided)))


def _from_spectrum(value: _Pair, axes: list[int], norm: int, last: int) -> Tensor:
    given = torch.view_as_complex(value.stacked())
    found: Tensor = _ATEN._fft_c2r.default(given, axes, norm, last)
    return found


def _transform(value: _Pair, axes: list[int], norm: int, forward: bool) -> _Pair:
    given = torch.view_as_complex(value.stacked())
    return _viewed(torch.view_as_real(_ATEN._fft_c2c.default(given, axes, norm, forward)))


def _viewed(pairs: Tensor) -> _Pair:
    return _Pair(pairs.select(-1, 0), pairs.select(-1, 1))


def _by_parts(op: Any) -> Callable[..., Any]:
    """An op that is linear in what it reads, or only moves it: of both parts alike."""

    def run(*args: Any, **kwargs: Any) -> Any:
        sides = []
        for side in (0, 1):
            own = pytree.tree_map(
                lambda leaf, side=side: _parts(leaf)[side] if isinstance(leaf, _Pair) else leaf,
                (args, kwargs),
                is_leaf=lambda leaf: isinstance(leaf, _Pair),
            )
            sides.append(op(*own[0], **own[1]))
        if isinstance(sides[0], Tensor):
            return _Pair(*sides)
        return [_Pair(re, im) for re, im in zip(*sides, strict=True)]

    return run


def _plain(found: Any) -> Any:
    """What an op gives, for torch.fx: pairs as tuples."""
    if isinstance(found, list):
        return [_plain(item) for item in found]
    return tuple(found) if isinstance(found, _Pair) else found


def _whole(value: Any) -> Any:
    return value


_LINEAR = (
    _ATEN._unsafe_view.default,
    _ATEN.alias.default,
    _ATEN.cat.default,
    _ATEN.clone.default,
    _ATEN.constant_pad_nd.default,
    _ATEN.cumsum.default,
    _ATEN.detach.default,
    _ATEN.expand.default,
    _ATEN.flip.default,
    _ATEN.gather.default,
    _ATEN.index.Tensor,
    _ATEN.index_select.default,
    _ATEN.mean.dim,
    _ATEN.neg.default,
    _ATEN.permute.default,
    _ATEN.repeat.default,
    _ATEN.reshape.default,
    _ATEN.roll.default,
    _ATEN.select.int,
    _ATEN.slice.Tensor,
    _ATEN.split.Tensor,
    _ATEN.split_with_sizes.default,
    _ATEN.squeeze.default,
    _ATEN.squeeze.dim,
    _ATEN.squeeze.dims,
    _ATEN.stack.default,
    _ATEN.sum.default,
    _ATEN.sum.dim_IntList,
    _ATEN.t.default,
    _ATEN.transpose.int,
    _ATEN.unbind.int,
    _ATEN.unsqueeze.default,
    _ATEN.view.default,
    _ATEN.where.self,
)

_IN_PAIRS: Mapping[Any, Callable[..., Any]] = {
    **{op: _by_parts(op) for op in _LINEAR},
    _ATEN._conj.default: _conjugate,
    _ATEN._conj_physical.default: _conjugate,
    _ATEN._fft_c2c.default: _transform,
    _ATEN._fft_c2r.default: _from_spectrum,
    _ATEN._fft_r2c.default: _to_spectrum,
    _ATEN._to_copy.default: _cast,
    _ATEN.abs.default: _size,
    _ATEN.add.Tensor: lambda a, b, alpha=1: _sum(a, b, alpha),
    _ATEN.angle.default: _angle,
    _ATEN.bmm.default: lambda a, b: _product(a, b, torch.bmm),
    _ATEN.complex.default: _Pair,
    _ATEN.conj_physical.default: _conjugate,
    _ATEN.div.Tensor: _quotient,
    _ATEN.exp.default: _exp,
    _ATEN.matmul.default: lambda a, b: _product(a, b, torch.matmul),
    _ATEN.mm.default: lambda a, b: _product(a, b, torch.mm),
    _ATEN.mul.Tensor: _product,
    _ATEN.polar.default: _polar,
    _ATEN.pow.Tensor_Scalar: _power,
    _ATEN.reciprocal.default: lambda value: _quotient(1.0, value),
    _ATEN.resolve_conj.default: _whole,
    _ATEN.rsub.Scalar: lambda a, b, alpha=1: _sum(b, _product(a, float(alpha)), -1.0),
    _ATEN.sub.Tensor: lambda a, b, alpha=1: _sum(a, b, -alpha),
    _ATEN.sym_size.int: lambda value, axis: value.re.shape[axis],
    _ATEN.view_as_complex.default: _viewed,
    _ATEN.view_as_real.default: _Pair.stacked,
}
"""By op, what computes it where a complex tensor is among what it reads or gives."""


def write_in_real_numbers(module: GraphModule, table: Decompositions) -> None:
    """Write what a graph computes in complex numbers in real ones, in place.

    Args:
        module: A graph of ATen ops, which neither takes nor gives a complex tensor.
        table: What is written out in other ops, as `decompose` takes it.

    Raises:
        ModelError: An op of complex numbers has no such form.
    """
    graph, mode = module.graph, mode_of(module.graph)
    made: dict[Node, Any] = {}
    concerned = [node for node in graph.nodes if _is_concerned(node)]
    for node in concerned:
        with graph.inserting_before(node):
            if node.op == "get_attr":
                made[node] = _constant(module, node)
            elif node.target is operator.getitem:
                made[node] = made[node.args[0]][node.args[1]]
            else:
                made[node] = _written(module, node, made, table, mode)
        if not _is_complex(node):
            node.replace_all_uses_with(made[node])
    for node in reversed(concerned):
        graph.erase_node(node)
    module.recompile()


def _is_complex(node: Node) -> bool:
    """Whether a node gives complex numbers."""
    leaves = pytree.tree_leaves(node.meta.get("val"))
    return any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in leaves)


def _is_concerned(node: Node) -> bool:
    reads = any(map(_is_complex, node.all_input_nodes))
    if (reads and node.op == "output") or (node.op == "placeholder" and _is_complex(node)):
        raise _refused(node, "complex inputs and outputs")
    return reads or _is_complex(node)


def _refused(node: Node, what: str) -> ModelError:
    return ModelError(
        f"the engine has no complex numbers, and no form in real ones is known of {what}"
        f"{places([node], str(node.target))}",
        hint="search with backend.name: torch or onnxruntime, or rewrite the op",
    )


def _constant(module: GraphModule, node: Node) -> tuple[Node, Node]:
    """Two constants in place of a complex one."""
    parts = torch.view_as_real(take(module, str(node.target)).resolve_conj()).unbind(-1)
    found = []
    for name, part in zip(_Pair._fields, parts, strict=True):
        path = f"{node.name}_{name}"
        module.register_buffer(path, part.contiguous())
        found.append(module.graph.get_attr(path))
        found[-1].meta = {**node.meta, "val": mode_of(module.graph).from_tensor(part)}
    return found[0], found[1]


def _written(
    module: GraphModule,
    node: Node,
    made: Mapping[Node, Any],
    table: Decompositions,
    mode: FakeTensorMode,
) -> Any:
    """Write one op in real numbers before it."""
    compute = _IN_PAIRS.get(node.target)
    if compute is None:
        raise _refused(node, str(node.target))
    known = {item: made.get(item, item) for item in node.all_input_nodes}
    values = [value_of(module, item, mode) for item in pytree.tree_leaves(list(known.values()))]

    def run(*values: Tensor) -> Any:
        given = iter(values)
        read = {
            item: _Pair(next(given), next(given)) if _is_complex(item) else next(given)
            for item in known
        }
        args, kwargs = map_arg((node.args, node.kwargs), read.__getitem__)
        return _plain(compute(*args, **kwargs))

    def copied(inner: Node, inside: Mapping[Node, Any]) -> Node:
        found = module.graph.node_copy(inner, inside.__getitem__)
        found.meta = {**node.meta, "val": inner.meta.get("val")}
        return found

    with torch.no_grad(), mode, enable_python_dispatcher():
        traced = make_fx(run, decomposition_table=table)(*values)
    held: dict[str, Any] = {}
    found = splice(node, traced, known, held, copied)
    for path, value in held.items():
        module.register_buffer(path, value)
    return found
