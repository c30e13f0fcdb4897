"""The model of a fine-tuning: opened by transformers, adapted by peft, and merged into a plain checkpoint again."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beholder import files
from beholder.errors import InvalidSetting, MissingExtra, ModelError
from beholder.training.vlm_config import LanguageLora, VlmConfig
from beholder.weights import image_text_to_text, native
from beholder.weights.huggingface import CONFIG, read_json
from beholder.weights.image_text_to_text import LoadedImageTextToText
from beholder.weights.quiet_transformers import quiet_transformers
from beholder.weights.sources import find_model

# Names of the modules between a vision tower and a language model, as transformers' families spell them.
PROJECTORS = (
    "connector",  # Idefics, SmolVLM
    "multi_modal_projector",  # LLaVA, LLaVA-OneVision, InternVL, Gemma 3, PaliGemma
    "merger",  # Qwen
    "deepstack_merger_list",  # Qwen3-VL
    "qformer",  # BLIP-2, InstructBLIP
    "language_projection",  # BLIP-2, InstructBLIP
)
# Families whose language model reads the picture elsewhere than among its own tokens.
CROSS_ATTENTION = ("blip", "mllama")
# What a checkpoint has beside its weights: tokenizer, processor and chat template.
PROCESSOR_FILES = (".json", ".jinja", ".txt", ".model")
REWRITTEN = (CONFIG, "generation_config.json")
QFORMER_TOKENIZER = "qformer_tokenizer"  # InstructBLIP's


def load_model(config: VlmConfig) -> tuple[LoadedImageTextToText, Path]:
    """Load the model that a config names, and return it with its folder.

    Raises:
        InvalidSetting: it is of a kind that can't be fine-tuned.
        ModelNotFound: there is no such model.
        ModelError: transformers can't read it.
    """
    name = config.model.from_pretrained
    setting = f"model.from_pretrained: {name}"
    folder = find_model(name)
    if (folder / native.CONFIG).is_file() or not (folder / CONFIG).is_file():
        raise InvalidSetting(
            f"{setting} is not in transformers' format, which LoRA needs; beholder train bridge trains the bridge of "
            "such a model"
        )
    model_type = str(read_json(folder / CONFIG).get("model_type"))
    if not image_text_to_text.opens(model_type):
        raise InvalidSetting(f"{setting} is a {model_type}, which generates no text from pictures")
    if model_type in CROSS_ATTENTION:
        raise InvalidSetting(
            f"{setting} is a {model_type}, whose language model reads the picture by cross-attention; only models that "
            "read it among the tokens of their prompt can be fine-tuned"
        )
    loaded = image_text_to_text.load(folder, name, allow_pickle=True)
    settings = loaded.module.config
    if settings.is_encoder_decoder or settings.get_text_config().is_encoder_decoder:
        raise InvalidSetting(
            f"{setting}: the language model of this {model_type} is an encoder with a decoder (such as T5), and only "
            "decoders (such as OPT and Llama) can be fine-tuned"
        )
    _check_placeholder(loaded, setting)
    return loaded, folder


def _check_placeholder(loaded: LoadedImageTextToText, setting: str) -> None:
    """Check that a BLIP-2's processor makes as many picture tokens as the network expects; older ones make none."""
    processor, config = loaded.processor, loaded.module.config
    queries = getattr(config, "num_query_tokens", None)
    if queries is None:
        return
    token = processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))
    if processor.num_query_tokens != queries or token != config.image_token_id:
        raise InvalidSetting(
            f"{setting}: this {loaded.model_type} is of an older layout, without tokens for the picture; take the "
            "current revision of the checkpoint"
        )


def language_model_name(module: nn.Module) -> str:
    """Return the name of the language model inside a vision-language model of transformers.

    Raises:
        InvalidSetting: there is none by itself.
    """
    from transformers import PreTrainedModel

    config: Any = module.config
    kind = type(config.get_text_config())
    for name, part in module.named_modules():
        if name and isinstance(part, PreTrainedModel) and isinstance(part.config, kind):
            return name
    raise InvalidSetting("lora: this model has no language model of its own to adapt")


def projector_names(module: nn.Module) -> list[str]:
    """Return the names of the modules between the vision tower and the language model."""
    found: list[str] = []
    for name, part in module.named_modules():
        if name.rpartition(".")[2] in PROJECTORS and not name.startswith(tuple(f"{outer}." for outer in found)):
            many = isinstance(part, nn.ModuleList)  # peft trains its parts, but not a list
            found += [f"{name}.{number}" for number, _ in part.named_children()] if many else [name]
    return found


