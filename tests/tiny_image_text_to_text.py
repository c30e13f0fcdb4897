"""Small random checkpoints of vision-language models, written by transformers, laid out as on the hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

import tiny_vocabularies
from beholder import VisionLanguageModel
from beholder.tasks.image_text_to_text_model import ImageTextToTextModel
from beholder.tasks.smolvlm_generation import SmolVLMGenerator

SPECIAL = (  # noqa: SIM905
    "<pad> <s> </s> <unk> <image> <fake_token_around_image> <global-img> <end_of_utterance> <video> "
    "<|im_start|> <|im_end|> <|vision_start|> <|image_pad|> <|vision_end|> <|video_pad|> <img> </img> <IMG_CONTEXT> "
    "<start_of_image> <image_soft_token> <end_of_image> <start_of_turn> <end_of_turn>"
).split() + [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
CHARACTERS = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]  # printable ASCII, space and line break
VOCABULARY = {token: number for number, token in enumerate([*SPECIAL, *CHARACTERS])}
PAD, BOS, EOS, IMAGE = (VOCABULARY[token] for token in ("<pad>", "<s>", "</s>", "<image>"))
SIZE = len(VOCABULARY)

LLAMA = {
    "model_type": "llama",
    "vocab_size": SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
QWEN2 = LLAMA | {"model_type": "qwen2"}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
    "initializer_range": 0.2,
}
SIGLIP = VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
CLIP = VISION | {"model_type": "clip_vision_model", "projection_dim": 16}
SQUARE = {"size": {"height": 28, "width": 28}}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}{% if part['type'] == 'image' %}"
    "PLACE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TEMPLATE = CHATML.replace("PLACE", "<|vision_start|><|image_pad|><|vision_end|>")
LLAVA_TEMPLATE = CHATML.replace("PLACE", "<image>\n")
INTERNVL_TEMPLATE = CHATML.replace("PLACE", "<IMG_CONTEXT>\n")
GEMMA_TEMPLATE = (
    "<s>{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] | trim }}"
    "{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for line in m['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


def tokenizer(bos: bool = False, **named: str) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of single characters; with ``bos``, texts begin with <s>."""
    backend = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[], unk_token="<unk>"))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **named,  # type: ignore[arg-type]
    )


def _write(
    folder: Path,
    model: Any,
    image_processor: Any,
    processor: dict[str, Any],
    template: str | None = None,
    words: Any = None,
) -> None:
    torch.manual_seed(0)
    with torch.no_grad():  # norms and biases are not constant, unlike those of a fresh network
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    if words is None or len(words) == SIZE:  # answers are letters, as those of trained models are
        model.generation_config.eos_token_id = EOS
        model.generation_config.suppress_tokens = [
            number for token, number in VOCABULARY.items() if number != EOS and (token in SPECIAL or token in "ĠĊ")
        ]
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    (words or tokenizer()).save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(processor))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


def picture(seed: int = 0, width: int = 50, height: int = 40) -> Image.Image:
    """Return a picture of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smolvlm_generator(model: VisionLanguageModel) -> SmolVLMGenerator:
    """Return what generates the texts of a SmolVLM that runs in Beholder's networks."""
    assert isinstance(model.backend, ImageTextToTextModel)
    assert isinstance(model.backend.generator, SmolVLMGenerator)
    return model.backend.generator


