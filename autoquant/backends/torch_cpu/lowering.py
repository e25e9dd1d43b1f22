"""A plan -> the float graph with each site on its scheme's kernel, forms converted between."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from autoquant.backends.torch_cpu.averages import AVERAGES, is_too_coarse
from autoquant.backends.torch_cpu.emission import Emitter, Grids, is_float32
from autoquant.backends.torch_cpu.float_ops import float_kernel
from autoquant.backends.torch_cpu.forms import INTEGERS, Form
from autoquant.backends.torch_cpu.kernel_table import KernelTable
from autoquant.backends.torch_cpu.operations import Kernel, Operation, argument
from autoquant.backends.torch_cpu.weights import WeightStore
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import FOLLOWING_KINDS, Site
from autoquant.errors import BackendError, first_line
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.node_shapes import fixed_sizes, shape_of

PASSING = frozenset(
    {
        "chunk",
        "clone",
        "contiguous",
        "expand",
        "flatten",
        "permute",
        "reshape",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
    }
)
"""Ops that move values and take them in any form."""

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True, slots=True, eq=False)
class LoweredGraph:
    """What lowering makes of a plan.

    Attributes:
        module: Tensors in, the tuple of the model's output leaves that are nodes out; its nodes'
            meta names the float node that each computes.
        leaves: What stands at each leaf of the model's outputs: a place in that tuple, or a
            constant.
        structure: Of the model's outputs.
        runs: By site, what its kernel computes in and how.
        fused: By site, the sites whose ops run within its kernel.
    """

    module: GraphModule
    leaves: tuple[tuple[int | None, Any], ...]
    structure: pytree.TreeSpec
    runs: Mapping[str, tuple[Scheme, Support]]
    fused: Mapping[str, tuple[str, ...]]


class Lowering:
    """Lowers plans of one captured graph."""

    def __init__(self, captured: Capture, grids: Grids, table: KernelTable) -> None:
        self._captured = captured
        self._grids = grids
        self._table = table
        self._store = WeightStore(captured.graph, grids.weight_bits)
        self._nodes = captured.nodes
        self._sites = captured.by_name
        self._groups: dict[Node, tuple[Site, tuple[Node, ...]]] = {}
        for call in captured.calls:
            nodes = tuple(self._nodes[name] for name in call.nodes)
            self._groups[nodes[0]] = (call.site, nodes)
        self._written = {nodes[-1] for _, nodes in self._groups.values()}

    def operations(self, site: str) -> tuple[Operation, ...]:
        """What a site computes, once for each call."""
        groups = self._captured.members[site]
        nodes = [tuple(self._nodes[name] for name in group) for group in groups]
        return tuple(Operation(self._sites[site], group) for group in nodes)

    def supports(self, site: str, scheme: Scheme, engine: str) -> bool:
        """Whether every call of a site has a kernel for a scheme, or is left in float by right."""
        return all(
            self._table.choose(item, scheme, engine) is not None
            or item.site.kind in FOLLOWING_KINDS
            for item in self.operations(site)
        )

    def lower(self, plan: Mapping[str, Scheme], engines: Mapping[str, str]) -> LoweredGraph:
        """Lower a plan; a site that `engines` does not list takes the table's own.

        Raises:
            BackendError: A site has no kernel for its scheme, or torch refuses its arguments;
                names the site.
        """
        chosen = self._choose(plan, engines)
        wants = self._wants(chosen)
        emitter = Emitter(self._store, self._grids)
        inside = {node for operation, _ in chosen.values() for node in operation.nodes[1:]}
        for node in self._captured.graph.graph.nodes:
            if node in chosen:
                self._emit_operation(emitter, *chosen[node], wants)
            elif node not in inside:
                self._emit_other(emitter, node, wants)
        return self._finish(emitter, chosen)

    def _choose(
        self, plan: Mapping[str, Scheme], engines: Mapping[str, str]
    ) -> dict[Node, tuple[Operation, Kernel]]:
        chosen: dict[Node, tuple[Operation, Kernel]] = {}
        taken: set[Node] = set()
        for node in self._captured.graph.graph.nodes:
            if node not in self._groups or node in taken:
                continue
            operation = Operation(*self._groups[node])
            site = operation.site
            scheme, engine = plan[site.name], engines.get(site.name, self._table.engine)
            kernel = self._table.choose(operation, scheme, engine)
            if kernel is None:
                if site.kind not in FOLLOWING_KINDS:
                    raise BackendError(
                        f"site {site.name}: torch's {engine} has no {scheme.value} kernel for "
                        f"{operation.name} with these arguments",
                        hint=f"leave {scheme.value} out of the schemes of {site.name}",
                    )
                kernel = float_kernel()
            elif self._belongs_in_float(operation, scheme, kernel, engine):
                kernel = float_kernel()
            else:
                operation, kernel = self._absorb(operation, kernel, plan, engine)
                taken.update(operation.nodes[1:])
            chosen[node] = (operation, kernel)
        return chosen

    def _belongs_in_float(
        self, operation: Operation, scheme: Scheme, kernel: Kernel, engine: str
    ) -> bool:
        """Whether a site is better left in float than run by its kernel."""
        if scheme is Scheme.INT8:
            return self._is_too_coarse(operation)
        if kernel.support is Support.NATIVE:
            return False
        return self._follows_native(operation.site, scheme, engine)

    def _follows_native(self, site: Site, scheme: Scheme, engine: str) -> bool:
        """Whether a site follows one with a kernel of its scheme, which hands out floats.

        Nothing need stand for the scheme there: emulated, it would cost the plan its latency.
        """
        if site.follows is None:
            return False
        leader = self._sites[site.follows]
        if leader.kind in FOLLOWING_KINDS:
            return self._follows_native(leader, scheme, engine)
        operations = self.operations(leader.name)
        kernels = [self._table.choose(item, scheme, engine) for item in operations]
        return all(found is not None and found.support is Support.NATIVE for found in kernels)

    def _is_too_coarse(self, operation: Operation) -> bool:
        """Whether an average has no grid in integers that is fine enough for it."""
        if operation.name not in AVERAGES:
            return False
        read: Any = operation.root.args[0]
        try:
            grids = [self._grids.int8_grid(node.name) for node in (read, operation.last)]
        except ValueError:  # calibration did not see it
            return False
        return is_too_coarse(operation, *grids)

    def _absorb(
        self, operation: Operation, kernel: Kernel, plan: Mapping[str, Scheme], engine: str
    ) -> tuple[Operation, Kernel]:
        """Let the activation or the sum behind an op run within it, where its kernel can."""
        scheme = plan[operation.site.name]
        readers = list(operation.last.users)
        if len(readers) != 1 or readers[0] not in self._groups:
            return operation, kernel
        site, nodes = self._groups[readers[0]]
        if plan[site.name] is not scheme:
            return operation, kernel
        longer = operation.followed_by(nodes, site.name)
        if site.kind not in FOLLOWING_KINDS and not self._can_add(longer, scheme):
            return operation, kernel
        found = self._table.with_rest(longer, scheme, engine, self._grids)
        return (operation, kernel) if found is None else (longer, found)

    def _can_add(self, operation: Operation, scheme: Scheme) -> bool:
        """Whether what is added to an op's result has its sizes and is there before it.

        Kernels of integers write the sum where the addend was: nobody may read it later. What
        only moves values may share its memory.
        """
        addend = operation.addend
        if addend is None or addend.op == "get_attr":
            return False
        total = operation.nodes[1]
        if op_name(total) != "add" or argument(total, "alpha") != 1:
            return False  # an activation before the sum, which no kernel computes
        if fixed_sizes(addend) != fixed_sizes(operation.root):
            return False
        others = [node for node in addend.users if node is not total]
        if scheme is not Scheme.INT8:
            return addend < operation.root
        is_free = addend in self._written and not any(map(_passes, others))
        return is_free and max([addend, *others]) < operation.root

    def _wants(self, chosen: Mapping[Node, tuple[Operation, Kernel]]) -> dict[Node, set[Form]]:
        """In which forms the readers of each tensor take it."""
        wants: dict[Node, set[Form]] = {node: set() for node in self._captured.graph.graph.nodes}
        reads = {node: kernel.reads for item, kernel in chosen.values() for node in item.nodes}
        for node in reversed(self._captured.graph.graph.nodes):
            for source in node.all_input_nodes:
                if node in reads:
                    wants[source].add(reads[node])
                elif _passes(node):
                    wants[source] |= wants[node]
                else:
                    wants[source].add(Form.FLOAT32)
        return wants

    def _emit_operation(
        self,
        emitter: Emitter,
        operation: Operation,
        kernel: Kernel,
        wants: Mapping[Node, set[Form]],
    ) -> None:
        emitter.begin(operation.root.name)
        out = _written(kernel.writes, wants[operation.last])
        try:
            kernel.emit(emitter, operation, out)
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"site {operation.site.name}: {first_line(error)}",
                hint=f"leave {kernel.runs.value} out of the schemes of {operation.site.name}",
            ) from error
        finally:
            emitter.begin("")

    def _emit_other(self, emitter: Emitter, node: Node, wants: Mapping[Node, set[Form]]) -> None:
        if node.op in ("get_attr", "output"):
            return
        emitter.begin(node.name)
        if node.op == "placeholder":
            self._emit_input(emitter, node)
        elif _passes(node) and isinstance(node.args[0], Node):
            _pass_on(emitter, node, wants[node])
        else:
            args, kwargs = emitter.arguments(node, Form.FLOAT32)
            made = emitter.call(node.target, *args, **kwargs)
            emitter.put(node, Form.FLOAT32, made)
        emitter.begin("")

    def _emit_input(self, emitter: Emitter, node: Node) -> None:
        made = emitter.graph.placeholder(node.name)
        layout = _CHANNELS_LAST.get(len(shape_of(node) or ())) if is_float32(node) else None
        if layout is not None:
            emitter.begin("")
            made = emitter.call(torch.ops.aten.contiguous.default, made, memory_format=layout)
        emitter.put(node, Form.FLOAT32, made)

    def _finish(
        self, emitter: Emitter, chosen: Mapping[Node, tuple[Operation, Kernel]]
    ) -> LoweredGraph:
        (output,) = (node for node in self._captured.graph.graph.nodes if node.op == "output")
        flat, structure = _outputs(self._captured.graph, output)
        given: list[Node] = []
        leaves: list[tuple[int | None, Any]] = []
        for leaf in flat:
            if isinstance(leaf, Node):
                leaves.append((len(given), None))
                given.append(emitter.read(leaf, Form.FLOAT32).node)
            else:
                leaves.append((None, leaf))
        emitter.graph.output(tuple(given))
        emitter.graph.eliminate_dead_code()
        module = GraphModule(emitter.root, emitter.graph)
        for name, held in emitter.root.named_children():
            module.add_module(name, held)  # torch.fx copies what is read of it alone
        runs: dict[str, tuple[Scheme, Support]] = {}
        fused: dict[str, tuple[str, ...]] = {}
        for operation, kernel in chosen.values():
            for site in (operation.site.name, *operation.fused):
                runs[site] = (kernel.runs, kernel.support)
            if operation.fused:
                fused[operation.site.name] = operation.fused
        return LoweredGraph(module, tuple(leaves), structure, runs, fused)


def _passes(node: Node) -> bool:
    return op_name(node) in PASSING or node.target is operator.getitem


def _pass_on(emitter: Emitter, node: Node, wants: set[Form]) -> None:
    """Write an op that moves values: on the form that is there and that its readers want."""
    source: Any = node.args[0]
    emitter.read(source, Form.FLOAT32) if source.op == "get_attr" else None
    there = emitter.forms(source)
    form = next((item for item in there if item in wants), there[0])
    value = emitter.read(source, form)
    if isinstance(value.node, tuple):  # outputs that exist apart
        emitter.put(node, form, value.node[node.args[1]])  # type: ignore[index]
        return
    args = [value.node, *(_plain(emitter, item) for item in node.args[1:])]
    kwargs = {key: _plain(emitter, item) for key, item in node.kwargs.items()}
    emitter.put(node, form, emitter.call(node.target, *args, **kwargs), value.grid)


def _plain(emitter: Emitter, value: Any) -> Any:
    """Sizes among the arguments of an op that moves values."""
    return torch.fx.node.map_arg(value, lambda item: emitter.read(item, Form.FLOAT32).node)


def _written(writes: Sequence[Form], wants: set[Form]) -> Form:
    """The form in which a kernel writes, of those it can: what its readers take."""
    if len(writes) == 1:
        return writes[0]
    floats = [form for form in writes if form not in INTEGERS]
    if wants and all(form in INTEGERS for form in wants):
        return next((form for form in writes if form in INTEGERS), writes[0])
    return next((form for form in floats if form in wants), floats[0] if floats else writes[0])


def _outputs(graph: GraphModule, output: Node) -> tuple[list[Any], pytree.TreeSpec]:
    """Leaves of the model's outputs, and how they nest."""
    info = getattr(graph.graph._codegen, "pytree_info", None)
    if info is not None and info.out_spec is not None:
        return list(output.args[0]), info.out_spec  # type: ignore[arg-type]
    return pytree.tree_flatten(output.args[0])
