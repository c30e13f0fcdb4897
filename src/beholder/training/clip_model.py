"""The dual encoder of a training: pretrained or new, as a module that returns what the loss needs, and exported.

Shapes: b pairs of one process, E the shared space.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.models.bert import BertSettings
from beholder.models.dual_encoder import TwoTowers
from beholder.models.text_tower import TextTransformerSettings
from beholder.pictures.transform import Preprocessing
from beholder.text import clip_bpe
from beholder.text.tokenizer import Tokenizer, TokenizerSettings
from beholder.training.clip_config import ClipConfig, TrainingConfig, network_preprocessing, network_settings
from beholder.training.clip_data import TrainingData
from beholder.training.data_loader import normalize
from beholder.training.freezing import initialize, merged_state_dict
from beholder.training.losses import LOSSES
from beholder.training.shards import read_shard
from beholder.weights.load import load_dual_encoder
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.table import build_empty, load_native_tensors

VOCABULARY_TEXTS = 200_000  # of shards, on which a vocabulary is trained


def create_model(config: ClipConfig, data: TrainingData, vocabulary: str | None = None) -> LoadedDualEncoder:
    """Return the model before training: pretrained, or new, with random weights and a vocabulary of its own.

    Args:
        config: of the training.
        data: on whose texts a new vocabulary is trained.
        vocabulary: the one that was trained when the training began, as JSON.

    Raises:
        InvalidSetting: the loss does not fit the pretrained model, or the network can't be built.
    """
    model, loss = config.model, LOSSES[config.train.loss]
    if model.from_pretrained is not None:
        loaded = load_dual_encoder(model.from_pretrained)
        if loss.needs_bias and loaded.network.logit_bias is None:
            raise InvalidSetting(
                f"train.loss: {model.from_pretrained} has no bias, which the {config.train.loss} needs; use contrastive"
            )
        # A calibration and a second text tower fit the space before training.
        return replace(
            loaded,
            calibration=None,
            multilingual=None,
            name=model.name or loaded.name,
            licence=model.licence or loaded.licence,
        )
    settings = network_settings(config, vocabulary=600, end_id=1)
    text = settings.text
    full = isinstance(text, TextTransformerSettings) and text.full_length
    tokenizer = _tokenizer(config, data, text, full, vocabulary)
    settings = network_settings(config, tokenizer.backend.get_vocab_size(), tokenizer.settings.end_id)
    network = TwoTowers(settings).eval()
    initialize(network, loss)
    preprocessing = network_preprocessing(config, settings.image)
    return LoadedDualEncoder(network, preprocessing, tokenizer, name=model.name, licence=model.licence)


def _tokenizer(
    config: ClipConfig,
    data: TrainingData,
    text: TextTransformerSettings | BertSettings,
    full: bool,
    vocabulary: str | None,
) -> Tokenizer:
    padding: Any = "full" if full else "longest"
    if config.model.tokenizer is not None:
        known = load_dual_encoder(config.model.tokenizer).tokenizer
        return Tokenizer(known.backend, replace(known.settings, context_length=text.context_length, padding=padding))
    if vocabulary is not None:
        backend = Backend.from_str(vocabulary)
    else:
        texts: Iterable[str] = (each for example in data.examples for each in example.texts)
        if data.shards:
            ignore: Callable[[str, str], None] = lambda *_: None  # noqa: E731
            examples = (example for shard in data.shards for example in read_shard(shard, ignore) if example)
            texts = islice((each for example in examples for each in example.texts), VOCABULARY_TEXTS)
        backend = clip_bpe.train_bpe(texts, config.model.vocabulary)
    ids = backend.get_vocab()
    settings = TokenizerSettings(text.context_length, ids[clip_bpe.EOS_TOKEN], ids[clip_bpe.BOS_TOKEN], padding=padding)
    return Tokenizer(backend, settings)


class EncodePairs(nn.Module):
    """The network as a single call, for DDP and FSDP: the outputs for image-text pairs that the loss needs."""

    def __init__(self, network: TwoTowers, preprocessing: Preprocessing, train: TrainingConfig, device: torch.device):
        super().__init__()
        self.network = network
        self.embed_image: Callable[..., Tensor] = network.embed_image
        self.embed_text: Callable[..., Tensor] = network.embed_text
        if train.compile:
            self.embed_image, self.embed_text = torch.compile(network.embed_image), torch.compile(network.embed_text)
        self.preprocessing = preprocessing
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=train.precision == "bfloat16")

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """uint8 (b, H, W, 3) and (b, T) → unit vectors (b, E) of each, inverse temperature, bias."""
        network = self.network
        with self.autocast():
            image = self.embed_image(normalize(pixels, self.preprocessing))
            text = self.embed_text(ids, mask)
        return image, text, network.logit_scale.exp(), network.logit_bias


def fixed_preprocessing(loaded: LoadedDualEncoder) -> Preprocessing:
    """Return the preprocessing of a model whose pictures have one size, as batches for training do.

    Raises:
        InvalidSetting: its pictures keep their own shape.
    """
    if isinstance(loaded.preprocessing, Preprocessing):
        return loaded.preprocessing
    raise InvalidSetting(
        f"model.from_pretrained: the pictures of {loaded.name} keep their own shape (NaFlex), which is not trained "
        "here; take a model with pictures of a fixed size, such as google/siglip2-base-patch16-224"
    )


def export_model(loaded: LoadedDualEncoder, network: TwoTowers, weights: dict[str, Tensor]) -> LoadedDualEncoder:
    """Return the model with trained weights, LoRA adapters merged.

    Args:
        loaded: the model before training.
        network: a copy of its network with the adapters, if any; it takes the weights.
        weights: of what was trained, by name.
    """
    network.load_state_dict(weights, strict=False)
    merged = load_native_tensors(build_empty(TwoTowers, loaded.network.settings), merged_state_dict(network))
    return replace(loaded, network=merged)
