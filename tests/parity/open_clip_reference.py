"""Write small random open_clip checkpoints and the embeddings of open_clip: ``open_clip_reference.py FOLDER``.

Run in a separate process: open_clip imports torchvision for its training transforms, which is replaced by empty stubs,
because other libraries behave differently with torchvision. The networks are open_clip's own.
"""

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch

VISION = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 16, "image_size": 48}
TEXT = {"layers": 2, "width": 24, "heads": 4, "context_length": 12, "vocab_size": 60}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "quick gelu": {"quick_gelu": True},
    "custom text": {"custom_text": True, "init_logit_bias": -10.0, "nonscalar_logit_scale": True},
    "layer scale": {"vision_cfg": {"ls_init_value": 0.1}, "text_cfg": {"ls_init_value": 0.2}},
    "mean pooling": {"vision_cfg": {"pool_type": "avg"}},
    "norm after pooling": {"vision_cfg": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}},
    "oblong pictures": {"vision_cfg": {"image_size": [48, 64], "mlp_ratio": 2.5}},
    "tanh gelu": {
        "vision_cfg": {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
        "text_cfg": {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-2}},
    },
    "last token of a text seen whole": {"custom_text": True, "text_cfg": {"no_causal_mask": True, "pool_type": "last"}},
    "first token": {"custom_text": True, "text_cfg": {"no_causal_mask": True, "pool_type": "first"}},
    "end mark": {"text_cfg": {"pool_type": "eos", "eos_id": 58}},
    "projection with bias": {"custom_text": True, "text_cfg": {"proj_bias": True}},
    "XLM-RoBERTa": {"xlm_roberta": {}},
    "XLM-RoBERTa, one matrix": {"xlm_roberta": {"hf_proj_type": "linear", "context_length": 13}},
    "no projection": {"custom_text": True, "text_cfg": {"proj_type": "none"}, "embed_dim": 24},
}


class StubClass(type):
    """A class with arbitrary constants: each attribute is its own name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class StubModule(types.ModuleType):
    """A module with arbitrary attributes, all of them empty classes."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return StubClass(name, (), {})


def import_open_clip() -> Any:
    names = ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc", ".datasets")
    for name in [f"torchvision{name}" for name in names]:
        stub = StubModule(name)
        stub.__spec__ = importlib.machinery.ModuleSpec(name, None)
        stub.__path__ = []
        sys.modules[name] = stub
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, stub)
    sys.modules["timm"] = None  # type: ignore[assignment]  # optional for open_clip; it would import torchvision, too
    import open_clip

    return open_clip


def xlm_roberta(folder: Path) -> str:
    """Write the config of a small XLM-RoBERTa, where transformers finds it by its name; return that."""
    from transformers import XLMRobertaConfig

    place = folder.with_name("xlm-roberta-small")
    XLMRobertaConfig(
        vocab_size=220,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=200,
        max_position_embeddings=20,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    ).save_pretrained(place)
    return str(place)


def write(open_clip: Any, config: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    if "xlm_roberta" in config:
        text = {"hf_model_name": xlm_roberta(folder), "hf_model_pretrained": False, **config["xlm_roberta"]}
        config = {"custom_text": True}
    else:
        text = {**TEXT, **config.get("text_cfg", {})}
    model = {"embed_dim": 16, **config, "vision_cfg": {**VISION, **config.get("vision_cfg", {})}}
    model["text_cfg"] = text
    written = {"model_cfg": dict(model), "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    custom = model.pop("custom_text", False)
    network = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**model).eval()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.2 * noise if parameter.ndim < 2 else 0.3 * noise)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    size = model["vision_cfg"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.randn(3, 3, height, width, generator=generator)
    ids = torch.full((3, 12), 1 if "hf_model_name" in text else 0)  # XLM-RoBERTa's padding is masked
    for row, length in enumerate((3, 10, 1)):
        ids[row, :length] = torch.randint(4, 56, (length,), generator=generator)
        ids[row, length] = 58
    with torch.no_grad():
        images, texts = network.encode_image(pixels, normalize=True), network.encode_text(ids, normalize=True)
        logits = network.get_logits(pixels, ids)[0]
    outputs = {"pixels": pixels, "ids": ids, "images": images, "texts": texts, "logits": logits}
    save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, folder / "outputs.safetensors")


if __name__ == "__main__":
    library = import_open_clip()
    for case, settings in CASES.items():
        write(library, settings, Path(sys.argv[1]) / case)
