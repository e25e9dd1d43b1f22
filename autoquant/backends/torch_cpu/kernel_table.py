"""Which kernel runs which op under which scheme."""

from __future__ import annotations

from dataclasses import dataclass

from autoquant.backends.torch_cpu.emission import Grids
from autoquant.backends.torch_cpu.engines import POINTWISE, packing_engine
from autoquant.backends.torch_cpu.float_ops import emulated_kernel, float_kernel
from autoquant.backends.torch_cpu.float_weights import (
    dynamic_kernel,
    half_kernel,
    weight_only_kernel,
)
from autoquant.backends.torch_cpu.forms import Form
from autoquant.backends.torch_cpu.int8_weights import int8_weight_kernel
from autoquant.backends.torch_cpu.operations import Kernel, Operation
from autoquant.backends.torch_cpu.packed_float_ops import packed_kernel
from autoquant.backends.torch_cpu.pointwise_ops import pointwise_kernel
from autoquant.backends.torch_cpu.quantized_ops import int8_kernel, saturates_at
from autoquant.backends.torch_cpu.timed_sizes import TimedSizes
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind


@dataclass(frozen=True, slots=True)
class KernelTable:
    """The kernels of one engine.

    Attributes:
        engine: Of torch (`onednn`), or `pointwise`.
        sizes: By which float weights are packed; None: none is.
    """

    engine: str
    sizes: TimedSizes | None = None

    def choose(self, operation: Operation, scheme: Scheme, engine: str) -> Kernel | None:
        """Give the kernel of an operation under a scheme; None where there is none."""
        packing = packing_engine(engine)
        if scheme in _FLOATS:
            form = _FLOATS[scheme]
            return packed_kernel(operation, form, self.sizes) or float_kernel(form)
        if scheme is Scheme.FP16:
            return half_kernel(operation, packing) or emulated_kernel(scheme)
        if scheme is Scheme.INT8_DYNAMIC:
            return dynamic_kernel(operation, packing)
        if scheme is Scheme.INT8_WEIGHT_ONLY:
            return weight_only_kernel(operation, packing)
        if scheme is Scheme.INT8_WEIGHT_ONLY_BF16:
            return int8_weight_kernel(operation)
        weighted = operation.site.kind.is_weighted
        if scheme is Scheme.INT16 or (scheme is Scheme.INT16_WEIGHT and weighted):
            return emulated_kernel(scheme) if _can_emulate(operation) else None
        if scheme in (Scheme.INT8, Scheme.INT16_WEIGHT):  # without a weight they are the same
            return self._int8(operation, engine)
        return None

    def with_rest(
        self, operation: Operation, scheme: Scheme, engine: str, grids: Grids
    ) -> Kernel | None:
        """Give the kernel of an operation that ends with a following activation, or a sum.

        None where none computes both.
        """
        if scheme in _FLOATS:
            return packed_kernel(operation, _FLOATS[scheme], self.sizes)
        if scheme is not Scheme.INT8:
            return None
        if engine == POINTWISE:
            return pointwise_kernel(operation)
        if operation.addend is not None:
            return None
        grid = grids.int8_grid(operation.last.name)
        if operation.name in _SATURATING and saturates_at(operation.last, grid):
            return int8_kernel(operation, engine)
        return None

    def _int8(self, operation: Operation, engine: str) -> Kernel | None:
        if engine == POINTWISE:
            found = pointwise_kernel(operation)
            if found is not None:
                return found
        return int8_kernel(operation, packing_engine(engine))


_FLOATS = {Scheme.FP32: Form.FLOAT32, Scheme.BF16: Form.BFLOAT16}
_SATURATING = frozenset({"conv1d", "conv2d", "conv3d", "linear", "add", "mul"})
_NO_STATIC = frozenset({OpKind.EMBEDDING, OpKind.EMBEDDING_BAG, OpKind.LSTM, OpKind.GRU})


def _can_emulate(operation: Operation) -> bool:
    return operation.site.kind not in _NO_STATIC
