"""VisionLanguageModel: captions, answers and conversations about pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from beholder.errors import InvalidSetting, ModelError
from beholder.runtime.decoding import DecodingSettings
from beholder.runtime.precision import Precision, check_precision
from beholder.tasks.bridge_model import BridgeModel
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.conversation import Conversation, DecodedConversation
from beholder.tasks.inputs import checked_batch_size, text_list
from beholder.tasks.origin import Origin, Reloadable
from beholder.tasks.pictures import FailedPicture, Picture, Pictures, image_list, is_one_image
from beholder.tasks.remote_endpoint import RemoteEndpoint, is_address
from beholder.tasks.vision_language_backend import DecodingBackend, VisionLanguageBackend
from beholder.tasks.vision_language_results import Answer, CaptionedPicture

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from beholder.models.bridge import Bridge
    from beholder.pictures.transform import Preprocessing
    from beholder.runtime.compiled_smolvlm import CompiledSmolVLM
    from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
    from beholder.runtime.continuous_batching import CacheDemand
    from beholder.runtime.decoding import Decoding, Language
    from beholder.runtime.vision_front_end import VisionFrontEnd
    from beholder.tasks.attention_maps import AttentionMaps
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.text_codec import TextCodec
    from beholder.weights.image_text_to_text import LoadedImageTextToText
    from beholder.weights.loaded import LoadedVisionLanguage
    from beholder.weights.smolvlm import LoadedSmolVLM


class VisionLanguageModel(Reloadable):
    """A model that generates text about pictures.

    Created by `from_pretrained`. Behind it stands a model with a bridge (``mini``, BLIP-2, those trained here), a
    SmolVLM2, or any other vision-language model, run by transformers or by a server.

    Args:
        loaded: the networks with everything that they need, or the address of a server.
        device: where to run, such as ``"cpu"`` or ``"cuda"``; by default the fastest available. A compiled model runs
            on the CPU.
        precision: ``"exact"`` computes in single precision; ``"fast"`` gives soft prompts and logits at a cosine of at
            least 0.9999 to those, ``"fastest"`` of at least 0.999. Words may change where two are about equally likely.
            A model that is not compiled computes in bfloat16 for both, where that is faster.
        reranker: a dual encoder for `match` and for ranking candidates, for a model without a matching head.

    Attributes:
        backend: the model itself.
    """

    def __init__(
        self,
        loaded: LoadedVisionLanguage
        | CompiledVisionLanguageModel
        | LoadedImageTextToText
        | LoadedSmolVLM
        | CompiledSmolVLM
        | RemoteEndpoint,
        device: str | None = None,
        precision: Precision = "exact",
        reranker: str = "",
    ):
        from beholder.runtime.compiled_smolvlm import CompiledSmolVLM
        from beholder.weights.image_text_to_text import LoadedImageTextToText
        from beholder.weights.smolvlm import LoadedSmolVLM

        self.loaded = loaded
        self.precision = check_precision(precision)
        self.backend: VisionLanguageBackend
        if isinstance(loaded, LoadedImageTextToText):
            from beholder.tasks.image_text_to_text_model import ImageTextToTextModel
            from beholder.tasks.transformers_conversation import TransformersConversation
            from beholder.tasks.transformers_generation import TransformersGenerator

            generator = TransformersGenerator(loaded, device, precision)
            self.backend = ImageTextToTextModel(generator, TransformersConversation, precision, reranker)
        elif isinstance(loaded, LoadedSmolVLM | CompiledSmolVLM):
            from beholder.tasks.smolvlm_generation import SmolVLMGenerator
            from beholder.tasks.smolvlm_model import SmolVLMModel

            self.backend = SmolVLMModel(SmolVLMGenerator(loaded, device, precision), precision, reranker)
        elif isinstance(loaded, RemoteEndpoint):
            from beholder.tasks.remote_model import RemoteModel

            self.backend = RemoteModel(loaded)
        elif reranker:
            raise InvalidSetting(f"{loaded.name}: a reranker is for models without a bridge")
        else:
            self.backend = BridgeModel(loaded, device, precision)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        revision: str | None = None,
        allow_pickle: bool = True,
        precision: Precision = "exact",
        reranker: str = "",
    ) -> VisionLanguageModel:
        """Load ``"mini"``, a folder, or a hub id such as ``"Salesforce/blip2-opt-2.7b"``.

        The arguments and errors are those of `DualEncoder.from_pretrained`. A model that was compiled (`compile`) is
        loaded in its compiled form, and ``"mini"`` is compiled on first use. If that fails, a warning says why and the
        model runs in torch. Vision-language models without a bridge, such as ``"Qwen/Qwen3-VL-2B-Instruct"``, are run
        by transformers, except for SmolVLM2; code from the hub is never run. ``reranker`` names a dual encoder for
        their `match`, such as ``"siglip2"``. An address, such as ``"http://127.0.0.1:11434/v1#qwen3-vl:8b"``, is that
        of a server with the OpenAI API; its key is read from the environment variable BEHOLDER_API_KEY.
        """
        from beholder.runtime.device import has_accelerator
        from beholder.runtime.engine import available
        from beholder.weights.load import load_any_vision_language

        check_precision(precision)
        origin = Origin(
            name, device=device, revision=revision, allow_pickle=allow_pickle, precision=precision, reranker=reranker
        )
        if is_address(name):
            return cls(RemoteEndpoint.parse(str(name)), precision=precision)._loaded_from(origin)
        if device == "cpu" or (device is None and not has_accelerator()):
            compiled = _find_compiled(name)
            if compiled is not None:
                return cls(compiled, precision=precision, reranker=reranker)._loaded_from(origin)
            if name == "mini" and available():
                try:
                    return cls.compile(name, precision=precision)
                except (ModelError, OSError) as error:  # such as a full disk
                    warnings.warn(f"mini could not be compiled, so it is slower: {error}", stacklevel=2)
        loaded = load_any_vision_language(name, revision=revision, allow_pickle=allow_pickle, stored_dtype=True)
        return cls(loaded, device, precision, reranker)._loaded_from(origin)

    @staticmethod
    def compile(name: str | Path, *, allow_pickle: bool = True, precision: Precision = "exact") -> VisionLanguageModel:
        """Compile ``"mini"`` or a model in a folder for this processor, once; `from_pretrained` then loads that.

        Soft prompts and logits stay the same up to the order of summation.

        Raises:
            ModelError: OpenVINO is not installed, or the model can't be compiled, or the compiled model would generate
                other text.
        """
        from beholder.runtime.compiled_smolvlm import COMPILED_SMOLVLM
        from beholder.runtime.compiled_vision_language import COMPILED_VISION_LANGUAGE
        from beholder.weights.load import load_any_vision_language
        from beholder.weights.loaded import LoadedVisionLanguage
        from beholder.weights.smolvlm import LoadedSmolVLM

        origin = Origin(name, device="cpu", allow_pickle=allow_pickle, precision=precision)
        compiled = _find_compiled(name)
        if compiled is None:
            loaded = load_any_vision_language(name, allow_pickle=allow_pickle)
            if isinstance(loaded, LoadedSmolVLM):
                compiled = COMPILED_SMOLVLM.compile(loaded, name)
            elif isinstance(loaded, LoadedVisionLanguage):
                compiled = COMPILED_VISION_LANGUAGE.compile(loaded, name)
            else:
                raise ModelError(
                    f"{name}: only models with a bridge and SmolVLM are compiled; this one is run by transformers"
                )
        return VisionLanguageModel(compiled, precision=precision)._loaded_from(origin)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` loads again bit for bit, with a model card.

        Raises:
            InvalidSetting: the weights were rounded when the model was loaded, or the folder holds something other
                than a model.
            ModelError: it has no bridge.
            WriteFailed: the folder can't be written.
        """
        self.with_bridge("saving").save_pretrained(folder)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How pictures are made ready for the network; None for a model that takes them as they are."""
        return self.backend.preprocessing

    @property
    def shorter_side(self) -> int | None:
        """The shorter side of a picture as the network sees it, in pixels; None if it may see all of them."""
        return None if self.preprocessing is None else self.preprocessing.shorter_side

    @property
    def decodes_here(self) -> bool:
        """Whether its texts are decoded here, token by token, so that those of several requests can go together."""
        return isinstance(self.backend, DecodingBackend)

    def _decoding_backend(self) -> DecodingBackend:
        if not isinstance(self.backend, DecodingBackend):
            raise ModelError(f"{self.backend.name}: the texts of this model are not decoded here")
        return self.backend

    def with_bridge(self, what: str) -> BridgeModel:
        """Return the model with a bridge that has what was asked for."""
        if not isinstance(self.backend, BridgeModel):
            raise ModelError(f"{self.backend.name}: this model has no bridge (Q-Former), which {what} needs")
        return self.backend

    @property
    def device(self) -> torch.device:
        """Where a model with a bridge runs."""
        return self.with_bridge("its device").device

    @property
    def image(self) -> nn.Module:
        """The vision tower of a model with a bridge, in torch."""
        return self.with_bridge("its vision tower").image

    @property
    def bridge(self) -> Bridge:
        """The bridge, in torch."""
        return self.with_bridge("its bridge").bridge

    @property
    def front_end(self) -> VisionFrontEnd:
        """Vision tower and bridge, on the device."""
        return self.with_bridge("its front end").front_end

    @property
    def codec(self) -> TextCodec:
        """Text to the language model's tokens and back."""
        return self.with_bridge("its text codec").codec

    @property
    def language(self) -> Language:
        """The language model of a model with a bridge, or of a SmolVLM.

        Raises:
            ModelError: the model was trained in stage 1 only, so it has none; or it is run by transformers or a server.
        """
        return self._decoding_backend().language

    @property
    def reranker(self) -> DualEncoder:
        """The dual encoder that scores how well a text matches, for a model that has one beside its bridge."""
        return self.with_bridge("its reranker").reranker

    def soft_prompts(self, image: Picture, *, exact: bool = False, allow_urls: bool = False) -> Tensor:
        """Return the soft prompts of one picture: (1, Q, D)."""
        return self.with_bridge("soft prompts").soft_prompts(image, exact=exact, allow_urls=allow_urls)

    def stream_captions(
        self,
        images: Iterable[Picture],
        prompt: str | None = None,
        *,
        options: CaptionOptions | None = None,
        **settings: Any,
    ) -> Iterator[CaptionedPicture | FailedPicture]:
        """Caption pictures in batches; one that can't be used is returned as a `FailedPicture`, in its place.

        Args:
            images: paths, bytes, PIL images, arrays (H, W, 3); addresses with ``allow_urls``.
            prompt: as in `CaptionOptions`.
            options: all settings; by default those of `CaptionOptions`.
            **settings: single fields of `CaptionOptions`; they replace those of ``options``.

        Raises:
            InvalidSetting: a setting is out of range, or the prompt leaves no room.
            ModelError: several candidates of a model that can't tell how well a caption matches.
        """
        if prompt is not None:
            settings["prompt"] = prompt
        return self.backend.stream_captions(images, replace(options or CaptionOptions(), **settings))

    def prepare_captions(
        self, images: Sequence[Picture], options: CaptionOptions, on_part: Callable[[], None] = lambda: None
    ) -> tuple[CacheDemand, Callable[[], Decoding[list[CaptionedPicture]]]]:
        """Prepare captions that are decoded together with other texts.

        Args:
            images: pictures, as preprocessed or decoded for the model.
            options: how they are captioned.
            on_part: called before each part of pictures that are encoded in parts; an exception aborts.

        Returns:
            The room that they need in the KV cache, and a function that reads their prompts and returns the steps.

        Raises:
            InvalidSetting: a setting is out of range, or the prompt leaves no room.
            ModelError: the model's texts are not decoded here.
        """
        return self._decoding_backend().prepare_captions(images, options, on_part)

    def prepare_chat(self, image: Picture, settings: DecodingSettings) -> DecodedConversation:
        """Start a conversation whose answers are decoded together with other texts; the picture is encoded later.

        Raises:
            ModelError: the model's texts are not decoded here.
        """
        return self._decoding_backend().prepare_chat(image, settings)

    @overload
    def caption(self, images: Picture, prompt: str | None = ..., max_new_tokens: int = ..., **settings: Any) -> str: ...
    @overload
    def caption(  # type: ignore[overload-cannot-match, unused-ignore]
        self, images: Iterable[Picture], prompt: str | None = ..., max_new_tokens: int = ..., **settings: Any
    ) -> list[str]: ...
    def caption(
        self, images: Iterable[Picture] | Picture, prompt: str | None = None, max_new_tokens: int = 20, **settings: Any
    ) -> str | list[str]:
        """Return the caption of a picture, or the captions of several; ``settings`` are fields of `CaptionOptions`.

        Raises:
            PictureError: a picture can't be used (`stream_captions` continues with the rest).
        """
        captions = []
        for picture in self.stream_captions(image_list(images), prompt, max_new_tokens=max_new_tokens, **settings):
            if picture.error is not None:
                raise picture.error
            captions.append(picture.caption)
        return captions[0] if is_one_image(images) else captions

    def answer(self, image: Pictures, question: str, **options: Any) -> str:
        """Return the answer to a question about a picture; arguments and errors are those of `ask`."""
        return self.ask(image, question, **options).text

    def ask(
        self,
        image: Pictures,
        question: str,
        *,
        choices: Sequence[str] = (),
        max_new_tokens: int = 10,
        num_beams: int = 3,
        exact: bool = False,
        allow_urls: bool = False,
    ) -> Answer:
        """Return a short answer and its confidence.

        Args:
            image: one picture, or a list of them for a model without a bridge, which sees them all.
            question: the question.
            choices: rank these answers by their likelihood instead of generating one.
            max_new_tokens: maximum length of the answer, in tokens.
            num_beams: beams of the beam search; 1 is greedy decoding.
            exact: decode a large JPEG at full resolution.
            allow_urls: fetch an http(s) address.

        Raises:
            InvalidSetting: an empty or too long question, an empty choice, or more pictures than the model reads.
            PictureError: the picture can't be used.
        """
        choices = text_list(choices, "choices")
        if any(not choice.strip() for choice in choices):
            raise InvalidSetting("a choice is empty")
        settings = DecodingSettings(max_new_tokens, num_beams)
        return self.backend.ask(image, question, choices, settings, exact=exact, allow_urls=allow_urls)

    def answers(
        self,
        questions: Iterable[tuple[Pictures, str]],
        *,
        max_new_tokens: int = 10,
        num_beams: int = 1,
        batch_size: int = 32,
    ) -> list[str]:
        """Return short answers to many (picture, question) pairs.

        A picture that is the same object as that of the question before it is encoded once. Errors as for `ask`.
        """

        def checked() -> Iterator[tuple[Pictures, str]]:
            for pair in questions:
                if not isinstance(pair, tuple | list) or len(pair) != 2:
                    raise InvalidSetting(
                        f"questions must be pairs of a picture and a question, not {type(pair).__name__}"
                    )
                yield pair[0], pair[1]

        settings = DecodingSettings(max_new_tokens, num_beams)
        return self.backend.answers(checked(), settings, checked_batch_size(batch_size))

    def chat(
        self,
        image: Pictures,
        *,
        max_new_tokens: int = 40,
        top_p: float | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        allow_urls: bool = False,
    ) -> Conversation:
        """Start a conversation about a picture, which is encoded once; ``top_p`` samples the answers.

        A model without a bridge may be given a list of pictures. Errors as for `ask`.
        """
        settings = DecodingSettings(max_new_tokens, top_p=top_p, temperature=temperature, seed=seed)
        return self.backend.chat(image, settings, allow_urls=allow_urls)

    def match(
        self, image: Picture, texts: Sequence[str], *, exact: bool = False, allow_urls: bool = False
    ) -> np.ndarray:
        """Return the probability (n,) that each text matches the picture.

        It comes from the bridge's image-text matching head, or from the model's reranker.

        Raises:
            ModelError: the model has neither.
        """
        return self.backend.match(image, text_list(texts), exact=exact, allow_urls=allow_urls)

    def attention_maps(self, image: Picture, text: str | None = None, prompt: str | None = None) -> AttentionMaps:
        """Return where the bridge attends to in the picture for each word of a caption.

        Args:
            image: one picture.
            text: the caption; by default the model's own.
            prompt: the start of the caption; by default the model's own.

        Raises:
            ModelError: the model has no bridge.
        """
        return self.with_bridge("an attention map").attention_maps(image, text, prompt)


def _find_compiled(name: str | Path) -> CompiledVisionLanguageModel | CompiledSmolVLM | None:
    from beholder.runtime.compiled_smolvlm import COMPILED_SMOLVLM
    from beholder.runtime.compiled_vision_language import COMPILED_VISION_LANGUAGE

    compiled = COMPILED_VISION_LANGUAGE.find(name)
    return compiled if compiled is not None or name == "mini" else COMPILED_SMOLVLM.find(name)
