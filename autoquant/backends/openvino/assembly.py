"""A plan -> an OpenVINO model: quantizers before its int8 ops, marks left on its fp32 ops."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from autoquant.backends.byte_codes import byte_codes
from autoquant.backends.openvino.engine import BF16, F32, Options
from autoquant.backends.openvino.graph import PRECISE, FloatGraph
from autoquant.backends.openvino.layout import KEEPING, QUANTIZER, Layout, is_constant
from autoquant.backends.openvino.residual_rows import has_residual_rows
from autoquant.backends.openvino.weights import (
    WeightForm,
    channel_axes,
    compressed,
    grouped,
    quantized,
)
from autoquant.core.plan import Plan
from autoquant.core.precision import BY_GROUP, Scheme
from autoquant.core.sites import OpKind
from autoquant.errors import BackendError
from autoquant.model.calibration.ranges.density import with_zero
from autoquant.model.calibration.ranges.tensor_ranges import TensorRange, TensorRanges
from autoquant.model.graph.captured import Capture

_LEVELS = 256
_LARGEST = float(np.finfo(np.float32).max)
_CONVOLUTIONS = frozenset(
    {
        "Convolution",
        "GroupConvolution",
        "ConvolutionBackpropData",
        "GroupConvolutionBackpropData",
    }
)
_SUMMING = _CONVOLUTIONS | {"MatMul"}
_ELEMENTWISE = frozenset({"Add", "Multiply"})
_FACTORS = frozenset({"Multiply", "Divide"})
_SCALING = _FACTORS | {"Add"}
_PARTS_OF_A_NORM = 6
"""So many ops stand at most between a mean and the last op of a norm that is written out."""
_POOLING = frozenset({"MaxPool", "AvgPool", "ReduceMean"})
_KEEPS_GRID = frozenset({"MaxPool", "Concat"})
_EXTREMES = frozenset({"ReduceMax", "ReduceMin", "AdaptiveMaxPool"})
_FLOAT_SCHEMES = frozenset({Scheme.BF16, Scheme.FP32})
_PRODUCTS = frozenset({OpKind.ATTENTION, OpKind.MATMUL})
_FLOATS = frozenset({OpKind.ACTIVATION, OpKind.NORM})
_FLOAT_FORMS: Mapping[Scheme, WeightForm] = {
    Scheme.INT8_WEIGHT_ONLY: compressed,
    **{scheme: partial(grouped, scheme.group or 0) for scheme in BY_GROUP},
}
"""How the schemes store weights whose products are in float."""


class Assembler:
    """Builds the model of a plan from the float graph and the ranges of its tensors."""

    def __init__(
        self, graph: FloatGraph, layout: Layout, ranges: TensorRanges, captured: Capture
    ) -> None:
        self._graph = graph
        self._selections = _selections(captured)
        self._layout = layout
        self._ranges = ranges
        self.weight_bits = ranges.weight_bits
        self._fusible = not has_residual_rows(graph.model)

    def assemble(self, plan: Plan) -> tuple[ov.Model, Options]:
        """Give the model of a plan, and the options that it is to be compiled with.

        The precision hint is `bf16` where any site is, else `f32`. The plugin makes one subgraph
        of an attention's matmuls, whose ops cannot differ in precision nor be read back: it is
        kept from that in a mixed plan, and where a linear layer is parted from what reads it.

        Raises:
            BackendError: Calibration saw nothing of a tensor that the plan quantizes; or a norm is
                to stay out of bf16 that the plugin cannot keep out.
        """
        schemes = dict(plan.assignment)
        hint = BF16 if Scheme.BF16 in schemes.values() else F32
        model = self._graph.model.clone()
        nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
        _Insertion(self, nodes, schemes).run()
        parted: frozenset[OpKind] = frozenset()
        if hint == BF16:
            self._refuse_unmarkable(nodes, schemes)
            parted = self._part(nodes, schemes)
            self._release(nodes, schemes)
            _shield_marks(nodes.values())
            self._part_from_pads(nodes, schemes)
            _part_from_means(nodes.values())
        subgraphs = not self._differs(schemes, hint) and OpKind.LINEAR not in parted
        return model, Options(hint, subgraphs=subgraphs and self._fusible)

    def _differs(self, schemes: Mapping[str, Scheme], hint: str) -> bool:
        """Whether a model has products of tensors and any site that is not what the hint says.

        A quantizer or another format in the subgraph of an attention crashes the plugin.
        """
        wanted = Scheme.BF16 if hint == BF16 else Scheme.FP32
        kinds = {site.kind for site in self._layout.sites.values()}
        return not kinds.isdisjoint(_PRODUCTS) and any(
            scheme is not wanted for scheme in schemes.values()
        )

    def _refuse_unmarkable(
        self, nodes: Mapping[str, ov.Node], schemes: Mapping[str, Scheme]
    ) -> None:
        """Refuse other formats beside bf16 for a norm that the plugin takes apart.

        What it makes of a batch norm by the batch's own statistics has lost the mark and has names
        of its own: parts of it would run in bf16, unseen by the read-back.
        """
        for name, site in self._layout.owner.items():
            apart = nodes[name].get_type_name() == "BatchNormInference"
            if apart and schemes[site] is not Scheme.BF16:
                raise BackendError(
                    f"openvino cannot keep {site!r}, planned as {schemes[site].value}, out of "
                    "bf16 in a plan with any bf16: it loses the precision of batch norms without "
                    "running statistics",
                    hint="let the whole plan be without bf16, or the op that it follows be bf16",
                    sites=(site,),
                )

    def _release(self, nodes: Mapping[str, ov.Node], schemes: Mapping[str, Scheme]) -> None:
        """Take the mark from what may run in bf16.

        An int8 op may write bf16, unless a site in full precision reads what it writes.
        """
        for name, site in self._layout.owner.items():
            scheme, node = schemes[site], nodes[name]
            if scheme is Scheme.BF16 or (
                scheme is Scheme.INT8
                and self._layout.sites[site].kind not in _FLOATS
                and not self._feeds_full_precision(node, site, schemes)
            ):
                del node.get_rt_info()[PRECISE]

    def _part_from_pads(self, nodes: Mapping[str, ov.Node], schemes: Mapping[str, Scheme]) -> None:
        """Keep a convolution in f32 behind a pad: the plugin makes one op of both, without mark."""
        for name, site in self._layout.owner.items():
            node = nodes[name]
            if schemes[site] is not Scheme.FP32 or node.get_type_name() not in _CONVOLUTIONS:
                continue
            if node.input_value(0).get_node().get_type_name() == "Pad":
                node.input(0).replace_source_output(_clamped(node.input_value(0)))

    def _part(
        self, nodes: Mapping[str, ov.Node], schemes: Mapping[str, Scheme]
    ) -> frozenset[OpKind]:
        """Keep a convolution from absorbing a sum or product of the other float format.

        Some of these pairs have no kernel: the plugin fails on them, or gives an empty output. A
        conversion there and back is no-op enough to cost what converting the tensor costs, and
        enough of an op to part the two. Behind a linear layer, a subgraph that holds it crashes
        the plugin.

        Returns:
            Kinds of the sites that were parted from a reader.
        """
        parted = set()
        for name, site in self._layout.owner.items():
            node = nodes[name]
            if node.get_type_name() not in _ELEMENTWISE:
                continue
            for index in (0, 1):
                value = node.input_value(index)
                writer = self._layout.owner.get(value.get_node().get_friendly_name())
                if writer in (None, site) or schemes[writer] is schemes[site]:
                    continue
                kind = self._layout.sites[writer].kind
                floats = {schemes[writer], schemes[site]} <= _FLOAT_SCHEMES
                if (floats or kind is OpKind.MATMUL) and not is_constant(value):
                    node.input(index).replace_source_output(_there_and_back(value))
                    parted.add(kind)
        return frozenset(parted)

    def _feeds_full_precision(
        self, node: ov.Node, site: str, schemes: Mapping[str, Scheme]
    ) -> bool:
        readers = [
            target.get_node() for output in node.outputs() for target in output.get_target_inputs()
        ]
        for reader in readers:
            owner = self._layout.owner.get(reader.get_friendly_name())
            if owner == site:
                if self._feeds_full_precision(reader, site, schemes):
                    return True
            elif owner is None or schemes[owner] not in (Scheme.BF16, Scheme.INT8):
                return True
        return False

    def range_of(self, output: ov.Output, readers: Sequence[ov.Node]) -> TensorRange:
        """Range of a tensor, from the statistics of the captured node that writes it.

        What reads it, or moves it on its way there, tells the outputs of a recurrent layer apart.
        A constant, which the model spreads over a batch, has the range of its values. Of what one
        node computes on its way (the sum that an einsum begins with) nothing is known.
        """
        writer = output.get_node()
        if writer.get_type_name() == "Constant":
            values = np.asarray(writer.get_data())
            return TensorRange(*with_zero(float(values.min()), float(values.max())))
        name = writer.get_friendly_name()
        node = self._graph.captured_node(name)
        reading = (self._graph.captured_node(item.get_friendly_name()) for item in readers)
        selected = ((node, item) for item in reading if (node, item) in self._selections)
        node = self._selections.get(next(selected, (node, None)), node)
        within = self._graph.captured_node(readers[0].get_friendly_name())
        try:
            return self._ranges.int8(node if node and node != within else "")
        except ValueError as error:
            raise BackendError(
                f"openvino cannot quantize the tensor {node or name!r}: calibration saw none "
                "of that name" + (f", within {within!r}" if node == within else ""),
                hint="pin the op that reads it to a float scheme in the search space",
            ) from error

    @property
    def layout(self) -> Layout:
        """The graph's ops by site."""
        return self._layout


