"""Beholder's own format of a vision-language model: one folder, and no code in it.

    beholder.json            settings of tower, bridge, preprocessing, prompts and tokenizer
    model.safetensors        the tower's and the bridge's tensors, by our names
    tokenizer.json           of the Q-Former's text, if it takes any
    language_model/          the language model with its tokenizer, as transformers writes them
    README.md                the model card

It is written atomically, as that of a dual encoder is.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from beholder.errors import InvalidSetting, ModelError
from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.dual_encoder import current_tower
from beholder.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteSettings
from beholder.models.global_token_encoder import GlobalTokenEncoder, GlobalTokenEncoderSettings
from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.pictures.transform import Preprocessing
from beholder.text import tokenizer as own_tokenizer
from beholder.text.prompts import Prompts
from beholder.text.tokenizer import Tokenizer
from beholder.weights import version_1
from beholder.weights.language_models import read_language_model, write_language_model
from beholder.weights.loaded import LoadedVisionLanguage
from beholder.weights.native import CARD, CONFIG, WEIGHTS, read_config, replace_folder
from beholder.weights.table import build_empty, load_native_tensors
from beholder.weights.tensors import read_tensors

FORMAT = "beholder vision-language model"
VERSION = 2
LANGUAGE = "language_model"
FILES = {CONFIG, WEIGHTS, CARD, own_tokenizer.FILE, LANGUAGE}
RERANKERS = ("", "mini")  # a folder from elsewhere can't make another model be downloaded


def load_vision_language(folder: Path) -> LoadedVisionLanguage:
    """Read what ``save_vision_language`` wrote.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing, broken, or of another format or version.
    """
    config = read_config(folder, FORMAT, VERSION, version_1.VERSION)
    old = config["version"] == version_1.VERSION
    try:
        if old:
            config = version_1.current_config(config)
        image: nn.Module
        kind, settings = config["image"]["kind"], config["image"]["settings"]
        match kind:
            case "vit":
                image = build_empty(VisionTransformer, VisionSettings(**current_tower(settings)))
            case "efficientnet_lite":
                image = build_empty(EfficientNetLite, EfficientNetLiteSettings(**settings))
            case "sentence_tokens":
                tower = EfficientNetLiteSettings(**settings.pop("tower"))
                image = build_empty(GlobalTokenEncoder, GlobalTokenEncoderSettings(tower, **settings))
            case _:
                raise ModelError(f"{folder / CONFIG}: a picture tower of kind {kind!r} is not known")
        bridge = build_empty(Bridge, BridgeSettings.from_dict(config["bridge"]))
        preprocessing = Preprocessing(**config["preprocessing"])
        prompts = Prompts(**config["prompts"])
        tokenizer = Tokenizer.load(folder, config["tokenizer"]) if config["tokenizer"] else None
        reranker, num_candidates = config.get("reranker", ""), int(config.get("num_candidates", 1))
        if reranker not in RERANKERS or num_candidates < 1:
            raise ModelError(f"{folder / CONFIG}: reranker {reranker!r} with {num_candidates} candidates is not known")
    except (KeyError, TypeError, InvalidSetting) as error:
        raise ModelError(f"{folder / CONFIG}: {error}") from error
    tensors = read_tensors(folder, ("model",))
    both = load_native_tensors(
        nn.ModuleDict({"image": image, "bridge": bridge}), version_1.current_tensors(tensors) if old else tensors
    )
    language, language_tokenizer = None, None
    if (folder / LANGUAGE).is_dir():
        language, language_tokenizer = read_language_model(folder / LANGUAGE)
    return LoadedVisionLanguage(
        both["image"],
        preprocessing,
        both["bridge"],  # type: ignore[arg-type]
        language,
        language_tokenizer,
        tokenizer,
        prompts,
        config.get("name", ""),
        config.get("licence", ""),
        reranker,
        num_candidates,
    )


def save_vision_language(loaded: LoadedVisionLanguage, folder: Path) -> None:
    """Write a folder that ``load_vision_language`` loads again bit for bit.

    Raises:
        InvalidSetting: the folder exists and holds something other than a model.
    """
    replace_folder(folder, FILES, lambda whole: _write(loaded, whole))


def _write(loaded: LoadedVisionLanguage, folder: Path) -> None:
    kinds = {VisionTransformer: "vit", EfficientNetLite: "efficientnet_lite", GlobalTokenEncoder: "sentence_tokens"}
    config = {
        "format": FORMAT,
        "version": VERSION,
        "name": loaded.name,
        "licence": loaded.licence,
        "image": {"kind": kinds[type(loaded.image)], "settings": asdict(loaded.image.settings)},  # type: ignore[call-overload]
        "bridge": loaded.bridge.settings.to_dict(),
        "preprocessing": asdict(loaded.preprocessing),
        "prompts": asdict(loaded.prompts),
        "tokenizer": asdict(loaded.tokenizer.settings) if loaded.tokenizer else None,
        "reranker": loaded.reranker,
        "num_candidates": loaded.num_candidates,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    both = nn.ModuleDict({"image": loaded.image, "bridge": loaded.bridge})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in both.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if loaded.tokenizer is not None:
        loaded.tokenizer.save(folder)
    if loaded.language is not None and loaded.language_tokenizer is not None:
        write_language_model(loaded.language, loaded.language_tokenizer, folder / LANGUAGE)
    (folder / CARD).write_text(_card(loaded), "utf-8")


def _card(loaded: LoadedVisionLanguage) -> str:
    settings = loaded.bridge.settings
    language = "none: stage 1 alone"
    if loaded.language is not None:
        million = sum(weight.numel() for weight in loaded.language.parameters()) / 1e6
        language = f"{type(loaded.language.module).__name__}, {million:.0f} million parameters, frozen"
    rows: Sequence[tuple[str, str]] = (
        ("picture tower", type(loaded.image).__name__ + ", frozen"),
        ("bridge", f"Q-Former, {settings.qformer.layers} layers of width {settings.qformer.width}"),
        ("soft prompts", f"{settings.soft_prompts} for each picture"),
        ("language model", language),
        ("licence", loaded.licence or "not recorded; that of the weights it was made from"),
    )
    front = f"---\nlicense: {loaded.licence}\n---\n\n" if loaded.licence else ""
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""{front}# {loaded.name or "A vision-language model"}

It writes about pictures: captions, answers, a conversation.

| | |
|---|---|
{table}

```python
from beholder import VisionLanguageModel

model = VisionLanguageModel.from_pretrained("this folder")
model.caption(["photo.jpg"])
```

Its output can be wrong and still sound confident. Evaluate it on your own pictures before you rely on it.
"""
