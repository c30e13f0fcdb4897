"""Frozen language models: loaded from folders of transformers, GGUF and larger checkpoints, and saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from beholder.errors import ModelError, WeightsMismatch
from beholder.models.language_model import LanguageModel, language_model
from beholder.weights.quiet_transformers import quiet_transformers


@quiet_transformers()
def read_language_model(folder: Path, gguf: str | None = None) -> tuple[LanguageModel, tokenizers.Tokenizer]:
    """Load a causal or encoder-decoder model of transformers in single precision, frozen, and its tokenizer.

    Args:
        folder: a checkpoint of transformers, or a folder with a GGUF file.
        gguf: the name of that file.

    Raises:
        ModelError: there is no such model, or it can't be read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    options: dict[str, Any] = {"local_files_only": True, **({"gguf_file": gguf} if gguf else {})}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        module = loader.from_pretrained(folder, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: holds no language model that transformers can read ({error})") from error
    if gguf:  # dequantized, it is a model like any other, which can be saved
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        generation, tensors = module.generation_config, module.state_dict()
        module = _with_tensors(type(module), config, tensors, torch.float32)
        module.generation_config = generation
    return language_model(module), read_language_tokenizer(folder, gguf)


def write_language_model(language: LanguageModel, language_tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """Write config, weights and tokenizer as transformers does."""
    from safetensors.torch import save_model

    folder.mkdir()
    module = language.module
    module.config.save_pretrained(folder)
    module.generation_config.save_pretrained(folder)
    save_model(module, str(folder / "model.safetensors"), metadata={"format": "pt"})
    language_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n', "utf-8")


@quiet_transformers()
def language_model_from_tensors(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path, *, stored_dtype: bool = False
) -> LanguageModel:
    """Build the language model of a checkpoint from its tensors, in single precision.

    Args:
        config: of the language model.
        tensors: by the names of transformers.
        folder: of the checkpoint.
        stored_dtype: keep the tensors as they are, if all have one dtype and there are no buffers, which transformers
            would compute in this dtype.

    Raises:
        ModelError: transformers does not know it.
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

    values = dict(config)
    kind = values.pop("model_type", "opt")
    try:
        settings = AutoConfig.for_model(kind, **values)
    except ValueError as error:
        raise ModelError(f"transformers knows no language model of the kind {kind!r} ({error})") from error
    maker = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        empty = maker.from_config(settings)
    dtypes = {tensor.dtype for tensor in tensors.values()}
    uniform = len(dtypes) == 1 and dtypes <= {torch.float16, torch.bfloat16} and not list(empty.buffers())
    dtype = dtypes.pop() if stored_dtype and uniform else torch.float32
    module = _with_tensors(type(empty), settings, tensors, dtype)
    module.config.dtype = torch.float32  # that it is saved in
    if (folder / "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder)
    return language_model(module)


@quiet_transformers()
def read_language_tokenizer(folder: Path, gguf: str | None = None) -> tokenizers.Tokenizer:
    """Load the language model's tokenizer; arguments and errors are those of ``read_language_model``.

    User text never becomes a control token: ``<|im_end|>`` in a question is encoded as ordinary tokens.
    """
    from transformers import AutoTokenizer

    try:
        language_tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, **({"gguf_file": gguf} if gguf else {})
        ).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: the language model's tokenizer cannot be read ({error})") from error
    language_tokenizer.encode_special_tokens = True
    return language_tokenizer


def _with_tensors(kind: Any, config: Any, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    """Return a model of transformers with these tensors, converted to a dtype."""
    module, report = kind.from_pretrained(
        None, config=config, state_dict=dict(tensors), dtype=dtype, output_loading_info=True
    )
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"], *map(str, report["mismatched_keys"])})
    if wrong:
        raise WeightsMismatch(f"the language model's tensors do not fit its config: {', '.join(wrong[:5])}")
    return module
