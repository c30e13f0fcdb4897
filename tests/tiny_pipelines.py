"""Small random pipelines, as diffusers writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    KandinskyV22Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    VQModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import tiny_vocabularies
from random_weights import enlarge

WIDTH, SECOND_WIDTH, PROJECTION = 32, 24, 20
ADAPTER_TOKENS = 4  # of every plain adapter


def write_stable_diffusion(folder: Path, unet: Any = None, vae: Any = None) -> Any:
    """Write a Stable Diffusion, and return it; without a denoiser and a decoder of its own, it draws 16 × 16 pixels."""
    torch.manual_seed(0)
    tokenizer = write_tokenizer(folder.parent / "tokenizer", "<|endoftext|>")
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    width = WIDTH if unet is None else unet.config.cross_attention_dim
    pipeline = StableDiffusionPipeline(
        vae=vae or autoencoder(),
        text_encoder=text_encoder(CLIPTextModel, width, "quick_gelu"),
        tokenizer=tokenizer,
        unet=unet or denoiser(cross_attention_dim=width),
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


def write_kandinsky(folder: Path) -> Any:
    """Write Kandinsky 2.2's decoder, and return it."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    )
    movq = VQModel(
        block_out_channels=(32, 32),  # spatial norms have 32 groups
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipeline = KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq)
    pipeline.save_pretrained(folder)
    return pipeline


def write_image_encoder(folder: Path, projection: int = WIDTH) -> Any:
    """Write CLIP's image tower with a projection, and return it."""
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=40,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        hidden_act="gelu",
    )
    tower = enlarge(CLIPVisionModelWithProjection(config)).eval()
    tower.save_pretrained(folder)
    return tower


def write_ip_adapter(file: Path, unet: UNet2DConditionModel, embedding: int = WIDTH) -> None:
    """Write an IP-Adapter with random weights for a denoiser."""
    torch.manual_seed(2)
    width = unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(ADAPTER_TOKENS * width, embedding),
        "image_proj.proj.bias": torch.randn(ADAPTER_TOKENS * width),
        "image_proj.norm.weight": torch.randn(width),
        "image_proj.norm.bias": torch.randn(width),
    }
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            inner = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{number}.{part}.weight"] = torch.randn(inner, width)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


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
