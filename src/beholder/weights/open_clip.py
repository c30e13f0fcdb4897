"""open_clip's own format: ``open_clip_config.json`` beside the weights, for its built-in vision transformers.

The text tower is its built-in transformer, or XLM-RoBERTa.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from beholder.errors import ModelError
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.layers import Activation, HeadSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.text.tokenizer import Tokenizer
from beholder.text.tokenizer_files import TOKENIZER_FAMILIES, write_tokenizer
from beholder.weights import bert, preprocessing, xlm_roberta
from beholder.weights.exporting import (
    CARD,
    DoesNotFit,
    Writer,
    differences,
    exported_card,
    fixed_preprocessing,
    warn_of_cleaning,
    warn_of_preprocessing,
    write_json,
)
from beholder.weights.foreign_dual_encoder import ForeignDualEncoder
from beholder.weights.huggingface import read_json
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.table import Row, build_empty, load_foreign, to_foreign
from beholder.weights.tensors import read_tensors

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
STEMS = ("open_clip_model", "model", "open_clip_pytorch_model")

# Defaults of open_clip 3.3 (``CLIPVisionCfg``, ``CLIPTextCfg``), as far as they shape the network.
VISION_DEFAULTS = {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "image_size": 224,
    "ls_init_value": None,
    "no_ln_pre": False,
    "final_ln_after_pool": False,
    "pool_type": "tok",
    "act_kwargs": None,
    "norm_kwargs": None,
}
TEXT_DEFAULTS = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
    "ls_init_value": None,
    "eos_id": 2,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "proj_bias": False,
    "proj_type": "linear",
    "act_kwargs": None,
    "norm_kwargs": None,
}
# These have no effect in inference, or belong to the tokenizer.
WITHOUT_EFFECT = {"patch_dropout", "output_tokens", "pos_embed_type", "attn_pooler_queries", "attn_pooler_heads"} | {
    *("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "pad_id", "final_ln_after_pool"),
    *("hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "timm_model_pretrained", "timm_pool", "timm_proj"),
    *("timm_proj_bias", "timm_drop", "timm_drop_path"),
}
# Each of these changes the network if it is set.
REFUSED = {
    "timm_model_name": "a timm image tower",
    "hf_model_name": "a text tower of transformers other than XLM-RoBERTa",
    "attentional_pool": "attentional pooling",
    "embed_cls": "a class token in the text (CoCa)",
    "qk_norm": "norms of queries and keys",
    "scaled_cosine_attn": "cosine attention",
    "scale_heads": "scaled heads",
    "scale_attn_inner": "inner attention norms",
    "scale_attn": "attention norms",
    "scale_fc": "MLP norms",
}
NO_POOLING = "open_clip: without pooling (pool_type none) a tower gives no single vector"
VISION_POOLING = {"tok": "class", "avg": "mean"}
TEXT_POOLING = {"argmax": "highest_id", "eos": "end", "first": "first", "last": "last"}

# A buffer, and settings that OpenAI's files carry among the tensors.
IGNORED = ("attn_mask", "text.attn_mask", "input_resolution", "context_length", "vocab_size")


def settings(model: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> TwoTowersSettings:
    """Return the settings of the dual encoder that the config's ``model_cfg`` describes.

    Args:
        model: the config.
        tensors: from which the sizes of a text tower of transformers follow.

    Raises:
        ModelError: it asks for a network that is not covered.
    """
    if "multimodal_cfg" in model:
        raise ModelError("open_clip: this is a CoCa, which is not covered")
    image = _image_settings(model)
    if tensors is not None and is_xlm_roberta(model):
        return TwoTowersSettings(
            image=image,
            text=xlm_roberta.settings(tensors, _xlm_roberta_config(model)["context_length"]),
            embedding=model["embed_dim"],
            image_head=HeadSettings("linear"),
            text_head=xlm_roberta.head_settings(tensors),
            logit_bias=model.get("init_logit_bias") is not None,
        )
    text = _tower(model, "text_cfg", TEXT_DEFAULTS)
    if text["pool_type"] not in TEXT_POOLING:
        raise ModelError(NO_POOLING)
    text_width, quick = text["width"], model.get("quick_gelu", False)
    return TwoTowersSettings(
        image=image,
        text=TextTransformerSettings(
            vocabulary=text["vocab_size"],
            context_length=text["context_length"],
            width=text_width,
            layers=text["layers"],
            heads=text["heads"],
            mlp_width=int(text_width * text["mlp_ratio"]),
            activation=_activation(quick, text["act_kwargs"]),
            norm_eps=_norm_eps(text["norm_kwargs"]),
            causal=not text["no_causal_mask"],
            layer_scale=text["ls_init_value"] is not None,
            pooling=TEXT_POOLING[text["pool_type"]],  # type: ignore[arg-type]
            end_id=text["eos_id"],
        ),
        embedding=model["embed_dim"],
        image_head=HeadSettings("linear"),
        text_head=HeadSettings("none" if text["proj_type"] == "none" else "linear", bias=text["proj_bias"]),
        logit_bias=model.get("init_logit_bias") is not None,
    )


def _image_settings(model: Mapping[str, Any]) -> VisionSettings:
    vision = _tower(model, "vision_cfg", VISION_DEFAULTS)
    if not isinstance(vision["layers"], int):
        raise ModelError("open_clip: a ResNet image tower (several numbers of layers) is not covered")
    if vision["pool_type"] not in VISION_POOLING:
        raise ModelError(NO_POOLING)
    size, width = vision["image_size"], vision["width"]
    return VisionSettings(
        image_height=size if isinstance(size, int) else size[0],
        image_width=size if isinstance(size, int) else size[1],
        patch_size=vision["patch_size"],
        width=width,
        layers=vision["layers"],
        heads=width // vision["head_width"],
        mlp_width=int(width * vision["mlp_ratio"]),
        activation=_activation(model.get("quick_gelu", False), vision["act_kwargs"]),
        norm_eps=_norm_eps(vision["norm_kwargs"]),
        patch_bias=False,
        norm_first=not vision["no_ln_pre"],
        final_norm="pooled" if vision["final_ln_after_pool"] else "tokens",
        pooling=VISION_POOLING[vision["pool_type"]],  # type: ignore[arg-type]
        layer_scale=vision["ls_init_value"] is not None,
    )


def is_xlm_roberta(model: Mapping[str, Any]) -> bool:
    """Return whether a config's text tower is XLM-RoBERTa."""
    return xlm_roberta.NAME in str((model.get("text_cfg") or {}).get("hf_model_name") or "")


