"""Which checkpoint a model holds, in 16 digits."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

_COUNTER = "num_batches_tracked"
"""Batch norms count with it in training; in eval mode nothing reads it."""


def weights_digest(model: nn.Module) -> str:
    """Hash the parameters and buffers of a model's state dict, with their names.

    Two models with equal digests compute the same, as far as their weights decide it. Reads every
    weight once: about a second for 1 GB.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor) or name.endswith(_COUNTER):
            continue
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(plain.shape)} {plain.dtype}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
