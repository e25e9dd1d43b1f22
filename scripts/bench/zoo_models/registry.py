"""All architectures of the zoo, those that its goals name first."""

from __future__ import annotations

from collections.abc import Mapping

from zoo_models.diffusers_models import DIFFUSERS
from zoo_models.own_sequences import OWN_SEQUENCES
from zoo_models.own_tables import OWN_TABLES
from zoo_models.own_vision import OWN_VISION
from zoo_models.pretrained import PRETRAINED
from zoo_models.subject import Subject
from zoo_models.timm_models import TIMM
from zoo_models.torchvision_models import TORCHVISION
from zoo_models.transformers_models import TRANSFORMERS

NAMED = (
    *("ResNet-18", "ResNet-50", "ResNeXt-50", "RegNetX-400MF", "MobileNetV2", "MobileNetV3-L"),
    *("EfficientNet-B0", "EfficientNetV2-S", "EfficientNet-Lite0", "ConvNeXt-T", "DenseNet-121"),
    *("GoogLeNet", "Inception-v3", "ShuffleNetV2", "SqueezeNet", "NFNet-L0", "ViT-S", "DeiT-T"),
    *("Swin-T", "MLP-Mixer-S", "MobileViT-XS", "UNet", "DeepLabV3", "FCN", "RetinaNet", "SSDLite"),
    *("YOLOv8n", "YOLO-like", "BERT", "DistilBERT", "MiniLM", "GPT-2", "Llama", "nanoGPT"),
    *("T5 encoder", "Whisper-tiny encoder", "wav2vec2", "Conformer block", "Silero VAD"),
    *("CREPE tiny", "MTCNN P-Net", "MTCNN R-Net", "MTCNN O-Net", "Resemblyzer", "FCPE"),
    *("LSTM forecaster", "GRU forecaster", "Recommender", "Diffusion UNet", "R3D-18"),
    *("TasNet-like", "Graph network"),
)
"""Those that the goals name."""


def _ordered() -> Mapping[str, Subject]:
    groups = (PRETRAINED, OWN_VISION, OWN_SEQUENCES, OWN_TABLES, TORCHVISION, TIMM)
    found = {
        subject.name: subject for group in (*groups, TRANSFORMERS, DIFFUSERS) for subject in group
    }
    rest = [name for name in found if name not in NAMED]
    return {name: found[name] for name in (*NAMED, *rest)}


SUBJECTS = _ordered()
"""By name."""