def _xlm_roberta_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the text config of a network with XLM-RoBERTa.

    Raises:
        ModelError: it pools differently.
    """
    text = {"context_length": TEXT_DEFAULTS["context_length"], "hf_pooler_type": "mean_pooler", **model["text_cfg"]}
    if text["hf_pooler_type"] not in (None, "mean_pooler"):
        raise ModelError(f"open_clip: XLM-RoBERTa with {text['hf_pooler_type']} is not covered, only with mean_pooler")
    return text


def config(network: TwoTowersSettings) -> dict[str, Any]:
    """Return the ``model_cfg`` of a dual encoder; ``settings`` of it tells how much of it the format can express.

    Raises:
        ModelError: the format can't express a tower of this kind.
    """
    image, text = network.image, network.text
    if not isinstance(image, VisionSettings) or not isinstance(text, TextTransformerSettings):
        towers = f"{type(image).__name__} and {type(text).__name__}"
        raise ModelError(f"its towers are described by {towers}, and are not both transformers of open_clip's own")
    square = image.image_height == image.image_width
    vision_cfg = {
        "image_size": image.image_height if square else [image.image_height, image.image_width],
        "patch_size": image.patch_size,
        "head_width": image.width // image.heads,
        "no_ln_pre": not image.norm_first,
        "pool_type": {ours: theirs for theirs, ours in VISION_POOLING.items()}.get(image.pooling, "none"),
        "final_ln_after_pool": image.final_norm == "pooled",
        **_tower_config(image),
    }
    text_cfg = {
        "context_length": text.context_length,
        "vocab_size": text.vocabulary,
        "heads": text.heads,
        "no_causal_mask": not text.causal,
        "pool_type": {ours: theirs for theirs, ours in TEXT_POOLING.items()}[text.pooling],
        "eos_id": text.end_id,
        "proj_bias": network.text_head.bias,
        "proj_type": "none" if network.text_head.kind == "none" else "linear",
        **_tower_config(text),
    }
    return {
        "embed_dim": network.embedding,
        "quick_gelu": image.activation == "quick_gelu",
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
        **({"init_logit_bias": 0.0} if network.logit_bias else {}),
    }


def _tower_config(tower: VisionSettings | TextTransformerSettings) -> dict[str, Any]:
    return {
        "width": tower.width,
        "layers": tower.layers,
        "mlp_ratio": _ratio(tower.mlp_width, tower.width),
        "norm_kwargs": {"eps": tower.norm_eps},
        **({"act_kwargs": {"approximate": "tanh"}} if tower.activation == "gelu_tanh" else {}),
        **({"ls_init_value": 1.0} if tower.layer_scale else {}),
    }


def _ratio(part: int, width: int) -> float:
    """Return a ratio for which ``int(width * ratio)`` is ``part``, despite rounding."""
    return part / width if int(width * (part / width)) == part else (part + 0.5) / width


def _tower(model: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    given = model.get(name) or {}
    refused = [what for key, what in REFUSED.items() if given.get(key)]
    if given.get("block_type") not in (None, "default"):
        refused.append(f"{given['block_type']} blocks")
    unknown = set(given) - set(defaults) - set(REFUSED) - WITHOUT_EFFECT - {"block_type"}
    if refused or unknown:
        raise ModelError(f"open_clip: {', '.join([*refused, *sorted(unknown)])} in {name} is not covered")
    return {**defaults, **given}


def _activation(quick: bool, act_kwargs: Mapping[str, Any] | None) -> Activation:
    if quick:
        return "quick_gelu"
    return "gelu_tanh" if (act_kwargs or {}).get("approximate") == "tanh" else "gelu"


def _norm_eps(norm_kwargs: Mapping[str, Any] | None) -> float:
    return (norm_kwargs or {}).get("eps", 1e-5)


def rows(names: Collection[str], text_bias: bool) -> tuple[Row, ...]:
    """Return the table of names. The ``names`` of a file tell whether it keeps the text tower under ``text.``."""
    prefix = "text." if any(name.startswith("text.") for name in names) else ""
    return (
        *_IMAGE_ROWS,
        Row("text.embedding.weight", f"{prefix}token_embedding.weight"),
        Row("text.positions", f"{prefix}positional_embedding"),
        Row("text.final_norm.*", f"{prefix}ln_final.*"),
        *_block_rows("text", prefix),
        Row("text_head.linear.*", f"{prefix}text_projection.*")
        if text_bias
        else Row("text_head.linear.weight", f"{prefix}text_projection", transposed=True),
    )


def _block_rows(ours: str, prefix: str) -> tuple[Row, ...]:
    block = f"{prefix}transformer.resblocks.*"
    return (
        Row(f"{ours}.blocks.*.norm_attention.*", f"{block}.ln_1.*"),
        Row(f"{ours}.blocks.*.attention.qkv.*", f"{block}.attn.in_proj_*"),
        Row(f"{ours}.blocks.*.attention.out.*", f"{block}.attn.out_proj.*"),
        Row(f"{ours}.blocks.*.scale_attention", f"{block}.ls_1.gamma"),
        Row(f"{ours}.blocks.*.norm_mlp.*", f"{block}.ln_2.*"),
        Row(f"{ours}.blocks.*.mlp.up.*", f"{block}.mlp.c_fc.*"),
        Row(f"{ours}.blocks.*.mlp.down.*", f"{block}.mlp.c_proj.*"),
        Row(f"{ours}.blocks.*.scale_mlp", f"{block}.ls_2.gamma"),
    )


_IMAGE_ROWS = (
    Row("image.class_token", "visual.class_embedding"),
    Row("image.patches.weight", "visual.conv1.weight"),
    Row("image.positions", "visual.positional_embedding"),
    Row("image.norm_first.*", "visual.ln_pre.*"),
    Row("image.final_norm.*", "visual.ln_post.*"),
    *_block_rows("image", "visual."),
    Row("image_head.linear.weight", "visual.proj", transposed=True),
    Row("logit_scale", "logit_scale"),
    Row("logit_bias", "logit_bias"),
)


def is_clip_vocabulary(tokenizer: Tokenizer) -> bool:
    """Whether this is CLIP's own tokenizer, which open_clip includes; decided by the ids of a sentence."""
    ids = tokenizer.backend.encode("a photo of a cat", add_special_tokens=False).ids
    marks = tokenizer.settings.start_id, tokenizer.settings.end_id
    return ids == [320, 1125, 539, 320, 2368] and marks == (49406, 49407)


