"""Small random BLIP-2 checkpoints, created with transformers, each with a tokenizer."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    BlipImageProcessorPil,
    PreTrainedTokenizerFast,
)

import tiny_vocabularies

WORDS = (  # noqa: SIM905
    "question answer photo of a the dog cat is two red where what : ? . yes no how many garment this"
).split()
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
    "initializer_range": 0.2,
}
QFORMER = {
    "vocab_size": 200,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "encoder_hidden_size": 32,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}
OPT = {
    "model_type": "opt",
    "vocab_size": 40,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "init_std": 0.3,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 7,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 40,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "initializer_factor": 3.0,
    "pad_token_id": 0,
    "eos_token_id": 7,
    "decoder_start_token_id": 0,
}


def make(kind: str, folder: Path) -> Any:
    """Write a checkpoint of kind ``opt``, ``t5`` or ``retrieval`` to the folder and return the reference model."""
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=QFORMER | {"use_qformer_text_input": kind == "retrieval"},
        text_config=T5 if kind == "t5" else OPT,
        num_query_tokens=5,
        image_text_hidden_size=16,
    )
    config.image_token_index = config.image_token_id = None if kind == "retrieval" else 39
    model = (Blip2ForImageTextRetrieval if kind == "retrieval" else Blip2ForConditionalGeneration)(config).eval()
    with torch.no_grad():  # initialized to zeros, unlike any trained model
        model.query_tokens.normal_(std=0.5)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    if kind != "retrieval":
        model.language_model.generation_config.eos_token_id = 7
        model.generation_config.eos_token_id = 7
    model.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    if kind == "retrieval":
        tiny_vocabularies.write_bert(folder)
    else:
        word_tokenizer(kind).save_pretrained(folder)
    return model


def word_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer that prepends a BOS token (OPT) or appends an EOS token (T5) to a text."""
    named = ["<pad0>", "<pad>", "<s>", "<unk>", "<four>", "<five>", "<six>", "</s>", *WORDS]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(named)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "$A </s>" if kind == "t5" else "<s> $A"
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 2), ("</s>", 7)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
