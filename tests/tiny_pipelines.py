"""Small random pipelines, as diffusers writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import tiny_vocabularies
from random_weights import enlarge

WIDTH, SECOND_WIDTH, PROJECTION = 32, 24, 20


def write_stable_diffusion(folder: Path) -> Any:
    """Write a Stable Diffusion that draws 16 × 16 pixels, and return it."""
    torch.manual_seed(0)
    tokenizer = write_tokenizer(folder.parent / "tokenizer", "<|endoftext|>")
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(CLIPTextModel, WIDTH, "quick_gelu"),
        tokenizer=tokenizer,
        unet=denoiser(cross_attention_dim=WIDTH),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return pipeline


def write_sdxl(folder: Path) -> Any:
    """Write an SDXL that draws 16 × 16 pixels, and return it."""
    torch.manual_seed(0)
    pipeline = StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(CLIPTextModel, WIDTH, "quick_gelu"),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, SECOND_WIDTH, "gelu"),
        tokenizer=write_tokenizer(folder.parent / "tokenizer", "<|endoftext|>"),
        tokenizer_2=write_tokenizer(folder.parent / "tokenizer_2", "!"),
        unet=denoiser(
            cross_attention_dim=WIDTH + SECOND_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + PROJECTION,
        ),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return pipeline


def write_tokenizer(folder: Path, pad: str) -> CLIPTokenizer:
    """Write and load a tokenizer with a padding token of its own."""
    folder.mkdir(parents=True)
    tiny_vocabularies.write_clip(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": pad}))
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder(kind: Any, width: int, activation: str) -> Any:
    """Return a text tower whose errors would show."""
    config = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=40,
        projection_dim=PROJECTION,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act=activation,
        eos_token_id=2,  # as in Stable Diffusion's configs
        bos_token_id=0,
    )
    return enlarge(kind(config))


def denoiser(**settings: Any) -> UNet2DConditionModel:
    """Return a small U-Net."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **settings,
    )


def autoencoder() -> AutoencoderKL:
    """Return a small autoencoder that doubles the sides."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