def tokenizer_kind(model: Mapping[str, Any]) -> Literal["open_clip", "open_clip_xlm_roberta"]:
    """Return the family of the tokenizer: with built-in text towers, only CLIP's own is covered.

    Raises:
        ModelError: the config names another.
    """
    if is_xlm_roberta(model):
        return "open_clip_xlm_roberta"
    named = (model.get("text_cfg") or {}).get("hf_tokenizer_name")
    if named:
        raise ModelError(f"open_clip: the tokenizer {named} is not covered, only CLIP's own")
    return "open_clip"


def read_network(folder: Path, allow_pickle: bool = True) -> ForeignDualEncoder:
    """Load the network of a folder, without its tokenizer.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken, or describes a network that is not covered.
    """
    tensors = read_tensors(folder, STEMS, allow_pickle)
    config: Mapping[str, Any] = read_json(folder / CONFIG)
    model = config.get("model_cfg")
    if not isinstance(model, dict):
        raise ModelError(f"{CONFIG} has no model_cfg")
    network = build_empty(TwoTowers, settings(model, tensors))
    image, text_bias = network.settings.image, network.settings.text_head.bias
    pixels = preprocessing.from_open_clip(config.get("preprocess_cfg") or {}, image)  # type: ignore[arg-type]
    if is_xlm_roberta(model):
        tensors = xlm_roberta.without_padding_positions(tensors, network.settings.text.context_length)
        table, ignored = (*_IMAGE_ROWS, *xlm_roberta.rows()), (*IGNORED, *bert.ignored(xlm_roberta.TRANSFORMER))
    else:
        table, ignored = rows(tensors, text_bias), IGNORED
    load_foreign(network, tensors, table, ignored)
    return ForeignDualEncoder(network, pixels, tokenizer_kind(model))


