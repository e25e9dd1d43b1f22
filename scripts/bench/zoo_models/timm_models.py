"""Architectures of timm, at their true width and depth, on small images where they allow it."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo_models.subject import Subject, images

_NAMES: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("ConvNeXt-T", "convnext_tiny", 64, {}),
    ("DenseNet-121", "densenet121", 64, {}),
    ("EfficientNet-B0", "efficientnet_b0", 64, {}),
    ("EfficientNetV2-S", "tf_efficientnetv2_s", 64, {}),
    ("NFNet-L0", "nfnet_l0", 64, {}),
    ("RegNetX-400MF", "regnetx_004", 64, {}),
    ("MobileNetV3-L", "mobilenetv3_large_100", 64, {}),
    ("MobileNetV2", "mobilenetv2_100", 64, {}),
    ("ViT-S", "vit_small_patch16_224", 64, {"img_size": 64}),
    ("DeiT-T", "deit_tiny_patch16_224", 64, {"img_size": 64}),
    ("Swin-T", "swin_tiny_patch4_window7_224", 112, {"img_size": 112}),
    ("MLP-Mixer-S", "mixer_s16_224", 64, {"img_size": 64}),
    ("MobileViT-XS", "mobilevit_xs", 64, {}),
    ("RegNetY-400MF", "regnety_004", 64, {}),
    ("Inception-v4", "inception_v4", 96, {}),
    ("ConvNeXtV2-A", "convnextv2_atto", 64, {}),
    ("MobileViTv2-050", "mobilevitv2_050", 64, {}),
    ("XCiT-N12", "xcit_nano_12_p16_224", 64, {"img_size": 64}),
    ("LeViT-128S", "levit_128s", 224, {}),
    ("MaxViT-pico", "maxvit_rmlp_pico_rw_256", 64, {"img_size": 64}),
    ("CoaT-Lite-T", "coat_lite_tiny", 64, {"img_size": 64}),
    ("CaiT-XXS24", "cait_xxs24_224", 64, {"img_size": 64}),
    ("TNT-S", "tnt_s_patch16_224", 64, {"img_size": 64}),
    ("VOLO-D1", "volo_d1_224", 64, {"img_size": 64}),
    ("EVA-02-T", "eva02_tiny_patch14_224", 56, {"img_size": 56}),
    ("HRNet-W18-S", "hrnet_w18_small", 64, {}),
    ("DLA-34", "dla34", 64, {}),
    ("MobileOne-S0", "mobileone_s0", 64, {}),
    ("FastViT-T8", "fastvit_t8", 64, {}),
    ("MobileNetV4-S", "mobilenetv4_conv_small", 64, {}),
    ("GhostNet", "ghostnet_100", 64, {}),
    ("RepVGG-A0", "repvgg_a0", 64, {}),
    ("SE-ResNet-50", "seresnet50", 64, {}),
    ("Res2Net-50", "res2net50_26w_4s", 64, {}),
    ("SKNet-18", "skresnet18", 64, {}),
    ("ResNeSt-14d", "resnest14d", 64, {}),
    ("CSPDarkNet-53", "cspdarknet53", 64, {}),
    ("PiT-Ti", "pit_ti_224", 64, {"img_size": 64}),
    ("PoolFormer-S12", "poolformer_s12", 64, {}),
    ("PVTv2-B0", "pvt_v2_b0", 64, {}),
    ("Twins-PCPVT-S", "twins_pcpvt_small", 64, {"img_size": 64}),
    ("Sequencer2D-S", "sequencer2d_s", 64, {}),
    ("gMLP-Ti", "gmlp_ti16_224", 64, {"img_size": 64}),
    ("ResMLP-12", "resmlp_12_224", 64, {"img_size": 64}),
    ("EdgeNeXt-XXS", "edgenext_xx_small", 64, {}),
    ("EfficientFormer-L1", "efficientformer_l1", 224, {}),
    ("FocalNet-T", "focalnet_tiny_srf", 64, {}),
    ("TinyViT-5M", "tiny_vit_5m_224", 224, {}),
    ("ConvMixer-768", "convmixer_768_32", 64, {}),
    ("ReXNet-100", "rexnet_100", 64, {}),
    ("LCNet-050", "lcnet_050", 64, {}),
    ("StarNet-S1", "starnet_s1", 64, {}),
)


def _subject(name: str, timm_name: str, size: int, options: dict[str, Any]) -> Subject:
    def make() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(timm_name, pretrained=False, **options)
        return model

    return Subject(name, "timm", make, images(size))


TIMM = tuple(_subject(*row) for row in _NAMES)
