"""A mean over all spatial dimensions is a global average pool, which has an int8 kernel."""

from __future__ import annotations

from collections.abc import MutableMapping

from onnx import GraphProto, NodeProto, helper, numpy_helper

_LEAST_RANK = 3


def replace_spatial_means(graph: GraphProto, origin_of: MutableMapping[str, str | None]) -> None:
    """Write `ReduceMean` over every dimension from the third on as `GlobalAveragePool`, in place.

    The graph has shapes of its tensors; new nodes are added to `origin_of`, by their names.
    """
    ranks = {
        item.name: len(item.type.tensor_type.shape.dim)
        for item in (*graph.value_info, *graph.input)
        if item.type.tensor_type.HasField("shape")
    }
    axes = {
        item.name: tuple(int(axis) for axis in numpy_helper.to_array(item).ravel())
        for item in graph.initializer
        if item.data_type == item.INT64 and len(item.dims) <= 1
    }
    nodes: list[NodeProto] = []
    for node in graph.node:
        rank = ranks.get(node.input[0], 0) if node.op_type == "ReduceMean" else 0
        chosen = axes.get(node.input[1], ()) if rank >= _LEAST_RANK and len(node.input) > 1 else ()
        if not chosen or {axis % rank for axis in chosen} != set(range(2, rank)):
            nodes.append(node)
            continue
        keeps = {item.name: item.i for item in node.attribute}.get("keepdims", 1)
        pooled = node.output[0] if keeps else f"{node.output[0]}_pooled"
        pool = helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)
        nodes.append(pool)
        if not keeps:
            flat = helper.make_node(
                "Flatten", [pooled], [node.output[0]], name=f"{node.name}_flat", axis=1
            )
            origin_of[flat.name] = origin_of[node.name]
            nodes.append(flat)
    del graph.node[:]
    graph.node.extend(nodes)
