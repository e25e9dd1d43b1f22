"""Channels that must share a scale: a union-find over numbers, kept by tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Channels = npt.NDArray[np.int64]
"""Numbers of channels, of the rank of their tensor, broadcast to its shape."""

ONE = 0
"""The channel whose scale is one."""


class Ties:
    """Numbers channels and notes which share a scale."""

    def __init__(self) -> None:
        self._parents = [ONE]

    def new(self, count: int) -> Channels:
        """Number so many channels, each with a scale of its own."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, channel: int) -> int:
        """The number that stands for all that share a channel's scale."""
        parents = self._parents
        while parents[channel] != channel:
            parents[channel] = parents[parents[channel]]
            channel = parents[channel]
        return channel

    def tie(self, some: Channels, others: Channels) -> None:
        """Let the channels of two tensors share scales, one by one, as they broadcast."""
        pairs = np.stack([item.reshape(-1) for item in np.broadcast_arrays(some, others)], 1)
        for one, other in np.unique(pairs, axis=0).tolist():
            first, second = sorted((self.find(one), self.find(other)))
            self._parents[second] = first  # so that ONE always stands for its own

    def fix(self, channels: Channels) -> None:
        """Keep channels as they are."""
        self.tie(channels, np.array(ONE))

    def roots(self, channels: Channels) -> Channels:
        """The numbers that stand for channels."""
        found, places = np.unique(channels, return_inverse=True)
        roots = np.array([self.find(item) for item in found.tolist()], np.int64)
        return roots[places].reshape(channels.shape)

    def all_fixed(self, channels: Channels) -> bool:
        """Whether the scale of every channel is one."""
        return not self.roots(channels).any()