class _Insertion:
    """Quantizers of one plan; one for each tensor, whoever reads it."""

    def __init__(
        self, assembler: Assembler, nodes: Mapping[str, ov.Node], schemes: Mapping[str, Scheme]
    ) -> None:
        self._assembler = assembler
        self._owner = assembler.layout.owner
        self._nodes = nodes
        self._schemes = schemes
        self._order = {name: index for index, name in enumerate(nodes)}
        self._quantizers: dict[tuple[str, int, TensorRange], ov.Output] = {}
        self._bits = assembler.weight_bits
        in_integers = partial(quantized, self._bits)
        self._forms: dict[Scheme, WeightForm] = {
            Scheme.INT8: in_integers,
            Scheme.INT8_DYNAMIC: in_integers,
            **_FLOAT_FORMS,
        }

    def run(self) -> None:
        """Quantize what every integer site reads."""
        for site, names in self._assembler.layout.computing.items():
            scheme = self._schemes[site]
            for node in (self._nodes[name] for name in names):
                if scheme is Scheme.INT8:
                    self._quantize(node, site)
                elif scheme in self._forms:
                    self._store_weight(node, scheme)
                elif scheme not in _FLOAT_SCHEMES:
                    raise ValueError(f"{scheme.value} at {site!r} has no form here")
        for name, site in self._owner.items():
            if self._schemes[site] is Scheme.INT8 and self._nodes[name].get_type_name() in _SUMMING:
                _give_one_reader(self._nodes[name])
        if self._quantizers:
            _part_from_extremes(self._nodes.values())

    def _quantize(self, node: ov.Node, site: str) -> None:
        kind = node.get_type_name()
        if kind in _SUMMING:
            both = not is_constant(node.input_value(1))
            self._quantize_input(node, 0, centred=both)
            self._quantize_input(node, 1, centred=both)
        elif kind in _ELEMENTWISE:
            operands = [index for index in (0, 1) if self._is_foreign(node, index, site)]
            if len(operands) == 2:
                summed = self._summed(node) if kind == "Add" else None
                for index in operands:
                    if index != summed:
                        self._quantize_input(node, index)
        elif kind in _POOLING:
            self._quantize_input(node, 0, centred=_averages_padding(node))
        elif kind == "Concat" and not self._is_multiplied(node):
            for index in range(node.get_input_size()):
                self._quantize_input(node, index)

    def _is_foreign(self, node: ov.Node, index: int, site: str) -> bool:
        """Whether an operand is a tensor that another site or an input of the model gives."""
        value = node.input_value(index)
        if is_constant(value) or not value.get_element_type().is_real():
            return False
        return self._owner.get(value.get_node().get_friendly_name()) != site

    def _summed(self, add: ov.Node) -> int | None:
        """Operand that an int8 convolution before an add still holds in its accumulators.

        The convolution adds the other operand to them: rounding this one would only cost time
        and accuracy. Where both are such, the engine can hold one: that computed last.
        """
        held = [index for index in (0, 1) if self._is_held(add.input_value(index))]
        return max(
            held,
            key=lambda index: self._order[add.input_value(index).get_node().get_friendly_name()],
            default=None,
        )

    def _is_held(self, value: ov.Output) -> bool:
        node = value.get_node()
        site = self._owner.get(node.get_friendly_name())
        if site is None or self._schemes[site] is not Scheme.INT8:
            return False
        while len(node.output(0).get_target_inputs()) == 1:
            if node.get_type_name() in _CONVOLUTIONS:
                return True
            before = node.input_value(0).get_node() if node.get_input_size() else node
            if self._owner.get(before.get_friendly_name()) != site:
                return False
            node = before
        return False

    def _quantize_input(self, node: ov.Node, index: int, *, centred: bool = False) -> None:
        """Quantize an input of an op.

        Args:
            node: The op.
            index: Which input.
            centred: On a grid whose zero is stored as 0, which a matmul of two tensors needs, and a
                pool that averages zeros around its input.
        """
        value = node.input_value(index)
        if is_constant(value):
            if node.get_type_name() in _SUMMING:
                self._replace_weight(node, index, self._forms[Scheme.INT8])
        elif value.get_element_type().is_real():
            self._round(node, index, centred)

    def _round(self, node: ov.Node, index: int, centred: bool) -> None:
        """Let an input pass a quantizer, set as early as nobody else sees it."""
        readers = [node]
        value = node.input_value(index)
        while _keeps_values(value.get_node()) and _has_one_reader(value.get_node()):
            readers.append(value.get_node())
            index, value = 0, readers[-1].input_value(0)
        if centred or not self._is_on_grid(value):
            quantizer = self._quantizer(value, readers, index if centred else None)
            readers[-1].input(index).replace_source_output(quantizer)

    def _is_on_grid(self, value: ov.Output) -> bool:
        """Whether a tensor holds quantized values unchanged."""
        node = value.get_node()
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            return True
        if _keeps_values(node):
            return self._is_on_grid(node.input_value(0))
        if kind == "Concat" and self._is_multiplied(node):
            return False
        site = self._owner.get(node.get_friendly_name())
        return kind in _KEEPS_GRID and site is not None and self._schemes[site] is Scheme.INT8

    def _is_multiplied(self, node: ov.Node) -> bool:
        """Whether an int8 matmul reads what an op gives, moved or not.

        Its kernel has one grid for all that it reads, not one for each part of a concatenation.
        """
        readers = [item.get_node() for out in node.outputs() for item in out.get_target_inputs()]
        return any(
            self._is_multiplied(reader)
            if _keeps_values(reader)
            else reader.get_type_name() == "MatMul"
            and self._schemes.get(self._owner.get(reader.get_friendly_name(), "")) is Scheme.INT8
            for reader in readers
        )

    def _quantizer(
        self, value: ov.Output, readers: list[ov.Node], operand: int | None
    ) -> ov.Output:
        """A quantizer of a tensor that an op reads through others.

        For an operand of a matmul of two tensors, a centred one.
        """
        source, readers = value, [*readers]
        while _keeps_values(source.get_node()):
            readers.append(source.get_node())
            source = readers[-1].input_value(0)
        found = self._assembler.range_of(source, readers)
        if operand is not None:
            found = _centred(
                found,
                signed=operand == 1 or found.low < 0.0,
                bits=self._bits if operand == 1 else 8,
            )
        key = (value.get_node().get_friendly_name(), value.get_index(), found)
        if key not in self._quantizers:
            ends = np.float32(found.low), np.float32(found.high)
            quantizer = ops.fake_quantize(self._parted(value), *ends, *ends, _LEVELS)
            quantizer.set_friendly_name(f"{QUANTIZER}{len(self._quantizers)}")
            self._quantizers[key] = quantizer.output(0)
        return self._quantizers[key]

    def _parted(self, value: ov.Output) -> ov.Output:
        """A tensor to quantize, kept from a bf16 matmul of two tensors, which cannot absorb it."""
        source = _before_moves(value)
        site = self._owner.get(source.get_node().get_friendly_name())
        if site is None or self._schemes[site] is not Scheme.BF16:
            return value
        kind = self._assembler.layout.sites[site].kind
        return _there_and_back(value) if kind is OpKind.MATMUL else value

    def _store_weight(self, node: ov.Node, scheme: Scheme) -> None:
        """Store a weight in integers; what else the op reads stays in float."""
        if node.get_type_name() == "MatMul" and is_constant(node.input_value(1)):
            self._replace_weight(node, 1, self._forms[scheme])
        elif node.get_type_name() == "Gather" and is_constant(node.input_value(0)):
            if scheme.group is None:
                _look_up_in_8_bits(node)
            else:
                self._replace_weight(node, 0, self._forms[scheme])

    @staticmethod
    def _replace_weight(node: ov.Node, index: int, form: WeightForm) -> None:
        constant = node.input_value(index).get_node()
        if constant.get_type_name() != "Constant":
            raise BackendError(
                f"openvino cannot quantize the weight of {node.get_friendly_name()!r}: it is "
                f"computed by {constant.get_type_name()}",
                hint="pin the op to a float scheme in the search space",
            )
        weight: npt.NDArray[np.float32] = np.asarray(constant.get_data(), dtype=np.float32)
        axes = channel_axes(node, weight.ndim)
        node.input(index).replace_source_output(form(weight, axes).output(0))


