"""Vision-language models that transformers runs: everything that its AutoModelForImageTextToText opens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.errors import InvalidSetting, MissingExtra, ModelError, WeightsMismatch
from beholder.weights.huggingface import CONFIG, read_json
from beholder.weights.quiet_transformers import quiet_transformers

PROCESSOR_CONFIGS = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class PlainPrompts:
    """The prompts of a family that has no chat template.

    Attributes:
        caption: asks for a caption.
        question: template of a question, which replaces ``{}``; empty for a family that answers none.
        continues: whether the model continues its prompt, so that a caption can be started for it.
        answer_token_type: the entry of ``token_type_ids`` for a token of an answer.
    """

    caption: str
    question: str = ""
    continues: bool = False
    answer_token_type: int = 0


# By model type, as the families were trained: arXiv:2201.12086, section 4.2; arXiv:2305.06500, appendix E;
# arXiv:2407.07726, section 3.2.5; arXiv:2311.06242, table 13.
PLAIN_PROMPTS = {
    "blip": PlainPrompts("", continues=True),
    "blip-2": PlainPrompts("", "Question: {} Answer:", continues=True),
    "instructblip": PlainPrompts("A short image caption:", "Question: {} Short answer:", continues=True),
    "paligemma": PlainPrompts("caption en", "answer en {}", answer_token_type=1),
    "florence2": PlainPrompts("<CAPTION>"),
}


@dataclass(frozen=True)
class LoadedImageTextToText:
    """A vision-language model of transformers with its processor.

    Attributes:
        module: the network, such as ``LlavaOnevisionForConditionalGeneration``.
        processor: makes pictures and texts ready for it.
        model_type: the family.
        plain_prompts: how it is prompted if it has no chat template.
        name: the model's name.
    """

    module: Any
    processor: Any
    model_type: str
    plain_prompts: PlainPrompts | None = None
    name: str = ""


def opens(model_type: object) -> bool:
    """Return whether transformers has a network for the family that makes text from a picture and a text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


@quiet_transformers()
def load(folder: Path, name: str, allow_pickle: bool) -> LoadedImageTextToText:
    """Load a vision-language model and its processor onto the CPU, in single precision.

    No code of the checkpoint is run.

    Raises:
        ModelError: transformers can't read it, or it has neither a chat template nor known prompts.
        WeightsMismatch: a tensor is missing or of another shape.
        MissingExtra: its processor needs a package that is not installed.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from beholder.models.language_model import copy_head_inputs

    config = read_json(folder / CONFIG)
    model_type = str(config.get("model_type"))
    options: dict[str, Any] = {"use_safetensors": True} if not allow_pickle else {}
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(f"transformers can't read this {model_type} ({_first_line(error)})") from error
    module, report = loaded
    wrong = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])})
    if wrong:
        raise WeightsMismatch(f"tensors are missing or do not fit the config: {', '.join(wrong[:5])}")
    processor = read_processor(folder, model_type)
    if chat_template(processor) is None and model_type not in PLAIN_PROMPTS:
        raise ModelError(
            f"this {model_type} has no chat template (chat_template.jinja), so it can't be asked anything; take the "
            "instruction-tuned checkpoint of the family, or copy its chat template into the folder"
        )
    plain = PLAIN_PROMPTS.get(model_type) if chat_template(processor) is None else None
    copy_head_inputs(module)
    return LoadedImageTextToText(module.requires_grad_(False).eval(), processor, model_type, plain, name)


def chat_template(processor: Any) -> str | None:
    """Return the chat template of a processor or of its tokenizer; None if there is none."""
    found = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if isinstance(found, dict):
        found = found.get("default")
    return found


def read_processor(folder: Path, model_type: str) -> Any:
    """Load the processor of a checkpoint. Without torchvision, videos can't be read, and Pillow resizes pictures.

    Raises:
        ModelError: it is missing or can't be read.
        MissingExtra: it needs a package that is not installed.
    """
    try:
        processor = _processor_class(folder, model_type).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except ImportError as error:
        if "num2words" in str(error):
            raise MissingExtra(f"the processor of {model_type}", "vlm") from error
        raise ModelError(f"the processor of this {model_type} can't be loaded ({_first_line(error)})") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, InvalidSetting) as error:
        raise ModelError(f"the processor of this {model_type} can't be read ({_first_line(error)})") from error
    for part in ("tokenizer", "image_processor"):
        if not hasattr(processor, part):
            raise ModelError(f"the processor of this {model_type} has no {part.replace('_', ' ')}")
    return processor


def _processor_class(folder: Path, model_type: str) -> Any:
    """Return the class of a checkpoint's processor, one that does without videos where torchvision is missing."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name
    from transformers.utils import is_torchvision_available

    configs = [read_json(folder / file) for file in PROCESSOR_CONFIGS if (folder / file).is_file()]
    named = next((config["processor_class"] for config in configs if config.get("processor_class")), None)
    named = named or PROCESSOR_MAPPING_NAMES.get(model_type)
    found: Any = processor_class_from_name(named) if named else None
    if found is None:
        raise ModelError(f"transformers has no processor for this {model_type}")
    if is_torchvision_available() or "video_processor" not in found.get_attributes():
        return found

    class WithoutVideos(found):
        """The processor with None in place of its video processor."""

        video_processor_class = "WithoutVideos"

        @classmethod
        def get_attributes(cls) -> list[str]:
            return list(found.get_attributes())

        @staticmethod
        def get_possibly_dynamic_module(module_name: str) -> Any:
            if module_name == "WithoutVideos":
                return _NoVideoProcessor
            return found.get_possibly_dynamic_module(module_name)

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor" and argument is None:
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

    WithoutVideos.__name__ = found.__name__
    return WithoutVideos


class _NoVideoProcessor:
    @staticmethod
    def from_pretrained(*arguments: Any, **options: Any) -> None:
        """Return None, which stands for a video processor."""


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