def add_adapters(module: nn.Module, lora: LanguageLora, projector: bool) -> Any:
    """Freeze a model, and add adapters, which are zero at first, to its language model's linear layers.

    Args:
        module: the network, which is changed.
        lora: the adapters.
        projector: train the modules between vision tower and language model, too.

    Returns:
        peft's ``PeftModel`` around it. What is trained is in single precision.

    Raises:
        MissingExtra: ``peft`` is not installed.
        InvalidSetting: there are no such layers, or there is no projector.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("training with LoRA", "train") from error
    language = language_model_name(module)
    heads = (module.get_output_embeddings(), module.get_submodule(language).get_output_embeddings())  # type: ignore[operator]
    layers = {
        name.rpartition(".")[2]
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and name.startswith(f"{language}.") and all(part is not head for head in heads)
    }
    unknown = [name for name in lora.targets or () if name not in layers]
    if unknown or not layers:
        known = f"has {', '.join(sorted(layers))}" if layers else "has no linear layers"
        raise InvalidSetting(f"lora.targets: no layer {', '.join(unknown)}; the language model {known}")
    projectors = projector_names(module) if projector else []
    if projector and not projectors:
        raise InvalidSetting("train.projector: this model has none that is known here; leave it out")
    chosen = "|".join(map(re.escape, sorted(lora.targets or layers)))
    adapters = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"{re.escape(language)}\..*\.({chosen})",
        modules_to_save=projectors or None,
    )
    with warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for what transformers 5.24 has renamed
        adapted = get_peft_model(module, adapters)
    for weight in trained_parameters(adapted).values():
        weight.data = weight.data.float()
    return adapted


def trained_parameters(adapted: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}


def recompute_activations(module: Any) -> None:
    """Enable gradient checkpointing (arXiv:1604.06174): layers store their input alone; less memory, more time."""
    renamed = getattr(module, "activation_checkpointing_enable", None)  # in transformers 5.24
    (renamed or module.gradient_checkpointing_enable)({"use_reentrant": False})


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the type in which a checkpoint's weights are stored, as its config states it."""
    config = read_json(folder / CONFIG)
    found = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"), None)
    return found if found in (torch.float16, torch.bfloat16) else torch.float32


def save_adapters(adapted: Any, name: str, folder: Path) -> None:
    """Write the adapters, and the projector if it was trained, as peft does.

    Args:
        adapted: peft's model.
        name: of the model to which they belong.
        folder: destination.
    """
    adapted.peft_config["default"].base_model_name_or_path = name
    with files.atomic_folder(folder, replace=True) as whole, quiet_transformers():
        adapted.save_pretrained(whole, save_embedding_layers=False)


def save_merged(adapted: Any, config: VlmConfig, source: Path, folder: Path) -> None:
    """Merge the adapters into their matrices, and write a checkpoint as transformers does.

    Its weights have the type of the original checkpoint; its tokenizer, processor and chat template are copies.

    Args:
        adapted: peft's model, which can't be trained any more afterwards.
        config: of the training.
        source: the folder of the original checkpoint.
        folder: destination.

    Raises:
        ModelError: transformers can't write it.
    """
    with warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore")  # of peft, about tied weights that no adapter touches
        module = adapted.to("cpu", torch.float32).merge_and_unload()
    module = module.to(stored_dtype(source)).eval()
    with files.atomic_folder(folder, replace=True) as whole:
        try:
            with quiet_transformers():
                module.save_pretrained(whole)
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{folder}: transformers can't write this model ({error})") from error
        for file in source.iterdir():
            if file.suffix in PROCESSOR_FILES and file.name not in REWRITTEN and ".index." not in file.name:
                shutil.copyfile(file, whole / file.name)
        if (source / QFORMER_TOKENIZER).is_dir():
            shutil.copytree(source / QFORMER_TOKENIZER, whole / QFORMER_TOKENIZER)
        (whole / "README.md").write_text(_card(config), "utf-8")


def _card(config: VlmConfig) -> str:
    model, lora, train = config.model, config.lora, config.train
    trained = "adapters of its language model" + (", and its projector" if train.projector else "")
    licence = f"license: {model.licence}\n" if model.licence else ""
    base = Path(model.from_pretrained).name if Path(model.from_pretrained).is_dir() else model.from_pretrained
    return f"""\
---
{licence}pipeline_tag: image-text-to-text
---

# {model.name or "A vision-language model"}

{base}, fine-tuned with LoRA (rank {lora.rank}, alpha {lora.alpha}): {trained}. The adapters are merged, so it opens as
the original does.

| | |
|---|---|
| licence | {model.licence or "not recorded; that of the weights it was made from"} |

```python
from beholder import VisionLanguageModel

model = VisionLanguageModel.from_pretrained("this folder")
model.caption("photo.jpg")
```

It writes what its training data say of such pictures, prejudices included. Judge the model on pictures of your own
before you rely on it.
"""
