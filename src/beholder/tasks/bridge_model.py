"""Captions, answers and conversations of a model with a bridge: BLIP-2, `mini`, and those trained here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

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
from beholder.tasks.bridge_conversation import BridgeConversation
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.pictures import (
    FailedPicture,
    Picture,
    Pictures,
    PreprocessedImage,
    only_picture,
    preprocess_batches,
    preprocess_image,
)
from beholder.tasks.text_codec import TextCodec, append_tokens
from beholder.tasks.vision_language_backend import DecodingBackend
from beholder.tasks.vision_language_results import Answer, CaptionedPicture, rank

if TYPE_CHECKING:
    from torch import Tensor, nn

    from beholder.models.bridge import Bridge
    from beholder.pictures.transform import Preprocessing
    from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
    from beholder.runtime.vision_front_end import VisionFrontEnd
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.weights.loaded import LoadedVisionLanguage


class BridgeModel(DecodingBackend):
    """A vision tower, a bridge (Q-Former) and a language model, behind `VisionLanguageModel`.

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
                half = precision != "exact" and bfloat16_is_faster(self.device)
                loaded.language.module.to(torch.bfloat16 if half else torch.float32)
            self._language = loaded.language
        self.codec = TextCodec(
            loaded.language_tokenizer,
            loaded.prompts,
            self._language.context_length if self._language is not None else 0,
            loaded.soft_prompts,
            loaded.name,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that loads again bit for bit; see `VisionLanguageModel.save_pretrained`."""
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

    @property
    def name(self) -> str:
        """The model's name."""
        return self.loaded.name

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures are made ready for the vision tower."""
        return self.loaded.preprocessing

    def stream_captions(
        self, images: Iterable[Picture], options: CaptionOptions
    ) -> Iterator[CaptionedPicture | FailedPicture]:
        """Caption pictures in batches; see `VisionLanguageModel.stream_captions`."""
        return self._stream_captions(images, options, *self._caption_prompt(options))

    def _caption_prompt(self, options: CaptionOptions) -> tuple[list[int], int]:
        """Return the prompt's tokens and the number of candidates; errors as for `stream_captions`."""
        if options.instructs:
            raise InvalidSetting(
                f"{self.name}: a model with a bridge continues a caption and follows no instructions, so it can't be "
                f"given {' or '.join(options.instructs)}; begin the caption with a prompt, ask it questions, or take "
                "an instruction-tuned model such as SmolVLM"
            )
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

    def prepare_captions(
        self, images: Sequence[Picture], options: CaptionOptions, on_part: Callable[[], None]
    ) -> tuple[CacheDemand, Callable[[], Decoding[list[CaptionedPicture]]]]:
        """Preprocess pictures; see `VisionLanguageModel.prepare_captions`."""
        ids, count = self._caption_prompt(options)
        rows = count if options.top_p is not None else max(options.decoding().num_beams, count)
        demand = CacheDemand(len(images) * rows, self.codec.soft_prompts + len(ids) + options.max_new_tokens)
        pixels = np.concatenate([self._preprocess(image, options.exact, options.allow_urls) for image in images])

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

        return demand, lambda: self._start_caption_batch(pixels, options, ids, count).map(captioned)

    def ask(
        self,
        images: Pictures,
        question: str,
        choices: Sequence[str],
        settings: DecodingSettings,
        *,
        exact: bool = False,
        allow_urls: bool = False,
    ) -> Answer:
        """Return a short answer, or the ranked choices; see `VisionLanguageModel.ask`."""
        import torch

        image = only_picture(images, self.name)
        ids = self.codec.encode_prompt(self.codec.prompts.format_question(question), settings.max_new_tokens)
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
        text = generate(self.language, embeddings, mask, settings)[0]
        length = len(text.ids) + (len(text.ids) < settings.max_new_tokens)
        return Answer(self.codec.decode(text.ids).strip(" ."), float(np.exp(text.score * length)))

    def answers(
        self, questions: Iterable[tuple[Pictures, str]], settings: DecodingSettings, batch_size: int
    ) -> list[str]:
        """Return short answers in batches; see `VisionLanguageModel.answers`."""
        import torch

        answers: list[str] = []
        encoded: tuple[Picture, Tensor] | None = None
        for batch in batches(questions, batch_size):
            rows, ids = [], []
            for images, question in batch:
                image = only_picture(images, self.name)
                if encoded is None or image is not encoded[0]:
                    encoded = image, self.soft_prompts(image)
                rows.append(encoded[1])
                ids.append(
                    self.codec.encode_prompt(self.codec.prompts.format_question(question), settings.max_new_tokens)
                )
            longest = max(map(len, ids))
            embeddings = torch.zeros(len(rows), rows[0].shape[1] + longest, rows[0].shape[2], device=self.device)
            mask = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=self.device)
            with torch.inference_mode():
                for row, (prompts, question_ids) in enumerate(zip(rows, ids, strict=True)):
                    padding = longest - len(question_ids)
                    embeddings[row, padding:] = append_tokens(self.language, prompts, question_ids)[0]
                    mask[row, padding:] = True
            texts = generate(self.language, embeddings, mask, settings)
            answers += [
                self.loaded.prompts.language_notice(question) or self.codec.decode(text.ids).strip(" .")
                for text, (_, question) in zip(texts, batch, strict=True)
            ]
        return answers

    def chat(self, images: Pictures, settings: DecodingSettings, *, allow_urls: bool = False) -> BridgeConversation:
        """Start a conversation about one picture, which is encoded once, at once."""
        prompts = self.soft_prompts(only_picture(images, self.name), allow_urls=allow_urls)
        return BridgeConversation(self.language, self.codec, lambda: prompts, settings)

    def prepare_chat(self, image: Picture, settings: DecodingSettings) -> BridgeConversation:
        """Start a conversation about a picture that is encoded when it is first needed."""
        return BridgeConversation(self.language, self.codec, lambda: self.soft_prompts(image), settings)

    def match(
        self, image: Picture, texts: Sequence[str], *, exact: bool = False, allow_urls: bool = False
    ) -> np.ndarray:
        """Return the probability (n,) that each text matches, from the matching head or from the reranker.

        Raises:
            ModelError: the model has neither.
        """
        self._check_matching()
        return self._match(self._preprocess(image, exact, allow_urls), None, [texts])[0]

    def soft_prompts(self, image: Picture, *, exact: bool = False, allow_urls: bool = False) -> Tensor:
        """Return the soft prompts of one picture: (1, Q, D)."""
        return self.front_end.prompts(self.front_end.tokens(self._preprocess(image, exact, allow_urls)))

    def attention_maps(self, image: Picture, text: str | None, prompt: str | None) -> AttentionMaps:
        """Return where the bridge attends to; see `VisionLanguageModel.attention_maps`."""
        from beholder.models.bridge import token_grid

        tokens = self.front_end.tokens(self._preprocess(image, False, False))
        prompt_ids = self.codec.encode_prompt(self.loaded.prompts.caption if prompt is None else prompt, 0)
        if text is None:
            (captioned,) = self.stream_captions([image], CaptionOptions(prompt=prompt))
            if captioned.error is not None:
                raise captioned.error
            text = self.loaded.prompts.uncapitalize(captioned.caption)
        return compute_attention_maps(
            self.bridge,
            self.language,
            self.codec,
            tokens,
            prompt_ids,
            text,
            token_grid(self.image, self.preprocessing.height, self.preprocessing.width),
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
