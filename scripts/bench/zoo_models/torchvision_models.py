"""Architectures of torchvision: classifiers, segmentation, the networks of detectors, video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from zoo_models.subject import Inputs, Subject, images, named, noise


class DetectorNetwork(nn.Module):
    """Backbone and heads of a detector: scores and box offsets of all anchors.

    Anchors, decoding and suppression are left out; they stay in float wherever a detector runs.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Give `cls_logits` and `bbox_regression`."""
        outputs: dict[str, Tensor] = self.head(list(self.backbone(images).values()))
        return outputs


def _classifier(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision import models

        model: nn.Module = models.get_model(name, weights=None, **options)
        return model

    return make


def _detector(name: str, **options: Any) -> Callable[[], nn.Module]:
    made = _classifier(name, weights_backbone=None, **options)
    return lambda: DetectorNetwork(made())


def _subject(name: str, make: Callable[[], nn.Module], inputs: Inputs) -> Subject:
    return Subject(name, "torchvision", make, inputs)


_NO_AUX: dict[str, Any] = {"aux_logits": False, "init_weights": False}
_BACKBONE: dict[str, Any] = {"weights_backbone": None}

TORCHVISION = (
    _subject("ResNet-18", _classifier("resnet18"), images(64)),
    _subject("ResNet-50", _classifier("resnet50"), images(64)),
    _subject("ResNeXt-50", _classifier("resnext50_32x4d"), images(64)),
    _subject("GoogLeNet", _classifier("googlenet", **_NO_AUX), images(64)),
    _subject("Inception-v3", _classifier("inception_v3", **_NO_AUX), images(96)),
    _subject("ShuffleNetV2", _classifier("shufflenet_v2_x1_0"), images(64)),
    _subject("SqueezeNet", _classifier("squeezenet1_1"), images(64)),
    _subject("DeepLabV3", _classifier("deeplabv3_resnet50", **_BACKBONE), images(64)),
    _subject("FCN", _classifier("fcn_resnet50", **_BACKBONE), images(64)),
    _subject("RetinaNet", _detector("retinanet_resnet50_fpn"), images(128)),
    _subject("SSDLite", _detector("ssdlite320_mobilenet_v3_large"), images(320)),
    _subject("R3D-18", _classifier("r3d_18"), noise(3, 8, 48, 48)),
    _subject("LR-ASPP", _classifier("lraspp_mobilenet_v3_large", **_BACKBONE), images(64)),
    _subject("MobileNetV2 (torchvision)", _classifier("mobilenet_v2"), images(64)),
    _subject("MobileNetV3-S (torchvision)", _classifier("mobilenet_v3_small"), images(64)),
    _subject("MNASNet", _classifier("mnasnet0_5"), images(64)),
    _subject("VGG-11-BN", _classifier("vgg11_bn"), images(64)),
    _subject("AlexNet", _classifier("alexnet"), images(64)),
    _subject("Swin-T (torchvision)", _classifier("swin_t"), images(64)),
    _subject("ViT-B/32", _classifier("vit_b_32", image_size=64), images(64)),
    _subject("MC3-18", _classifier("mc3_18"), noise(3, 8, 48, 48)),
    _subject(
        "RAFT-S",
        _classifier("raft_small"),
        named(image1=images(128), image2=images(128)),
    ),
)
