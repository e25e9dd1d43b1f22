"""Networks for images that people write themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_models.subject import Subject, images


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(after),
            nn.SiLU(inplace=True),
        )


class SplitBlock(nn.Module):
    """YOLO's C2f: half of the channels go through bottlenecks, all that comes out is joined."""

    def __init__(self, before: int, after: int, count: int) -> None:
        super().__init__()
        self.inner = after // 2
        self.first = ConvBlock(before, after, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(ConvBlock(self.inner, self.inner), ConvBlock(self.inner, self.inner))
            for _ in range(count)
        )
        self.last = ConvBlock((2 + count) * self.inner, after, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Give features of `after` channels."""
        parts = list(self.first(features).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        joined: Tensor = self.last(torch.cat(parts, 1))
        return joined


class YoloLike(nn.Module):
    """A detector at two scales: boxes by expectation over bins, and class scores."""

    def __init__(self, width: int = 32, classes: int = 20, bins: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBlock(3, width, stride=2), ConvBlock(width, width, stride=2))
        self.middle = nn.Sequential(
            SplitBlock(width, width, 1), ConvBlock(width, 2 * width, stride=2)
        )
        self.fine = SplitBlock(2 * width, 2 * width, 2)
        self.coarse = nn.Sequential(
            ConvBlock(2 * width, 4 * width, stride=2), SplitBlock(4 * width, 4 * width, 1)
        )
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.join = SplitBlock(8 * width + 2 * width, 2 * width, 1)
        self.heads = nn.ModuleList(
            nn.Conv2d(channels, 4 * bins + classes, 1) for channels in (2 * width, 8 * width)
        )
        self.classes, self.bins = classes, bins
        self.register_buffer("places", torch.arange(bins).float())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Give `boxes` of shape (n, cells, 4) and `scores` of shape (n, cells, classes)."""
        fine = self.fine(self.middle(self.stem(images)))
        coarse = self.coarse(fine)
        coarse = torch.cat([coarse, self.pool(coarse)], 1)
        grown = nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        levels = (self.join(torch.cat([grown, fine], 1)), coarse)
        rows = torch.cat(
            [head(level).flatten(2) for head, level in zip(self.heads, levels, strict=True)], 2
        ).transpose(1, 2)
        boxes, scores = rows.split([4 * self.bins, self.classes], -1)
        shares = boxes.unflatten(-1, (4, self.bins)).softmax(-1)
        return {"boxes": shares @ self.places, "scores": scores.sigmoid()}


class UNet(nn.Module):
    """Three scales down and up, joined across; transposed convolutions."""

    def __init__(self, width: int = 32, classes: int = 5) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(
            self._double(before, after) for before, after in zip((3, *widths), widths, strict=False)
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(2 * after, after, 2, 2) for after in reversed(widths[:-1])
        )
        self.up = nn.ModuleList(self._double(2 * after, after) for after in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _double(before: int, after: int) -> nn.Module:
        layers: list[nn.Module] = []
        for channels in (before, after):
            layers += [nn.Conv2d(channels, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Give class scores for every pixel."""
        kept: list[Tensor] = []
        features = images
        for block in self.down:
            if kept:
                features = nn.functional.max_pool2d(features, 2)
            features = block(features)
            kept.append(features)
        for grow, block, beside in zip(self.grow, self.up, kept[-2::-1], strict=True):
            features = block(torch.cat([grow(features), beside], 1))
        scores: Tensor = self.head(features)
        return scores


OWN_VISION = (
    Subject("YOLO-like", "own", YoloLike, images(64)),
    Subject("UNet", "own", UNet, images(64)),
)
