"""Small random checkpoints of every family, complete folders as transformers writes them."""

import json
import shutil
from pathlib import Path

from random_weights import enlarge

BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32}
VISION = {**BLOCKS, "image_size": 48, "patch_size": 16}


def write(kind: str, vocabulary: Path, folder: Path) -> Path:
    """Write a ``clip``, ``siglip``, ``siglip2``, ``siglip2_naflex``, ``align`` or ``chinese_clip``."""
    import transformers

    shutil.copytree(vocabulary, folder)
    if kind == "clip":
        pieces = len(json.loads((folder / "vocab.json").read_text("utf-8")))
        text = {**BLOCKS, "vocab_size": pieces, "bos_token_id": pieces - 2, "eos_token_id": pieces - 1}
        model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION))
        processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=48)
    elif kind == "chinese_clip":
        pieces = len((folder / "vocab.txt").read_text("utf-8").splitlines())
        text = {**BLOCKS, "vocab_size": pieces, "max_position_embeddings": 64}
        model = transformers.ChineseCLIPModel(transformers.ChineseCLIPConfig(text_config=text, vision_config=VISION))
        processor = transformers.ChineseCLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=48)
    elif kind == "align":
        pieces = len((folder / "vocab.txt").read_text("utf-8").splitlines())
        text = {**BLOCKS, "vocab_size": pieces, "max_position_embeddings": 64}
        stages = {"kernel_sizes": [3, 5], "in_channels": [32, 16], "out_channels": [16, 24], "strides": [1, 2]}
        stages |= {"num_block_repeats": [1, 1], "expand_ratios": [1, 4]}
        vision = {**stages, "width_coefficient": 0.5, "depth_coefficient": 1.2}
        config = transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=16)
        model = transformers.AlignModel(config)
        pixels = {"do_normalize": False, "include_top": False, "rescale_factor": 1 / 127.5, "rescale_offset": True}
        pixels |= {"size": {"height": 61, "width": 61}, "crop_size": {"height": 48, "width": 48}, "resample": 2}
        processor = transformers.EfficientNetImageProcessorPil(**pixels, do_center_crop=True)
    elif kind == "siglip2_naflex":
        pieces = transformers.AutoTokenizer.from_pretrained(folder).vocab_size
        text = {**BLOCKS, "vocab_size": pieces, "bos_token_id": 2, "eos_token_id": 1}
        patches = {**BLOCKS, "patch_size": 8, "num_patches": 16}
        model = transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=patches))
        processor = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=24)
    else:
        pieces = transformers.AutoTokenizer.from_pretrained(folder).vocab_size
        text = {**BLOCKS, "vocab_size": pieces, "bos_token_id": 2, "eos_token_id": 1}
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))
        processor = transformers.SiglipImageProcessorPil(size={"height": 48, "width": 48})
    processor.save_pretrained(folder)
    enlarge(model)
    model.save_pretrained(folder)
    return folder
