"""Which modules and functions are sites, and of which kind."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.ao.nn import intrinsic as nni

from autoquant.core.sites import OpKind

MODULE_KINDS: Mapping[type[nn.Module], OpKind] = {
    nn.Conv1d: OpKind.CONV1D,
    nn.Conv2d: OpKind.CONV2D,
    nn.Conv3d: OpKind.CONV3D,
    nni.ConvReLU1d: OpKind.CONV1D,
    nni.ConvReLU2d: OpKind.CONV2D,
    nni.ConvReLU3d: OpKind.CONV3D,
    nn.ConvTranspose1d: OpKind.CONV_TRANSPOSE1D,
    nn.ConvTranspose2d: OpKind.CONV_TRANSPOSE2D,
    nn.ConvTranspose3d: OpKind.CONV_TRANSPOSE3D,
    nn.Linear: OpKind.LINEAR,
    nni.LinearReLU: OpKind.LINEAR,
    nn.Embedding: OpKind.EMBEDDING,
    nn.EmbeddingBag: OpKind.EMBEDDING_BAG,
    nn.LSTM: OpKind.LSTM,
    nn.GRU: OpKind.GRU,
    nn.BatchNorm2d: OpKind.NORM,
    nn.BatchNorm3d: OpKind.NORM,
    nni.BNReLU2d: OpKind.NORM,
    nni.BNReLU3d: OpKind.NORM,
    nn.LayerNorm: OpKind.NORM,
    nn.InstanceNorm1d: OpKind.NORM,
    nn.InstanceNorm2d: OpKind.NORM,
    nn.InstanceNorm3d: OpKind.NORM,
    nn.Hardswish: OpKind.ACTIVATION,
    nn.ELU: OpKind.ACTIVATION,
    nn.LeakyReLU: OpKind.ACTIVATION,
    nn.PReLU: OpKind.ACTIVATION,
    nn.Hardsigmoid: OpKind.ACTIVATION,
    nn.Sigmoid: OpKind.ACTIVATION,
    nn.Tanh: OpKind.ACTIVATION,
    nn.Softmax: OpKind.ACTIVATION,
    nn.ReLU: OpKind.ACTIVATION,
    nn.ReLU6: OpKind.ACTIVATION,
    nn.Hardtanh: OpKind.ACTIVATION,
    nn.AdaptiveAvgPool1d: OpKind.POOL,
    nn.AdaptiveAvgPool2d: OpKind.POOL,
    nn.AdaptiveAvgPool3d: OpKind.POOL,
    nn.AvgPool1d: OpKind.POOL,
    nn.AvgPool2d: OpKind.POOL,
    nn.AvgPool3d: OpKind.POOL,
    nn.MaxPool1d: OpKind.POOL,
    nn.MaxPool2d: OpKind.POOL,
    nn.MaxPool3d: OpKind.POOL,
}

FUNCTION_KINDS: Mapping[Callable[..., Any], OpKind] = {
    operator.add: OpKind.ADD,
    torch.add: OpKind.ADD,
    operator.mul: OpKind.MUL,
    torch.mul: OpKind.MUL,
    torch.matmul: OpKind.MATMUL,
    torch.cat: OpKind.CAT,
    F.linear: OpKind.LINEAR,
    F.conv1d: OpKind.CONV1D,
    F.conv2d: OpKind.CONV2D,
    F.conv3d: OpKind.CONV3D,
    F.hardswish: OpKind.ACTIVATION,
    F.elu: OpKind.ACTIVATION,
    F.leaky_relu: OpKind.ACTIVATION,
    F.hardsigmoid: OpKind.ACTIVATION,
    F.sigmoid: OpKind.ACTIVATION,
    torch.sigmoid: OpKind.ACTIVATION,
    torch.tanh: OpKind.ACTIVATION,
    F.relu: OpKind.ACTIVATION,
    F.relu6: OpKind.ACTIVATION,
    F.hardtanh: OpKind.ACTIVATION,
    F.layer_norm: OpKind.NORM,
    F.instance_norm: OpKind.NORM,
    torch.adaptive_avg_pool1d: OpKind.POOL,
    F.adaptive_avg_pool2d: OpKind.POOL,
    F.adaptive_avg_pool3d: OpKind.POOL,
    F.max_pool1d: OpKind.POOL,
    F.max_pool2d: OpKind.POOL,
    F.max_pool3d: OpKind.POOL,
    torch.avg_pool1d: OpKind.POOL,
    F.avg_pool2d: OpKind.POOL,
    F.avg_pool3d: OpKind.POOL,
    torch.mean: OpKind.POOL,
}

OUTPUT_RANGES: Mapping[object, tuple[float, float]] = {
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Softmax: (0.0, 1.0),
    F.hardsigmoid: (0.0, 1.0),
    F.sigmoid: (0.0, 1.0),
    torch.sigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
    torch.tanh: (-1.0, 1.0),
}
"""Ops whose definition bounds their output, so that torch fixes their int8 scale."""

RELU_AFTER: frozenset[object] = frozenset({nn.ReLU, F.relu, torch.relu})
"""What an add, a mul or a functional linear absorbs when nothing else reads its output."""

RELU_TAKERS: frozenset[object] = frozenset(
    {operator.add, torch.add, operator.mul, torch.mul, F.linear, F.conv1d, F.conv2d, F.conv3d}
)
