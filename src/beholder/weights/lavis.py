"""BLIP-2 as LAVIS publishes it: checkpoints of stage 1 and stage 2, with or without the vision transformer.

The names are those of LAVIS's ``Blip2Qformer``, ``Blip2OPT`` and ``Blip2T5`` with the vision transformer ViT-g.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from beholder.errors import ModelError
from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.qformer import QFormerSettings
from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.pictures.transform import Preprocessing
from beholder.text.prompts import Prompts
from beholder.text.tokenizer_files import tokenizer_from_folder
from beholder.weights.blip2 import layer_rows
from beholder.weights.language_models import read_language_model
from beholder.weights.loaded import LoadedVisionLanguage
from beholder.weights.preprocessing import CLIP_MEAN, CLIP_STD
from beholder.weights.table import Row, build_empty, load_foreign

VISION, TEXT = "visual_encoder", "Qformer.bert.embeddings"
ROWS = (
    Row("image.class_token", f"{VISION}.cls_token"),
    Row("image.positions", f"{VISION}.pos_embed"),
    Row("image.patches.*", f"{VISION}.patch_embed.proj.*"),
    Row("image.blocks.*.attention.qkv.*", f"{VISION}.blocks.*.attn.qkv.*"),
    Row("image.blocks.*.attention.out.*", f"{VISION}.blocks.*.attn.proj.*"),
    Row("image.blocks.*.norm_attention.*", f"{VISION}.blocks.*.norm1.*"),
    Row("image.blocks.*.norm_mlp.*", f"{VISION}.blocks.*.norm2.*"),
    Row("image.blocks.*.mlp.up.*", f"{VISION}.blocks.*.mlp.fc1.*"),
    Row("image.blocks.*.mlp.down.*", f"{VISION}.blocks.*.mlp.fc2.*"),
    Row("image.final_norm.*", "ln_vision.*"),
    Row("bridge.qformer.query_tokens", "query_tokens"),
    Row("bridge.qformer.word_embeddings.weight", f"{TEXT}.word_embeddings.weight"),
    Row("bridge.qformer.position_embeddings.weight", f"{TEXT}.position_embeddings.weight"),
    Row("bridge.qformer.norm.*", f"{TEXT}.LayerNorm.*"),
    *layer_rows("Qformer.bert.encoder.layer.*", "self"),
    Row("bridge.language_head.dense.*", "Qformer.cls.predictions.transform.dense.*"),
    Row("bridge.language_head.norm.*", "Qformer.cls.predictions.transform.LayerNorm.*"),
    Row("bridge.language_head.bias", "Qformer.cls.predictions.bias"),
    Row("bridge.image_head.*", "vision_proj.*"),
    Row("bridge.text_head.*", "text_proj.*"),
    Row("bridge.matching_head.*", "itm_head.*"),
    Row("bridge.logit_scale", "logit_scale"),
    Row("bridge.to_language.*", "language_proj.*"),
)
# The decoder is the table of words and its bias the one above; both are stored again.
IGNORED = (f"{TEXT}.position_ids", "Qformer.cls.predictions.decoder.weight", "Qformer.cls.predictions.decoder.bias")


def load_lavis(
    checkpoint: Path,
    *,
    vision: Path | None = None,
    language: Path | None = None,
    vocabulary: Path | None = None,
    vision_heads: int = 16,
    qformer_heads: int = 12,
    vision_layers: int = 39,
) -> LoadedVisionLanguage:
    """Load a checkpoint of LAVIS with its frozen vision transformer and language model onto the CPU, as float32.

    The files are pickles, opened by torch's restricted unpickler.

    Args:
        checkpoint: such as ``blip2_pretrained.pth`` (stage 1) or ``blip2_pretrained_opt2.7b.pth`` (stage 2).
        vision: the file of the vision transformer, ``eva_vit_g.pth``, if the checkpoint lacks it.
        language: for stage 2, the language model's folder, as transformers writes it.
        vocabulary: for stage 1, a folder with BERT's vocabulary, to which LAVIS has added the token ``[DEC]``.
        vision_heads: heads of the vision transformer, which can't be read off its tensors.
        qformer_heads: heads of the Q-Former.
        vision_layers: the number of its layers that are used.

    Raises:
        ModelError: a file is missing or broken.
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
    """
    tensors = dict(_read(checkpoint))
    if vision is not None:
        tensors |= {f"{VISION}.{name}": tensor for name, tensor in _read(vision).items()}
    if f"{VISION}.pos_embed" not in tensors:
        raise ModelError(f"{checkpoint}: holds no vision transformer; pass its file as vision")
    tensors = _normalized(tensors, vision_layers)
    stage_2 = "language_proj.weight" in tensors
    if stage_2 and language is None:
        raise ModelError(f"{checkpoint}: is of stage 2; pass the folder of its language model as language")
    image = _vision_settings(tensors, vision_heads, vision_layers)
    settings = _bridge_settings(tensors, qformer_heads, stage_2)
    both = load_foreign(
        nn.ModuleDict({"image": build_empty(VisionTransformer, image), "bridge": build_empty(Bridge, settings)}),
        tensors,
        ROWS,
        IGNORED,
    )
    model, language_tokenizer = read_language_model(language) if stage_2 and language is not None else (None, None)
    return LoadedVisionLanguage(
        both["image"],
        Preprocessing(image.image_height, image.image_width, "squash", mean=CLIP_MEAN, std=CLIP_STD),
        both["bridge"],  # type: ignore[arg-type]
        model,
        language_tokenizer,
        tokenizer_from_folder(vocabulary, "bert", settings.qformer.max_position_embeddings)
        if vocabulary and settings.embedding
        else None,
        Prompts(caption="a photo of"),
        checkpoint.stem,
    )


def _read(file: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a checkpoint, which may hold the state of its training, too."""
    if not file.is_file():
        raise ModelError(f"{file}: no such file")
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"{file}: cannot be read as a pickle of tensors ({error})") from error
    stored = stored.get("model", stored) if isinstance(stored, dict) else stored
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ModelError(f"{file}: is not a dictionary of named tensors")
    return stored