def writer(loaded: LoadedDualEncoder) -> Writer:
    """Prepare the export of a dual encoder to open_clip.

    Raises:
        DoesNotFit: open_clip has no such network.
        ModelError: the pictures of the model keep their own shape.
    """
    prepared = fixed_preprocessing(loaded)
    network = loaded.network.settings
    try:
        model = config(network)
        different = differences(network, settings(model))
    except ModelError as error:
        different = [str(error)]
    if different:
        raise DoesNotFit(different)
    bias = loaded.network.logit_bias
    if bias is not None:
        model["init_logit_bias"] = float(bias.detach())
    clip_vocabulary = is_clip_vocabulary(loaded.tokenizer)
    if not clip_vocabulary:  # open_clip looks for it beside this config, whatever the name is
        model["text_cfg"]["hf_tokenizer_name"] = loaded.name or "beholder"
    tensors = to_foreign(loaded.network.state_dict(), rows((), network.text_head.bias))
    pixels = preprocessing.to_open_clip(prepared)

    def write(folder: Path) -> None:
        write_json(folder / CONFIG, {"model_cfg": model, "preprocess_cfg": pixels})
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        lost = write_tokenizer(loaded.tokenizer, folder, TOKENIZER_FAMILIES["open_clip"])
        warn_of_cleaning(loaded, "" if clip_vocabulary else lost)
        warn_of_preprocessing(loaded, preprocessing.from_open_clip(pixels, network.image))  # type: ignore[arg-type]
        (folder / CARD).write_text(exported_card(loaded, EXAMPLE), "utf-8")

    return write


EXAMPLE = """\
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:this folder")
tokenizer = open_clip.get_tokenizer("local-dir:this folder")"""