def _part_from_extremes(nodes: Iterable[ov.Node]) -> None:
    """Keep quantizers from ops that give a largest or smallest value, in place.

    The plugin computes one wrongly that it moves a quantizer before, also through what joins it
    with others.
    """
    for node in nodes:
        if node.get_type_name() not in _EXTREMES:
            continue
        readers = node.output(0).get_target_inputs()
        shield = ops.minimum(node.output(0), ops.constant(np.float32(_LARGEST)))
        for reader in readers:
            reader.replace_source_output(shield.output(0))


def _there_and_back(value: ov.Output) -> ov.Output:
    """A tensor in f32, by way of bf16."""
    return ops.convert(ops.convert(value, "bf16"), "f32").output(0)


def _centred(found: TensorRange, *, signed: bool, bits: int) -> TensorRange:
    """The narrowest range about a range whose zero is stored as 0: on -128 to 127, or 0 to 255.

    Of seven bits the signed one is twice as wide, so that what was calibrated fills half of it.
    """
    if not signed:
        return TensorRange(0.0, found.high)
    half = 2.0 ** (bits - 1)
    step = max(-found.low / half, found.high / (half - 1.0))
    return TensorRange(-128.0 * step, 127.0 * step)


def _keeps_values(node: ov.Node) -> bool:
    """Whether an op only moves what it reads, into zeros at most."""
    if node.get_type_name() != "Pad" or node.get_input_size() < 4:
        return node.get_type_name() in KEEPING
    value = node.input_value(3)
    return is_constant(value) and not np.any(np.asarray(value.get_node().get_data()))