def _normalized(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Drop unused layers, join the biases of queries, keys and values, turn the temperature into a logit scale."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == VISION and parts[1] in ("norm", "fc_norm", "head"):
            continue
        if parts[0] == VISION and parts[1] == "blocks" and int(parts[2]) >= layers:
            continue
        if name.endswith("attn.q_bias"):
            last = tensors[name.replace("q_bias", "v_bias")]
            made[name.replace("q_bias", "qkv.bias")] = torch.cat([tensor, torch.zeros_like(tensor), last])
        elif name == "temp":
            made["logit_scale"] = -tensor.float().log().reshape(())
        elif name.startswith(("opt_proj.", "t5_proj.")):
            made["language_proj." + parts[1]] = tensor
        elif not name.endswith("attn.v_bias"):
            made[name] = tensor
    return made


def _vision_settings(tensors: Mapping[str, Tensor], heads: int, layers: int) -> VisionSettings:
    patch = tensors[f"{VISION}.patch_embed.proj.weight"]
    side = math.isqrt(tensors[f"{VISION}.pos_embed"].shape[1] - 1) * patch.shape[-1]
    return VisionSettings(
        image_height=side,
        image_width=side,
        patch_size=patch.shape[-1],
        width=patch.shape[0],
        layers=layers,
        heads=heads,
        mlp_width=tensors[f"{VISION}.blocks.0.mlp.fc1.weight"].shape[0],
    )


def _bridge_settings(tensors: Mapping[str, Tensor], heads: int, stage_2: bool) -> BridgeSettings:
    layer = "Qformer.bert.encoder.layer"
    words = tensors.get(f"{TEXT}.word_embeddings.weight")
    positions = tensors.get(f"{TEXT}.position_embeddings.weight")
    layers = 1 + max(int(name.split(".")[4]) for name in tensors if name.startswith(f"{layer}."))
    second = next((n for n in range(1, layers) if f"{layer}.{n}.crossattention.self.key.weight" in tensors), layers)
    return BridgeSettings(
        QFormerSettings(
            queries=tensors["query_tokens"].shape[1],
            width=tensors["query_tokens"].shape[2],
            layers=layers,
            heads=heads,
            mlp_width=tensors[f"{layer}.0.intermediate_query.dense.weight"].shape[0],
            image_width=tensors[f"{layer}.0.crossattention.self.key.weight"].shape[1],
            cross_attention_frequency=second,
            vocabulary=0 if words is None else len(words),
            max_position_embeddings=512 if positions is None else len(positions),
        ),
        embedding=tensors["vision_proj.weight"].shape[0] if "vision_proj.weight" in tensors else 0,
        language_width=tensors["language_proj.weight"].shape[0] if stage_2 else 0,
        inference_only="logit_scale" not in tensors,
    )