def smolvlm(folder: Path, kind: str = "SmolVLM") -> None:
    """Write a SmolVLM, or an Idefics 3, whose layout is the same."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vision_config=dict(VISION),
        text_config=LLAMA,
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    pixels = getattr(transformers, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    settings = {"processor_class": f"{kind}Processor", "image_seq_len": 4}
    words = tokenizer(
        image_token="<image>", fake_image_token="<fake_token_around_image>", global_image_token="<global-img>"
    )
    _write(folder, model, pixels, settings, SMOLVLM_TEMPLATE, words)


def idefics3(folder: Path) -> None:
    smolvlm(folder, "Idefics3")


def qwen2_5_vl(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Qwen2_5_VLConfig(
        text_config=QWEN2
        | {"model_type": "qwen2_5_vl_text", "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 7,
            "out_hidden_size": 32,
            "window_size": 28,
            "fullatt_block_indexes": [1],
        },
        **_qwen_tokens(),
    )
    _write(
        folder,
        transformers.Qwen2_5_VLForConditionalGeneration(config),
        transformers.Qwen2VLImageProcessorPil(
            patch_size=7, size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56}, min_pixels=None, max_pixels=None
        ),
        {"processor_class": "Qwen2_5_VLProcessor"},
        QWEN_TEMPLATE,
    )


def qwen3_vl(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Qwen3VLConfig(
        text_config=QWEN2
        | {
            "model_type": "qwen3_vl_text",
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 8,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        **_qwen_tokens(),
    )
    _write(
        folder,
        transformers.Qwen3VLForConditionalGeneration(config),
        transformers.Qwen2VLImageProcessorPil(patch_size=8, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}),
        {"processor_class": "Qwen3VLProcessor"},
        QWEN_TEMPLATE,
    )


def _qwen_tokens() -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: VOCABULARY[token] for name, token in names.items()}


def llava_onevision(folder: Path) -> None:
    torch.manual_seed(0)
    pinpoints = [[28, 28], [28, 56], [56, 28]]
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config=QWEN2,
        image_token_index=IMAGE,
        video_token_index=VOCABULARY["<video>"],
        image_grid_pinpoints=pinpoints,
    )
    _write(
        folder,
        transformers.LlavaOnevisionForConditionalGeneration(config),
        transformers.LlavaOnevisionImageProcessorPil(image_grid_pinpoints=pinpoints, **SQUARE),
        {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": 16,
            "vision_feature_select_strategy": "full",
        },
        LLAVA_TEMPLATE,
    )


def llava(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=CLIP,
        text_config=LLAMA,
        image_token_index=IMAGE,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
    _write(
        folder,
        transformers.LlavaForConditionalGeneration(config),
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SQUARE["size"]),
        {
            "processor_class": "LlavaProcessor",
            "patch_size": 7,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        "{% for m in messages %}{{ m['role'] | upper }}: {% for part in m['content'] %}{% if part['type'] == 'image' %}"
        "<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT: {% endif %}",
        tokenizer(bos=True),
    )


def internvl(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.InternVLConfig(
        vision_config=VISION | {"image_size": [28, 28], "patch_size": [7, 7]},
        text_config=QWEN2,
        image_token_id=VOCABULARY["<IMG_CONTEXT>"],
        image_seq_length=4,
    )
    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    _write(
        folder,
        transformers.InternVLForConditionalGeneration(config),
        transformers.GotOcr2ImageProcessorPil(max_patches=4, **SQUARE),
        {"processor_class": "InternVLProcessor", "image_seq_length": 4},
        INTERNVL_TEMPLATE,
        words,
    )


def gemma3(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Gemma3Config(
        text_config=LLAMA
        | {"model_type": "gemma3_text", "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 256},
        vision_config=SIGLIP,
        mm_tokens_per_image=4,
        boi_token_index=VOCABULARY["<start_of_image>"],
        eoi_token_index=VOCABULARY["<end_of_image>"],
        image_token_index=VOCABULARY["<image_soft_token>"],
    )
    words = tokenizer(
        bos=True, boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )
    _write(
        folder,
        transformers.Gemma3ForConditionalGeneration(config),
        transformers.Gemma3ImageProcessorPil(**SQUARE),
        {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        GEMMA_TEMPLATE,
        words,
    )


def paligemma(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.PaliGemmaConfig(
        text_config=LLAMA | {"model_type": "gemma", "head_dim": 8},
        vision_config=SIGLIP | {"projection_dim": 32},
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    model = transformers.PaliGemmaForConditionalGeneration(config)
    pixels = transformers.SiglipImageProcessorPil(**SQUARE)
    pixels.image_seq_length = 16
    _write(folder, model, pixels, {"processor_class": "PaliGemmaProcessor"}, None, tokenizer(image_token="<image>"))


def instructblip(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.InstructBlipConfig(
        vision_config=VISION,
        qformer_config={
            "vocab_size": 200,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 40,
            "encoder_hidden_size": 32,
            "initializer_range": 0.2,
        },
        text_config=LLAMA,
        num_query_tokens=5,
        image_token_index=IMAGE,
    )
    model = transformers.InstructBlipForConditionalGeneration(config)
    with torch.no_grad():
        model.query_tokens.normal_(std=0.5)
    settings = {"processor_class": "InstructBlipProcessor", "num_query_tokens": 5}
    _write(
        folder,
        model,
        transformers.BlipImageProcessorPil(**SQUARE),
        settings,
        None,
        tokenizer(True),
    )
    (folder / "qformer_tokenizer").mkdir()
    tiny_vocabularies.write_bert(folder / "qformer_tokenizer")


def blip(folder: Path) -> None:
    torch.manual_seed(0)
    tiny_vocabularies.write_bert(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.BlipConfig(
        vision_config=VISION,
        text_config={
            "vocab_size": len(words),
            "hidden_size": 32,
            "encoder_hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 16,
            "initializer_range": 0.3,
            "bos_token_id": words.cls_token_id,
            "sep_token_id": words.sep_token_id,
            "eos_token_id": words.sep_token_id,
            "pad_token_id": words.pad_token_id,
        },
        projection_dim=16,
    )
    model = transformers.BlipForConditionalGeneration(config)
    _write(
        folder, model, transformers.BlipImageProcessorPil(**SQUARE), {"processor_class": "BlipProcessor"}, None, words
    )


def florence2(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Florence2Config(
        vision_config={
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [16, 32],
            "num_heads": [2, 4],
            "num_groups": [2, 4],
            "window_size": 4,
            "projection_dim": 32,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": SIZE,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 256,
            "init_std": 0.3,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "decoder_start_token_id": EOS,
            "forced_eos_token_id": EOS,
        },
        image_token_id=IMAGE,
        projection_dim=32,
    )
    model = transformers.Florence2ForConditionalGeneration(config)
    pixels = transformers.CLIPImageProcessorPil(do_center_crop=False, **SQUARE)
    pixels.image_seq_length = 17
    _write(folder, model, pixels, {"processor_class": "Florence2Processor"}, None, tokenizer(image_token="<image>"))


FAMILIES: dict[str, Callable[[Path], None]] = {
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava_onevision": llava_onevision,
    "llava": llava,
    "internvl": internvl,
    "gemma3": gemma3,
    "paligemma": paligemma,
    "instructblip": instructblip,
    "blip": blip,
    "florence2": florence2,
}