def _before_moves(value: ov.Output) -> ov.Output:
    """The tensor whose values an output holds, moved."""
    while _keeps_values(value.get_node()):
        value = value.get_node().input_value(0)
    return value


def _has_one_reader(node: ov.Node) -> bool:
    return sum(len(output.get_target_inputs()) for output in node.outputs()) == 1


def _look_up_in_8_bits(node: ov.Node) -> None:
    """Let an embedding gather 8-bit rows, and their scales, instead of floats.

    The plugin would fold a table that is scaled before it is looked up back into floats, where
    anything else in the model is quantized.
    """
    table = np.asarray(node.input_value(0).get_node().get_data(), dtype=np.float32)
    values, scale = byte_codes(table, (0,))
    indices, axis = node.input_value(1), node.input_value(2)
    rows = ops.gather(ops.constant(values), indices, axis)
    rows.set_friendly_name(node.get_friendly_name())
    scales = ops.gather(ops.constant(scale), indices, axis)
    found = ops.multiply(ops.convert(rows, "f32"), scales)
    found.set_friendly_name(f"{node.get_friendly_name()}/scaled")
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(found.output(0))


def _averages_padding(pool: ov.Node) -> bool:
    """Whether a pool counts its padding: the kernel pads with the integer 0, whatever it means."""
    facts = pool.get_attributes() if pool.get_type_name() == "AvgPool" else {}
    pads = (*facts.get("pads_begin", ()), *facts.get("pads_end", ()))
    return any(pads) and not facts["exclude-pad"]


