"""A tiny random dual encoder, and photographs for it."""

from pathlib import Path

import numpy as np
import tokenizers
import torch
from PIL import Image

from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.quantized_bert import QuantizedBertSettings
from beholder.models.text_encoder import TextEncoder, TextEncoderSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.pictures.transform import Preprocessing
from beholder.text.tokenizer import Tokenizer, TokenizerSettings
from beholder.weights.calibration import Calibration
from beholder.weights.loaded import LoadedDualEncoder, LoadedTextEncoder
from tiny_vocabularies import CORPUS

EMBEDDING = 8


def build(logit_bias: bool = False, calibrated: bool = True, multilingual: bool = False) -> LoadedDualEncoder:
    """Build a dual encoder with reproducible random weights; 32 × 32 pixels, embedding dimension 8."""
    torch.manual_seed(0)
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=160, special_tokens=special, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    blocks = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 24}
    network = TwoTowers(
        TwoTowersSettings(
            VisionSettings(image_height=32, image_width=32, patch_size=8, **blocks),
            TextTransformerSettings(
                vocabulary=backend.get_vocab_size(), context_length=16, pooling="end", end_id=3, **blocks
            ),
            EMBEDDING,
            logit_bias=logit_bias,
        )
    )
    background = np.random.default_rng(0).normal(size=(20, EMBEDDING)).astype(np.float32)
    background /= np.linalg.norm(background, axis=1, keepdims=True)
    return LoadedDualEncoder(
        network.eval(),
        Preprocessing(32, 32, "crop", 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        Tokenizer(backend, TokenizerSettings(16, end_id=3, start_id=2)),
        Calibration(background, np.array([1.0, 0.5, -0.5])) if calibrated else None,
        name="tiny",
        licence="apache-2.0",
        multilingual=build_multilingual() if multilingual else None,
    )


def build_multilingual() -> LoadedTextEncoder:
    """Build a second text tower, whose vocabulary is single characters."""
    torch.manual_seed(1)
    pieces = [
        ("<s>", 0.0),
        ("</s>", 0.0),
        ("<pad>", 0.0),
        ("<unk>", 0.0),
        *((one, -1.0) for one in "狗在雪地里奔跑猫犬кот"),
    ]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 3, byte_fallback=False))
    text = QuantizedBertSettings(len(pieces), 32, width=32, layers=1, heads=2, mlp_width=48, pooling="mean")
    network = TextEncoder(TextEncoderSettings(text, EMBEDDING)).eval()
    quantized = network.text.embedding
    quantized.codes.copy_(torch.randint(0, 256, quantized.codes.shape, dtype=torch.uint8))
    quantized.scales.copy_(torch.rand(quantized.scales.shape))
    background = np.random.default_rng(1).normal(size=(20, EMBEDDING)).astype(np.float32)
    background /= np.linalg.norm(background, axis=1, keepdims=True)
    return LoadedTextEncoder(
        network,
        Tokenizer(backend, TokenizerSettings(12, end_id=1, start_id=0, pad_id=2)),
        Calibration(background, np.array([2.0, -0.5, 0.25])),
    )


def paint(folder: Path) -> list[Path]:
    """Draw four pictures of different colors, shapes and formats."""
    random = np.random.default_rng(1)
    paths = []
    for number, (name, size) in enumerate(
        [("harbour.jpg", (96, 64)), ("meadow.png", (64, 96)), ("night.png", (40, 40)), ("sea.jpg", (120, 90))]
    ):
        coarse = random.integers(0, 256, (3 + number, 4, 3), dtype=np.uint8)
        paths.append(folder / name)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths
