"""Architectures of transformers, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo_models.subject import Inputs, Subject, constant, images, named, noise, tokens

_VOCABULARY = 1000
_ENCODER = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
}
_DECODER = {**_ENCODER, "num_key_value_heads": 2}
_AUDIO = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "conv_dim": (64,) * 7,
}
_WHISPER = {
    "vocab_size": _VOCABULARY,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_layers": 1,
    "decoder_attention_heads": 6,
    "max_source_positions": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _make(
    model: str, config: str, part: str | None = None, **options: Any
) -> Callable[[], nn.Module]:
    """A maker of a class of transformers on a configuration; perhaps of a module inside alone."""

    def make() -> nn.Module:
        import transformers

        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return made if part is None else made.get_submodule(part)

    return make


def _subject(
    name: str, make: Callable[[], nn.Module], inputs: Inputs, **dynamic: list[int]
) -> Subject:
    return Subject(name, "transformers", make, inputs, dynamic=dynamic)


_TEXT = tokens(32, _VOCABULARY)
_BOTH_AXES = {"input_ids": [0, 1], "attention_mask": [0, 1]}
_IDS = tokens(32, _VOCABULARY, mask=None)
_NO_CACHE = named(
    input_ids=lambda n, g: _IDS(n, g)["input_ids"],
    use_cache=constant(value=False),
)
_PIXELS = named(pixel_values=images(64))

TRANSFORMERS = (
    _subject(
        "BERT",
        _make(
            "BertModel",
            "BertConfig",
            **{**_ENCODER, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4},
        ),
        _TEXT,
        **_BOTH_AXES,
    ),
    _subject(
        "DistilBERT",
        _make(
            "DistilBertModel",
            "DistilBertConfig",
            vocab_size=_VOCABULARY,
            dim=256,
            n_layers=3,
            n_heads=4,
            hidden_dim=1024,
        ),
        _TEXT,
        **_BOTH_AXES,
    ),
    _subject(
        "GPT-2",
        _make(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=_VOCABULARY,
            n_embd=256,
            n_layer=4,
            n_head=4,
            n_positions=128,
            use_cache=False,
        ),
        _TEXT,
    ),
    _subject(
        "Llama",
        _make("LlamaForCausalLM", "LlamaConfig", **{**_DECODER, "hidden_size": 256}),
        _NO_CACHE,
    ),
    _subject(
        "T5 encoder",
        _make(
            "T5EncoderModel",
            "T5Config",
            vocab_size=_VOCABULARY,
            d_model=256,
            d_kv=64,
            d_ff=1024,
            num_layers=4,
            num_heads=4,
        ),
        _TEXT,
    ),
    _subject(
        "Whisper-tiny encoder",
        _make("WhisperModel", "WhisperConfig", "encoder", num_mel_bins=80, **_WHISPER),
        noise(80, 200),
    ),
    _subject(
        "wav2vec2",
        _make("Wav2Vec2Model", "Wav2Vec2Config", **_AUDIO),
        noise(8000),
    ),
    _subject(
        "SegFormer-B0",
        _make("SegformerForSemanticSegmentation", "SegformerConfig", num_labels=21),
        _PIXELS,
    ),
    _subject(
        "Mixtral",
        _make(
            "MixtralForCausalLM",
            "MixtralConfig",
            num_local_experts=4,
            num_experts_per_tok=2,
            **_DECODER,
        ),
        _NO_CACHE,
    ),
    _subject(
        "DETR",
        _make(
            "DetrForObjectDetection",
            "DetrConfig",
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            d_model=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=128,
            decoder_ffn_dim=128,
            num_queries=10,
        ),
        _PIXELS,
    ),
    _subject(
        "CLIP",
        _make(
            "CLIPModel",
            "CLIPConfig",
            text_config={**_ENCODER, "eos_token_id": 2, "bos_token_id": 1},
            vision_config={
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 64,
                "patch_size": 16,
            },
        ),
        named(
            input_ids=lambda n, g: _IDS(n, g)["input_ids"],
            pixel_values=images(64),
        ),
    ),
    _subject(
        "CLIP vision",
        _make(
            "CLIPVisionModelWithProjection",
            "CLIPVisionConfig",
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=64,
            patch_size=16,
        ),
        _PIXELS,
    ),
    _subject(
        "Mamba",
        _make(
            "MambaModel",
            "MambaConfig",
            vocab_size=_VOCABULARY,
            hidden_size=128,
            num_hidden_layers=2,
            use_cache=False,
        ),
        tokens(16, _VOCABULARY, mask=None),
    ),
    _subject(
        "PatchTST",
        _make(
            "PatchTSTForPrediction",
            "PatchTSTConfig",
            num_input_channels=4,
            context_length=64,
            prediction_length=16,
            patch_length=8,
            patch_stride=8,
            d_model=64,
            num_attention_heads=4,
            ffn_dim=128,
        ),
        named(past_values=noise(64, 4)),
    ),
    _subject(
        "DeBERTa",
        _make(
            "DebertaV2Model",
            "DebertaV2Config",
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=16,
            **_ENCODER,
        ),
        _TEXT,
    ),
    _subject(
        "VITS text encoder",
        _make(
            "VitsModel",
            "VitsConfig",
            "text_encoder",
            vocab_size=40,
            hidden_size=64,
            num_hidden_layers=2,
            ffn_dim=128,
        ),
        named(
            input_ids=lambda n, g: torch.randint(0, 40, (n, 24), generator=g),
            padding_mask=lambda n, g: torch.ones(n, 24, 1),
        ),
    ),
    _subject(
        "Qwen2",
        _make("Qwen2ForCausalLM", "Qwen2Config", **_DECODER),
        _NO_CACHE,
    ),
    _subject(
        "Gemma",
        _make("GemmaForCausalLM", "GemmaConfig", head_dim=32, **_DECODER),
        _NO_CACHE,
    ),
    _subject("RoBERTa", _make("RobertaModel", "RobertaConfig", **_ENCODER), tokens(32, 900)),
    _subject("ALBERT", _make("AlbertModel", "AlbertConfig", **_ENCODER), _TEXT),
    _subject("ELECTRA", _make("ElectraModel", "ElectraConfig", **_ENCODER), _TEXT),
    _subject(
        "MobileBERT",
        _make("MobileBertModel", "MobileBertConfig", **{**_ENCODER, "hidden_size": 128}),
        _TEXT,
    ),
    _subject(
        "DINOv2",
        _make(
            "Dinov2Model",
            "Dinov2Config",
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
        ),
        named(pixel_values=images(56)),
    ),
    _subject(
        "Audio spectrogram transformer",
        _make(
            "ASTModel",
            "ASTConfig",
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=256,
            max_length=128,
            num_mel_bins=64,
        ),
        named(input_values=noise(128, 64)),
    ),
    _subject("HuBERT", _make("HubertModel", "HubertConfig", **_AUDIO), noise(8000)),
    _subject(
        "Depth Anything's DPT",
        _make(
            "DPTForDepthEstimation",
            "DPTConfig",
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=256,
            image_size=64,
            patch_size=16,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[32, 64, 96, 128],
            fusion_hidden_size=64,
        ),
        _PIXELS,
    ),
)