def _give_one_reader(node: ov.Node) -> None:
    """Let what several ops read of an int8 product pass a clamp to all finite floats, in place.

    The plugin scales the accumulators for one of the readers, and another gets them scaled twice or
    not at all; what only scales or moves values before they part changes nothing of that. The
    kernel absorbs the clamp.
    """
    output, last = node.output(0), node
    while len(last.output(0).get_target_inputs()) == 1:
        (target,) = last.output(0).get_target_inputs()
        last = target.get_node()
        kind = last.get_type_name()
        if not _scales(last) and (kind not in KEEPING or last.get_output_size() > 1):
            return
    targets = output.get_target_inputs()
    clamped = _clamped(output)
    for target in targets:
        target.replace_source_output(clamped)
    if any(target.get_node().get_type_name() == "Result" for target in targets):
        clamped.get_tensor().set_names(output.get_tensor().get_names())


def _shield_marks(nodes: Iterable[ov.Node]) -> None:
    """Keep convolutions, matmuls and factors beside them in f32 when the hint is bf16, in place.

    The plugin makes one op of a matmul and the bias or factor behind it, and of a convolution and
    the factor before it (a shift by zero between them is none) or behind its bias, and loses their
    marks. A clamp between the two, to all finite floats, keeps it from that; the kernel absorbs
    clamp, bias and factor all the same.
    """
    for node in nodes:
        is_marked = PRECISE in node.get_rt_info()
        if node.get_type_name() in _CONVOLUTIONS:
            before = node.input_value(0).get_node()
            if _scales(before, _SCALING) and (is_marked or PRECISE in before.get_rt_info()):
                node.input(0).replace_source_output(_clamped(node.input_value(0)))
        if node.get_type_name() not in _SUMMING or not is_marked:
            continue
        value, absorbed = node.output(0), _SCALING
        if node.get_type_name() in _CONVOLUTIONS:
            value, absorbed = _with_bias(value), _FACTORS
        for target in value.get_target_inputs():
            if _scales(target.get_node(), absorbed):
                target.replace_source_output(_clamped(value))


