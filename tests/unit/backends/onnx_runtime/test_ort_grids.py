from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from autoquant.backends.onnxruntime.grids import byte_weight, sum_codes


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weights_are_rounded_to_within_half_a_step(axis: int | None) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    rounded = byte_weight(weight, axis)
    shape = {0: (4, 1, 1), 1: (1, 6, 1), None: (1, 1, 1)}[axis]
    scale = rounded.scale.reshape(shape)
    assert (np.abs(rounded.codes * scale - weight) <= 0.5001 * scale).all()
    assert np.abs(rounded.codes).max() == 127
    assert rounded.scale.shape == ((weight.shape[axis],) if axis is not None else ())


def test_a_bias_beyond_32_bits_widens_the_grid_of_its_channel_alone() -> None:
    weight = np.array([[1e-12], [1.0]], np.float32)
    bias = np.array([10.0, 10.0], np.float32)
    rounded = byte_weight(weight, 0, bias, input_scale=0.01)
    codes = sum_codes(bias, 0.01, rounded)
    assert np.allclose(codes * 0.01 * rounded.scale, bias, rtol=1e-3)
    assert rounded.scale[1] == byte_weight(weight, 0).scale[1]
