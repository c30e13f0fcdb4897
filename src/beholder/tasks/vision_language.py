"""VisionLanguageModel: captions, answers and conversations about pictures."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from beholder.errors import InvalidSetting, ModelError
from beholder.files import reported
from beholder.pictures.read import display_name
from beholder.runtime.continuous_batching import CacheDemand
from beholder.runtime.decoding import (
    Decoding,
    DecodingSettings,
    GeneratedText,
    Language,
    generate,
    run,
    sequence_log_probs,
    start_candidates,
    start_decoding,
)
from beholder.runtime.pipeline import batches
from beholder.runtime.precision import Precision, check_precision
from beholder.tasks.attention_maps import AttentionMaps, compute_attention_maps
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.conversation import Conversation
from beholder.tasks.inputs import checked_batch_size, text_list
from beholder.tasks.origin import Origin, Reloadable
from beholder.tasks.pictures import (
    FailedPicture,
    Picture,
    PreprocessedImage,
    image_list,
    is_one_image,
    preprocess_batches,
    preprocess_image,
)
from beholder.tasks.text_codec import TextCodec, append_tokens

if TYPE_CHECKING:
    from torch import Tensor, nn

    from beholder.models.bridge import Bridge
    from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
    from beholder.runtime.vision_front_end import VisionFrontEnd
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.weights.loaded import LoadedVisionLanguage

WEAK_CAPTION_THRESHOLD = 0.5  # matching probability below which a person should check a caption


@dataclass(frozen=True)
class CaptionedPicture:
    """A captioned picture of a stream.

    Attributes:
        index: position in the call.
        name: the picture's path, address, or "picture N".
        caption: the best candidate.
        score: probability that the caption matches (`VisionLanguageModel.match`); None for a single candidate.
        candidates: all candidates with their scores, best first; empty for a single candidate.
    """

    index: int
    name: str
    caption: str
    score: float | None = None
    candidates: tuple[tuple[str, float], ...] = ()
    error: None = field(default=None, init=False, repr=False)

    @property
    def weak(self) -> bool:
        """Whether a person should check this caption."""
        return self.score is not None and self.score < WEAK_CAPTION_THRESHOLD


@dataclass(frozen=True)
class Answer:
    """An answer, its probability according to the model, and the ranked choices if there were any.

    To a question in a script that the language model can't read, it is a sentence that says so, with probability 0.
    """

    text: str
    confidence: float
    choices: tuple[tuple[str, float], ...] = ()


class VisionLanguageModel(Reloadable):
    """A vision tower, a bridge (Q-Former) and a language model.

    Created by `from_pretrained`.

    Args:
        loaded: the networks with preprocessing, tokenizers and prompts, or their compiled form.
        device: where to run, such as ``"cpu"`` or ``"cuda"``; by default the fastest available. A compiled model runs
            on the CPU.
        precision: ``"exact"`` computes in single precision; ``"fast"`` gives soft prompts and logits at a cosine of at
            least 0.9999 to those, ``"fastest"`` of at least 0.999. Words may change where two are about equally likely.
            A model that is not compiled computes in bfloat16 for both, where that is faster.
    """

    def __init__(
        self,
        loaded: LoadedVisionLanguage | CompiledVisionLanguageModel,
        device: str | None = None,
        precision: Precision = "exact",
    ):
        import torch

        from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
        from beholder.runtime.device import bfloat16_is_faster, select_device
        from beholder.runtime.vision_front_end import TorchFrontEnd

        self.loaded = loaded
        self.precision = check_precision(precision)
        self.front_end: VisionFrontEnd
        self._language: Language | None
        if isinstance(loaded, CompiledVisionLanguageModel):
            from beholder.runtime.execution_plan import execution_plan

            self.device = torch.device("cpu")
            plan = execution_plan(loaded, precision)
            self.front_end, self._language = plan.front_end(loaded), plan.load_language_model(loaded)
            if self._language is None and loaded.language_tokenizer is not None:
                self._language = loaded.loaded.language
        else:
            self.device = select_device(device)
            self.front_end = TorchFrontEnd(loaded.image, loaded.bridge, self.device, precision)
            if loaded.language is not None:
                loaded.language.to(self.device)
                if precision != "exact" and bfloat16_is_faster(self.device):
                    loaded.language.module.to(torch.bfloat16)
            self._language = loaded.language
        self.codec = TextCodec(
            loaded.language_tokenizer,
            loaded.prompts,
            self._language.context_length if self._language is not None else 0,
            loaded.soft_prompts,
            loaded.name,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        revision: str | None = None,
        allow_pickle: bool = True,
        precision: Precision = "exact",
    ) -> VisionLanguageModel:
        """Load ``"mini"``, a folder, or a hub id such as ``"Salesforce/blip2-opt-2.7b"``.

        The arguments and errors are those of `DualEncoder.from_pretrained`. A model that was compiled (`compile`) is
        loaded in its compiled form, and ``"mini"`` is compiled on first use. If that fails, a warning says why and the
        model runs in torch.
        """
        from beholder.runtime.compiled_vision_language import COMPILED_VISION_LANGUAGE
        from beholder.runtime.device import has_accelerator
        from beholder.runtime.engine import available
        from beholder.weights.load import load_vision_language

        check_precision(precision)
        origin = Origin(name, device=device, revision=revision, allow_pickle=allow_pickle, precision=precision)
        if device == "cpu" or (device is None and not has_accelerator()):
            compiled = COMPILED_VISION_LANGUAGE.find(name)
            if compiled is not None:
                return cls(compiled, precision=precision)._loaded_from(origin)
            if name == "mini" and available():
                try:
                    return cls.compile(name, precision=precision)
                except (ModelError, OSError) as error:  # such as a full disk
                    warnings.warn(f"mini could not be compiled, so it is slower: {error}", stacklevel=2)
        loaded = load_vision_language(name, revision=revision, allow_pickle=allow_pickle)
        return cls(loaded, device, precision)._loaded_from(origin)

    @staticmethod
    def compile(name: str | Path, *, allow_pickle: bool = True, precision: Precision = "exact") -> VisionLanguageModel:
        """Compile ``"mini"`` or a model in a folder for this processor, once; `from_pretrained` then loads that.

        Soft prompts and logits stay the same up to the order of summation.

        Raises:
            ModelError: OpenVINO is not installed, or the model can't be compiled, or the compiled model would generate
                other text.
        """
        from beholder.runtime.compiled_vision_language import COMPILED_VISION_LANGUAGE
        from beholder.weights.load import load_vision_language

        origin = Origin(name, device="cpu", allow_pickle=allow_pickle, precision=precision)
        compiled = COMPILED_VISION_LANGUAGE.find(name)
        if compiled is None:
            compiled = COMPILED_VISION_LANGUAGE.compile(load_vision_language(name, allow_pickle=allow_pickle), name)
        return VisionLanguageModel(compiled, precision=precision)._loaded_from(origin)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` loads again bit for bit, with a model card.

        Raises:
            InvalidSetting: the weights were rounded when the model was loaded, or the folder holds something other
                than a model.
            WriteFailed: the folder can't be written.
        """
        from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
        from beholder.weights.native_vision_language import save_vision_language

        if self.precision != "exact" and not isinstance(self.loaded, CompiledVisionLanguageModel):
            raise InvalidSetting(f"precision {self.precision!r} has rounded the weights; load it as 'exact' to save it")
        with reported(Path(folder)):
            save_vision_language(self._networks, Path(folder))

    @property
    def _networks(self) -> LoadedVisionLanguage:
        from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel

        return self.loaded.loaded if isinstance(self.loaded, CompiledVisionLanguageModel) else self.loaded

    @property
    def image(self) -> nn.Module:
        """The vision tower, in torch."""
        return self._networks.image

    @property
    def bridge(self) -> Bridge:
        """The bridge, in torch."""
        return self._networks.bridge

    @property
    def language(self) -> Language:
        """The language model.

        Raises:
            ModelError: the model was trained in stage 1 only, so it has none.
        """
        if self._language is None:
            raise ModelError(f"{self.loaded.name}: this model has no language model, so it can't generate text")
        return self._language

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
        options = replace(options or CaptionOptions(), **settings)
        return self._stream_captions(images, options, *self._caption_prompt(options))

    def _caption_prompt(self, options: CaptionOptions) -> tuple[list[int], int]:
        """Return the prompt's tokens and the number of candidates; errors as for `stream_captions`."""
        count = options.candidates(self.loaded.num_candidates)
        if count > 1:
            self._check_matching()
        prompt = self.loaded.prompts.caption if options.prompt is None else options.prompt
        return self.codec.encode_prompt(prompt, options.max_new_tokens), count

    def _stream_captions(
        self, images: Iterable[Picture], options: CaptionOptions, ids: list[int], count: int
    ) -> Iterator[CaptionedPicture | FailedPicture]:
        stream = preprocess_batches(
            images,
            self.loaded.preprocessing,
            batch_size=options.batch_size,
            exact=options.exact,
            allow_urls=options.allow_urls,
            limits=options.limits,
        )
        for batch in stream:
            captions: Iterator[Sequence[tuple[str, float | None]]] = iter(())
            if batch.pixels is not None:
                captions = iter(self._caption_batch(batch.pixels, options, ids, count))
            for index, name, error in batch.pictures:
                if error is not None:
                    yield FailedPicture(index, name, error)
                    continue
                ranked = next(captions)
                scored = tuple((text, score) for text, score in ranked if score is not None)
                yield CaptionedPicture(index, name, *ranked[0], scored)

    def caption_demand(self, images: int, options: CaptionOptions) -> CacheDemand:
        """Return the room in the KV cache for captions of so many pictures; errors as for `stream_captions`."""
        ids, count = self._caption_prompt(options)
        rows = count if options.top_p is not None else max(options.decoding().num_beams, count)
        return CacheDemand(images * rows, self.codec.soft_prompts + len(ids) + options.max_new_tokens)

    def start_captions(
        self, images: Sequence[PreprocessedImage], options: CaptionOptions
    ) -> Decoding[list[CaptionedPicture]]:
        """Read pictures; return the steps that caption them, to be decoded together with other texts."""
        ids, count = self._caption_prompt(options)

        def captioned(captions: Sequence[Sequence[tuple[str, float | None]]]) -> list[CaptionedPicture]:
            return [
                CaptionedPicture(
                    index,
                    f"picture {index + 1}",
                    *ranked[0],
                    tuple((text, score) for text, score in ranked if score is not None),
                )
                for index, ranked in enumerate(captions)
            ]

        pixels = np.stack([image.pixels for image in images])
        return self._start_caption_batch(pixels, options, ids, count).map(captioned)

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

    def answer(self, image: Picture, question: str, **options: Any) -> str:
        """Return the answer to a question about a picture; ``options`` are those of `ask`."""
        return self.ask(image, question, **options).text

    def ask(
        self,
        image: Picture,
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
            image: one picture.
            question: the question.
            choices: rank these answers by their likelihood instead of generating one.
            max_new_tokens: maximum length of the answer, in tokens.
            num_beams: beams of the beam search; 1 is greedy decoding.
            exact: decode a large JPEG at full resolution.
            allow_urls: fetch an http(s) address.

        Raises:
            InvalidSetting: an empty or too long question, or an empty choice.
            PictureError: the picture can't be used.
        """
        import torch

        ids = self.codec.encode_prompt(self.codec.question_prompt(question), max_new_tokens)
        choices = text_list(choices, "choices")
        if any(not choice.strip() for choice in choices):
            raise InvalidSetting("a choice is empty")
        if notice := self.loaded.prompts.language_notice(question):
            self._preprocess(image, exact, allow_urls)  # a picture that can't be used is still an error
            return Answer(notice, 0.0)
        embeddings = append_tokens(self.language, self.soft_prompts(image, exact=exact, allow_urls=allow_urls), ids)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=self.device)
        if choices:
            end = list(self.language.eos_token_ids[:1])
            with torch.inference_mode():
                logits, kv_cache = self.language.prefill(embeddings, mask)
            answers = [self.codec.encode(f" {choice.strip()}") + end for choice in choices]
            probabilities = sequence_log_probs(self.language, logits, kv_cache, answers).softmax(0).tolist()
            ranked = rank(choices, probabilities)
            return Answer(ranked[0][0], ranked[0][1], tuple(ranked))
        text = generate(self.language, embeddings, mask, DecodingSettings(max_new_tokens, num_beams))[0]
        length = len(text.ids) + (len(text.ids) < max_new_tokens)
        return Answer(self.codec.decode(text.ids).strip(" ."), float(np.exp(text.score * length)))

    def answers(
        self,
        questions: Iterable[tuple[Picture, str]],
        *,
        max_new_tokens: int = 10,
        num_beams: int = 1,
        batch_size: int = 32,
    ) -> list[str]:
        """Return short answers to many (picture, question) pairs.

        A picture that is the same object as that of the question before it is encoded once. Errors as for `ask`.
        """
        import torch

        answers: list[str] = []
        encoded: tuple[Picture, Tensor] | None = None
        for batch in batches(questions, checked_batch_size(batch_size)):
            rows, ids = [], []
            for pair in batch:
                if not isinstance(pair, tuple | list) or len(pair) != 2:
                    raise InvalidSetting(
                        f"questions must be pairs of a picture and a question, not {type(pair).__name__}"
                    )
                image, question = pair
                if encoded is None or image is not encoded[0]:
                    encoded = image, self.soft_prompts(image)
                rows.append(encoded[1])
                ids.append(self.codec.encode_prompt(self.codec.question_prompt(question), max_new_tokens))
            longest = max(map(len, ids))
            embeddings = torch.zeros(len(rows), rows[0].shape[1] + longest, rows[0].shape[2], device=self.device)
            mask = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=self.device)
            with torch.inference_mode():
                for row, (prompts, question_ids) in enumerate(zip(rows, ids, strict=True)):
                    padding = longest - len(question_ids)
                    embeddings[row, padding:] = append_tokens(self.language, prompts, question_ids)[0]
                    mask[row, padding:] = True
            texts = generate(self.language, embeddings, mask, DecodingSettings(max_new_tokens, num_beams))
            answers += [
                self.loaded.prompts.language_notice(question) or self.codec.decode(text.ids).strip(" .")
                for text, (_, question) in zip(texts, batch, strict=True)
            ]
        return answers

    def chat(
        self,
        image: Picture,
        *,
        max_new_tokens: int = 40,
        top_p: float | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        allow_urls: bool = False,
    ) -> Conversation:
        """Start a conversation about one picture, which is encoded once; ``top_p`` samples the answers."""
        settings = DecodingSettings(max_new_tokens, top_p=top_p, temperature=temperature, seed=seed)
        prompts = self.soft_prompts(image, allow_urls=allow_urls)
        return Conversation(self.language, self.codec, lambda: prompts, settings)

    def match(
        self, image: Picture, texts: Sequence[str], *, exact: bool = False, allow_urls: bool = False
    ) -> np.ndarray:
        """Return the probability (n,) that each text matches the picture.

        It comes from the bridge's image-text matching head, or from the model's reranker.

        Raises:
            ModelError: the model has neither.
        """
        texts = text_list(texts)
        self._check_matching()
        return self._match(self._preprocess(image, exact, allow_urls), None, [texts])[0]

    def soft_prompts(self, image: Picture, *, exact: bool = False, allow_urls: bool = False) -> Tensor:
        """Return the soft prompts of one picture: (1, Q, D)."""
        return self.front_end.prompts(self.front_end.tokens(self._preprocess(image, exact, allow_urls)))

    def attention_maps(self, image: Picture, text: str | None = None, prompt: str | None = None) -> AttentionMaps:
        """Return where the bridge attends to in the picture for each word of a caption.

        Args:
            image: one picture.
            text: the caption; by default the model's own.
            prompt: the start of the caption; by default the model's own.
        """
        from beholder.models.bridge import token_grid

        if text is None:
            text = self.loaded.prompts.uncapitalize(self.caption([image], prompt)[0])
        preprocessing = self.loaded.preprocessing
        return compute_attention_maps(
            self.bridge,
            self.language,
            self.codec,
            self.front_end.tokens(self._preprocess(image, False, False)),
            self.codec.encode_prompt(self.loaded.prompts.caption if prompt is None else prompt, 0),
            text,
            token_grid(self.image, preprocessing.height, preprocessing.width),
        )

    def _preprocess(self, image: Picture, exact: bool, allow_urls: bool) -> np.ndarray:
        """Return the pixels of one picture: (1, 3, H, W)."""
        name = display_name(image, 0)
        one = preprocess_image(image, self.loaded.preprocessing, name=name, exact=exact, allow_urls=allow_urls)
        return one.pixels[None]

    def _caption_batch(
        self, pixels: np.ndarray, options: CaptionOptions, ids: list[int], count: int
    ) -> Sequence[Sequence[tuple[str, float | None]]]:
        """Return ``count`` candidates for each of (B, 3, H, W) pictures, best first; with scores if there are several.

        ``ids`` are the prompt's tokens.
        """
        return run(self.language, self._start_caption_batch(pixels, options, ids, count), options.on_token)

    def _start_caption_batch(
        self, pixels: np.ndarray, options: CaptionOptions, ids: list[int], count: int
    ) -> Decoding[Sequence[Sequence[tuple[str, float | None]]]]:
        import torch

        tokens = self.front_end.tokens(pixels)
        embeddings = append_tokens(self.language, self.front_end.prompts(tokens), ids)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=self.device)
        settings = options.decoding()
        if count == 1:
            decoding = start_decoding(self.language, embeddings, mask, settings)
            return decoding.map(lambda texts: [[(self.codec.decode(text.ids), None)] for text in texts])

        def ranked(generated: list[list[GeneratedText]]) -> Sequence[Sequence[tuple[str, float | None]]]:
            candidates = [list(dict.fromkeys(self.codec.decode(text.ids) for text in texts)) for texts in generated]
            sentences = [[f"{options.prompt or ''} {text}".strip() for text in texts] for texts in candidates]
            scores = self._match(pixels, tokens, sentences)
            return [rank(texts, match.tolist()) for texts, match in zip(candidates, scores, strict=True)]

        return start_candidates(self.language, embeddings, mask, settings, count).map(ranked)

    def _check_matching(self) -> None:
        if not self.loaded.matching:
            raise ModelError(
                f"{self.loaded.name}: this model has no matching head (it was published without its first stage), so "
                "it can't tell which text matches best"
            )

    @cached_property
    def reranker(self) -> DualEncoder:
        """The dual encoder that scores how well a text matches, for a model that has one beside its bridge."""
        from beholder.tasks.dual_encoder import DualEncoder

        return DualEncoder.from_pretrained(self.loaded.reranker, device=str(self.device), precision=self.precision)

    def _match(self, pixels: np.ndarray, tokens: Tensor | None, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return the matching probabilities of each picture's texts.

        Args:
            pixels: (B, 3, H, W).
            tokens: the image tokens (B, N, Di), if they are known.
            texts: B lists.
        """
        if self.loaded.reranker:
            images = self.reranker.embed_images([PreprocessedImage(image) for image in pixels])
            sentences = self.reranker.embed_texts([text for candidates in texts for text in candidates])
            ends = np.cumsum([len(candidates) for candidates in texts])[:-1]
            pairs = zip(images, np.split(sentences, ends), strict=True)
            return [self.reranker.match(image[None], vectors)[0] for image, vectors in pairs]
        tokens = self.front_end.tokens(pixels) if tokens is None else tokens
        probabilities = []
        for row, candidates in enumerate(texts):
            encoded = self.loaded.tokenizer(list(candidates))  # type: ignore[misc]
            probabilities.append(self.front_end.match(tokens[row : row + 1], encoded.ids, encoded.mask))
        return probabilities


def rank(texts: Sequence[str], scores: Sequence[float]) -> list[tuple[str, float]]:
    """Return the texts with their scores, highest first."""
    return sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])
