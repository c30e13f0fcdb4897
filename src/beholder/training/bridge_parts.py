"""The frozen models at both ends of a bridge, and whether the bridge fits between them."""

from dataclasses import replace

import torch
from tokenizers import Tokenizer as LanguageTokenizer
from torch import nn

from beholder.errors import InvalidSetting
from beholder.models.bert import Bert
from beholder.models.bridge import image_tokens
from beholder.models.language_model import LanguageModel
from beholder.pictures.transform import Preprocessing
from beholder.text.tokenizer import Tokenizer
from beholder.text.tokenizer_files import tokenizer_from_folder
from beholder.training.bridge_config import BridgeConfig
from beholder.weights import bert, huggingface, mini, mini_bridge
from beholder.weights.load import load_frozen_language_model, load_image_tower
from beholder.weights.sources import find_model
from beholder.weights.table import build_empty, load_foreign
from beholder.weights.tensors import read_tensors


def load_vision_tower(name: str) -> tuple[nn.Module, Preprocessing]:
    """Load the frozen image tower of a model, and its preprocessing."""
    if name != "mini":
        return load_image_tower(name)
    tower, preprocessing = mini.image_tower(), mini.PREPROCESSING
    tower.classifier = None
    tower.settings = replace(tower.settings, classes=0)
    return tower.float().requires_grad_(False).eval(), preprocessing


def load_language_model(config: BridgeConfig) -> tuple[LanguageModel, LanguageTokenizer]:
    """Load the frozen language model and its tokenizer."""
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    if config.language == "mini":
        return mini_bridge.language_model(dtype)
    language, language_tokenizer = load_frozen_language_model(config.language)
    language.module.to(dtype)
    return language, language_tokenizer


def load_text_encoder(config: BridgeConfig) -> tuple[Tokenizer, Bert | None]:
    """Load the Q-Former's tokenizer, and the network from which it is initialized, if any."""
    if config.text == "mini":
        return mini_bridge.tokenizer(), mini.text_tower() if config.initialize_from_text else None
    folder = find_model(config.text)
    tokenizer = tokenizer_from_folder(folder, "bert", config.bridge.qformer.max_position_embeddings)
    if not config.initialize_from_text:
        return tokenizer, None
    settings = bert.settings(huggingface.read_json(folder / "config.json"), pooling="first")
    tensors = read_tensors(folder, huggingface.STEMS)
    return tokenizer, load_foreign(build_empty(Bert, settings), tensors, bert.rows(), bert.ignored())


def check_sizes(
    config: BridgeConfig,
    tower: nn.Module,
    preprocessing: Preprocessing,
    language: LanguageModel,
    tokenizer: Tokenizer,
    text_encoder: Bert | None,
) -> None:
    """Check that the bridge fits between its two ends.

    Raises:
        InvalidSetting: it does not; the message names every wrong size and the right one.
    """
    qformer = config.bridge.qformer
    pixels = torch.zeros(1, 3, preprocessing.height, preprocessing.width)
    with torch.inference_mode():
        _, count, width = image_tokens(tower, pixels).shape
    expected = [
        ("bridge.qformer.image_width", qformer.image_width, width, "the image tower's"),
        ("bridge.language_width", config.bridge.language_width, language.width, "the language model's"),
        ("bridge.qformer.vocabulary", qformer.vocabulary, tokenizer.backend.get_vocab_size(), "the text tokenizer's"),
    ]
    if qformer.grid_height:
        name = "bridge.qformer.prefix_tokens + grid_height * grid_width ="
        expected.append((name, qformer.image_positions, count, "the image tower's"))
    if text_encoder is not None:
        known = text_encoder.settings
        expected += [
            (f"bridge.qformer.{size}", getattr(qformer, size), getattr(known, size), "that of its initial weights,")
            for size in ("width", "heads", "mlp_width")
        ]
    wrong = [f"{name} {given} must be {whose} {right}" for name, given, right, whose in expected if given != right]
    if text_encoder is not None:
        known = text_encoder.settings
        if qformer.layers > known.layers or qformer.max_position_embeddings >= known.context_length:
            wrong.append(
                f"bridge.qformer.layers {qformer.layers} and max_position_embeddings "
                f"{qformer.max_position_embeddings} must be at most those of its initial weights, "
                f"{known.layers} and {known.context_length - 1}"
            )
    if tokenizer.settings.context_length > qformer.max_position_embeddings:
        wrong.append(
            f"bridge.qformer.max_position_embeddings {qformer.max_position_embeddings} must be at least "
            f"{tokenizer.settings.context_length}"
        )
    room = language.context_length
    data = config.data
    prompts = config.bridge.soft_prompts
    if room and data is not None and prompts + data.texts * (data.longest + 16) > room:
        wrong.append(
            f"data.texts {data.texts} of {data.longest} tokens after {prompts} soft prompts do not fit into the "
            f"{room} of the language model's context"
        )
    if wrong:
        raise InvalidSetting("; ".join(wrong))