def _part_from_means(nodes: Iterable[ov.Node]) -> None:
    """Keep the parts of a norm that is written out in their own formats, in place.

    The plugin makes one op of a mean of squares, its root and the quotient by it, and loses the
    marks of all. A clamp behind the mean keeps it from that, where any of them is in f32.
    """
    for node in nodes:
        if node.get_type_name() != "ReduceMean":
            continue
        parts = [node]
        for part in parts:  # grows while it is walked
            if len(parts) <= _PARTS_OF_A_NORM:
                parts.extend(target.get_node() for target in part.output(0).get_target_inputs())
        if any(PRECISE in part.get_rt_info() for part in parts):
            targets, clamped = node.output(0).get_target_inputs(), _clamped(node.output(0))
            for target in targets:
                target.replace_source_output(clamped)


def _with_bias(value: ov.Output) -> ov.Output:
    """What is left of a tensor once the constants are added that it alone is given."""
    while len(readers := [target.get_node() for target in value.get_target_inputs()]) == 1:
        if not _scales(readers[0], frozenset({"Add", "Subtract"})):
            break
        value = readers[0].output(0)
    return value


def _scales(node: ov.Node, kinds: frozenset[str] = _FACTORS) -> bool:
    """Whether an op of some types computes with a constant."""
    return node.get_type_name() in kinds and any(map(is_constant, node.input_values()))


def _clamped(value: ov.Output) -> ov.Output:
    """A tensor, clamped to all finite floats."""
    return ops.clamp(value, -_LARGEST, _LARGEST).output(0)


def _selections(captured: Capture) -> dict[tuple[str | None, str | None], str]:
    """By (node that gives several tensors, node that selects or reads one), what selects it."""
    found: dict[tuple[str | None, str | None], str] = {}
    for node in captured.graph.graph.nodes:
        if node.target is operator.getitem:
            for reader in (node, *node.users):
                found[node.all_input_nodes[0].name, reader.name] = node.name
    return found
