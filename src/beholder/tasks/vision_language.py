"""VisionLanguageModel: captions, answers and a conversation about pictures, for people who have files and words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import InvalidSetting, ModelError, PictureError
from beholder.pictures.read import Limits
from beholder.runtime.decoding import DecodingSettings, Language, generate, generate_candidates, sequence_log_probs
from beholder.runtime.pipeline import batches
from beholder.runtime.precision import Precision, check_precision
from beholder.tasks.pictures import Picture, PreprocessedImage, image_list, preprocess_batches

if TYPE_CHECKING:
    from torch import Tensor, nn

    from beholder.models.bridge import Bridge
    from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
    from beholder.runtime.vision_front_end import VisionFrontEnd
    from beholder.tasks.conversation import Conversation
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.weights.loaded import LoadedVisionLanguage

WEAK_CAPTION_THRESHOLD = 0.5  # a caption whose probability to fit is below this is one to look at


@dataclass(frozen=True)
class CaptionedPicture:
    """One picture of a stream.

    Attributes:
        index: its place in the call.
        name: what it was called.
        caption: the best one; None where the picture could not be used.
        score: probability that the caption fits (`VisionLanguageModel.match`); None where nothing was chosen from.
        candidates: all that were chosen from, best first, with their scores.
        error: what kept the picture out.
    """

    index: int
    name: str
    caption: str | None
    score: float | None = None
    candidates: tuple[tuple[str, float], ...] = ()
    error: PictureError | None = None

    @property
    def weak(self) -> bool:
        """Whether a person should look at this caption."""
        return self.score is not None and self.score < WEAK_CAPTION_THRESHOLD


@dataclass(frozen=True)
class Answer:
    """An answer, how probable the model finds it (0 to 1), and the ranked choice where there was one."""

    text: str
    confidence: float
    choices: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Where in the picture each word was looked for: ``words`` (W), ``maps`` (W, h, w), each adding up to 1.

    ``overall`` (h, w) is their mean; ``queries`` (Q, h, w) is where each query looked.
    """

    words: list[str]
    maps: np.ndarray
    overall: np.ndarray
    queries: np.ndarray


class VisionLanguageModel:
    """A picture tower, a bridge and a language model behind it.

    Made by `from_pretrained`.

    Args:
        loaded: the networks with preprocessing, tokenizers and prompts, or what was compiled of them.
        device: where to run, such as ``"cpu"`` or ``"cuda"``; the fastest there is by default. What was compiled runs
            on the CPU.
        precision: ``"exact"``, as in single precision; ``"fast"``, with soft prompts and logits at a cosine of at
            least 0.9999 to those; ``"fastest"``, at least 0.999. Words may change where two are about equally likely.
            What was not compiled computes in bfloat16 for both, where that is faster.
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
            from beholder.runtime.checked_writer import execution_plan

            self.device = torch.device("cpu")
            arranged = execution_plan(loaded, precision)
            self.front_end, self._language = arranged.front_end(loaded), arranged.load_language_model(loaded)
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

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        revision: str | None = None,
        allow_pickle: bool = False,
        precision: Precision = "exact",
    ) -> VisionLanguageModel:
        """Loads ``"mini"``, a folder, or a hub id such as ``"Salesforce/blip2-opt-2.7b"``.

        The arguments and errors are those of `DualEncoder.from_pretrained`; a model that was compiled (`compile`) is
        taken from there, and ``"mini"`` is compiled on first use. Where that fails, a warning says why and the
        networks run as they are.
        """
        from beholder.runtime.compiled_vision_language import find_compiled_vision_language
        from beholder.runtime.device import has_accelerator
        from beholder.runtime.engine import available
        from beholder.weights.vision_language import load_vision_language

        check_precision(precision)
        if device == "cpu" or (device is None and not has_accelerator()):
            compiled = find_compiled_vision_language(name)
            if compiled is not None:
                return cls(compiled, precision=precision)
            if name == "mini" and available():
                try:
                    return cls.compile(name, precision=precision)
                except (ModelError, OSError) as error:  # such as a disk that is full
                    warnings.warn(f"mini could not be compiled, so it writes more slowly: {error}", stacklevel=2)
        return cls(load_vision_language(name, revision=revision, allow_pickle=allow_pickle), device, precision)

    @staticmethod
    def compile(name: str | Path, *, allow_pickle: bool = False, precision: Precision = "exact") -> VisionLanguageModel:
        """Compiles ``"mini"`` or a model in a folder for this processor, once; `from_pretrained` then takes that.

        Soft prompts and logits stay the same but for the order in which numbers are added up.

        Raises:
            ModelError: OpenVINO is not installed, or the model can't be compiled or would say something else.
        """
        from beholder.runtime.compiled_vision_language import compile_vision_language, find_compiled_vision_language
        from beholder.weights.vision_language import load_vision_language

        compiled = find_compiled_vision_language(name)
        if compiled is None:
            compiled = compile_vision_language(load_vision_language(name, allow_pickle=allow_pickle), name)
        return VisionLanguageModel(compiled, precision=precision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that `from_pretrained` loads again bit for bit, with a model card.

        Raises:
            InvalidSetting: its weights were rounded when it was loaded.
        """
        from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
        from beholder.weights.vision_language import save_vision_language

        if self.precision != "exact" and not isinstance(self.loaded, CompiledVisionLanguageModel):
            raise InvalidSetting(f"precision {self.precision!r} has rounded the weights; load it as 'exact' to save it")
        save_vision_language(self._networks, Path(folder))

    @property
    def _networks(self) -> LoadedVisionLanguage:
        from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel

        return self.loaded.loaded if isinstance(self.loaded, CompiledVisionLanguageModel) else self.loaded

    @property
    def image(self) -> nn.Module:
        """The picture tower, in torch."""
        return self._networks.image

    @property
    def bridge(self) -> Bridge:
        """The bridge, in torch."""
        return self._networks.bridge

    @property
    def language(self) -> Language:
        """The language model.

        Raises:
            ModelError: this model has seen stage 1 alone.
        """
        if self._language is None:
            raise ModelError(f"{self.loaded.name}: this model has no language model behind it, so it can't write")
        return self._language

    def stream_captions(
        self,
        images: Iterable[Picture],
        prompt: str | None = None,
        *,
        max_new_tokens: int = 20,
        num_beams: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        repetition_penalty: float = 1.0,
        no_repeat_ngram_size: int = 3,
        length_penalty: float = 1.0,
        num_candidates: int | None = None,
        seed: int = 0,
        batch_size: int = 8,
        exact: bool = False,
        allow_urls: bool = False,
        limits: Limits | None = None,
        on_token: Callable[[], None] | None = None,
    ) -> Iterator[CaptionedPicture]:
        """Captions pictures in batches; one that can't be used is reported in its place and the rest go on.

        Args:
            images: paths, bytes, PIL images, arrays (H, W, 3); addresses where ``allow_urls``.
            prompt: the beginning of the sentence, such as "this garment is"; the model's own by default. The caption
                is what follows it.
            max_new_tokens: longest caption, in tokens.
            num_beams: texts that are followed at once, 3 by default; 1 is greedy. ``top_p`` draws instead.
            top_p: draw from the likeliest words that together have this probability.
            temperature: above 1 evens out what is drawn from.
            repetition_penalty: above 1 makes words that were written less likely.
            no_repeat_ngram_size: so many words in a row never come twice.
            length_penalty: above 1 favours longer captions.
            num_candidates: write so many, the likeliest beams or what ``top_p`` draws, and keep the one that fits best
                (`match`), with the prompt in front if one is given. By default 1; 12 for ``mini``, unless ``num_beams``
                or ``top_p`` is given.
            seed: of the drawing.
            batch_size: pictures that go through the networks together.
            exact: decode large JPEGs in full.
            allow_urls: fetch http(s) addresses.
            limits: the caps on pixels, bytes and sides.
            on_token: called before each word is chosen; what it raises ends the writing.

        Raises:
            InvalidSetting: a prompt that leaves no room, or a setting that can't be used.
            ModelError: several candidates asked of a model that can't say how well a text fits.
        """
        usual = self.loaded.num_candidates if num_beams is None and top_p is None else 1
        count = usual if num_candidates is None else num_candidates
        settings = DecodingSettings(
            max_new_tokens=max_new_tokens,
            num_beams=1 if top_p else 3 if num_beams is None else num_beams,
            top_p=top_p,
            temperature=temperature,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            length_penalty=length_penalty,
            seed=seed,
        )
        if count < 1:
            raise InvalidSetting("num_candidates must be at least 1")
        if count > 1:
            self._check_matching()
        ids = self._ids(self.loaded.prompts.caption if prompt is None else prompt, max_new_tokens)
        stream = preprocess_batches(
            images,
            self.loaded.preprocessing,
            batch_size=batch_size,
            exact=exact,
            allow_urls=allow_urls,
            limits=limits,
        )
        for batch in stream:
            written: Iterator[Sequence[tuple[str, float | None]]] = iter(())
            if batch.pixels is not None:
                written = iter(self._caption(batch.pixels, prompt or "", ids, settings, count, on_token))
            for index, name, error in batch.pictures:
                if error is not None:
                    yield CaptionedPicture(index, name, None, error=error)
                    continue
                ranked = next(written)
                scored = tuple((text, score) for text, score in ranked if score is not None)
                yield CaptionedPicture(index, name, *ranked[0], scored)

    def caption(
        self, images: Iterable[Picture] | Picture, prompt: str | None = None, max_new_tokens: int = 20, **options: Any
    ) -> list[str]:
        """A caption of each picture; ``options`` are those of `stream_captions`.

        Raises:
            PictureError: a picture can't be used (`stream_captions` goes on with the rest).
        """
        captions = []
        for picture in self.stream_captions(image_list(images), prompt, max_new_tokens=max_new_tokens, **options):
            if picture.error is not None:
                raise picture.error
            captions.append(str(picture.caption))
        return captions

    def answer(self, image: Picture, question: str, **options: Any) -> str:
        """The answer to a question about a picture; ``options`` are those of `ask`."""
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
        """A short answer, with a confidence.

        Args:
            image: one picture.
            question: in words.
            choices: answer with one of these, ranked by how likely the model finds them.
            max_new_tokens: longest answer, in tokens.
            num_beams: texts that are followed at once.
            exact: decode a large JPEG in full.
            allow_urls: fetch an http(s) address.

        Raises:
            InvalidSetting: an empty or too long question, or an empty choice.
            PictureError: the picture can't be used.
        """
        import torch

        ids = self._ids(self.loaded.prompts.format_question(question), max_new_tokens)
        if any(not choice.strip() for choice in choices):
            raise InvalidSetting("a choice is empty")
        embeddings = self._with_text(self.soft_prompts(image, exact=exact, allow_urls=allow_urls), ids)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=self.device)
        if choices:
            end = list(self.language.eos_token_ids[:1])
            with torch.inference_mode():
                logits, kv_cache = self.language.prefill(embeddings, mask)
            said = [self._encode(f" {choice.strip()}", special=False) + end for choice in choices]
            shares = sequence_log_probs(self.language, logits, kv_cache, said).softmax(0).tolist()
            ranked = best_first(choices, shares)
            return Answer(ranked[0][0], ranked[0][1], tuple(ranked))
        text = generate(self.language, embeddings, mask, DecodingSettings(max_new_tokens, num_beams))[0]
        length = len(text.ids) + (len(text.ids) < max_new_tokens)
        return Answer(self._decode(text.ids).strip(" ."), float(np.exp(text.score * length)))

    def answers(
        self,
        questions: Iterable[tuple[Picture, str]],
        *,
        max_new_tokens: int = 10,
        num_beams: int = 1,
        batch_size: int = 32,
    ) -> list[str]:
        """Short answers to many questions, each about a picture of its own or that of the question before it.

        The errors are those of `ask`.
        """
        import torch

        said: list[str] = []
        seen: tuple[Picture, Tensor] | None = None
        for batch in batches(questions, batch_size):
            rows, ids = [], []
            for image, question in batch:
                if seen is None or image is not seen[0]:
                    seen = image, self.soft_prompts(image)
                rows.append(seen[1])
                ids.append(self._ids(self.loaded.prompts.format_question(question), max_new_tokens))
            longest = max(map(len, ids))
            embeddings = torch.zeros(len(rows), rows[0].shape[1] + longest, rows[0].shape[2], device=self.device)
            mask = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=self.device)
            with torch.inference_mode():
                for row, (prompts, asked) in enumerate(zip(rows, ids, strict=True)):
                    embeddings[row, longest - len(asked) :] = self._with_text(prompts, asked)[0]
                    mask[row, longest - len(asked) :] = True
            written = generate(self.language, embeddings, mask, DecodingSettings(max_new_tokens, num_beams))
            said += [self._decode(text.ids).strip(" .") for text in written]
        return said

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
        """A conversation about one picture, which is looked at once; ``top_p`` draws the words of its answers."""
        from beholder.tasks.conversation import Conversation

        settings = DecodingSettings(max_new_tokens, top_p=top_p, temperature=temperature, seed=seed)
        return Conversation(self, self.soft_prompts(image, allow_urls=allow_urls), settings)

    def match(
        self, image: Picture, texts: Sequence[str], *, exact: bool = False, allow_urls: bool = False
    ) -> np.ndarray:
        """Probability (n,) that each text fits the picture: from the bridge's matching head, or the model's judge.

        Raises:
            ModelError: the model has neither.
        """
        self._check_matching()
        return self._match(self._pixels_of(image, exact, allow_urls), None, [texts])[0]

    def soft_prompts(self, image: Picture, *, exact: bool = False, allow_urls: bool = False) -> Tensor:
        """The soft prompts of one picture: (1, Q, D)."""
        return self.front_end.prompts(self._tokens_of(image, exact, allow_urls))

    def attention_maps(self, image: Picture, text: str | None = None, prompt: str | None = None) -> AttentionMaps:
        """Where the bridge looked for each word of a caption: its own, or a given one.

        For each word, how much the language model attended to each soft prompt, times how much that prompt's query
        attended to each part of the picture; means over layers and heads. Soft prompts of the whole picture look at no
        part of it and are left out.

        Args:
            image: one picture.
            text: the caption; the model's own by default.
            prompt: in front of it; the model's own by default.
        """
        import torch

        from beholder.models.bridge import token_grid

        if text is None:
            text = self.loaded.prompts.uncapitalize(self.caption(image, prompt)[0])
        seen = self._tokens_of(image, False, False)
        before = self._ids(self.loaded.prompts.caption if prompt is None else prompt, 0)
        bridge = self.bridge
        with torch.inference_mode():
            output = bridge.qformer(bridge.normalize_image(seen), output_attentions=True)
            prompts = bridge.to_prompts(seen, output.queries)
            ids = self._encode(f" {text.strip()}", special=False) if text.strip() else []
            if not ids:
                raise InvalidSetting("there is no word to look for")
            prompt_attention = self.language.prompt_attention(self._with_text(prompts, before), ids)
        prompt_attention = prompt_attention[
            :, bridge.settings.global_prompts : prompts.shape[1]
        ]  # (n, Q): the others look nowhere
        over = output.cross_attentions.mean((0, 1, 2))  # (Q, N)
        height, width = token_grid(self.image, self.loaded.preprocessing.height, self.loaded.preprocessing.width)
        queries = over[:, -height * width :]
        queries = queries / queries.sum(1, keepdim=True)
        shares = prompt_attention / prompt_attention.sum(1, keepdim=True)
        words, owner = self._words(ids)
        per_word = torch.stack([shares[owner == number].mean(0) for number in range(len(words))])
        maps = (per_word @ queries).unflatten(1, (height, width)).cpu().numpy()
        return AttentionMaps(words, maps, maps.mean(0), queries.unflatten(1, (height, width)).cpu().numpy())

    def _words(self, ids: list[int]) -> tuple[list[str], Tensor]:
        """The words that tokens spell, and for each token the number of its word."""
        import torch

        words: list[str] = []
        owner: list[int] = []
        for place in range(len(ids)):
            piece = self._decode(ids[: place + 1])[len(self._decode(ids[:place])) :]
            if not words or piece.startswith(" ") or (piece and not piece[0].isalnum() and words[-1].isalnum()):
                words.append("")
            words[-1] += piece.strip()
            owner.append(len(words) - 1)
        return words, torch.tensor(owner, device=self.device)

    def _tokens_of(self, image: Picture, exact: bool, allow_urls: bool) -> Tensor:
        return self.front_end.tokens(self._pixels_of(image, exact, allow_urls))

    def _pixels_of(self, image: Picture, exact: bool, allow_urls: bool) -> np.ndarray:
        batch = next(
            preprocess_batches([image], self.loaded.preprocessing, batch_size=1, exact=exact, allow_urls=allow_urls)
        )
        error = batch.pictures[0][2]
        if batch.pixels is None:
            raise error if error else InvalidSetting("there is no picture")
        return batch.pixels

    def _caption(
        self,
        pixels: np.ndarray,
        before: str,
        ids: list[int],
        settings: DecodingSettings,
        candidates: int,
        on_token: Callable[[], None] | None,
    ) -> Sequence[Sequence[tuple[str, float | None]]]:
        """For each picture its candidates, best first, with their scores where there are several.

        ``ids`` are the tokens that each goes on from, ``before`` the words that are judged together with it.
        """
        import torch

        seen = self.front_end.tokens(pixels)
        embeddings = self._with_text(self.front_end.prompts(seen), ids)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=self.device)

        if candidates == 1:
            texts = generate(self.language, embeddings, mask, settings, on_token)
            return [[(self._decode(text.ids), None)] for text in texts]
        written = generate_candidates(self.language, embeddings, mask, settings, candidates, on_token)
        different = [list(dict.fromkeys(self._decode(text.ids) for text in texts)) for texts in written]
        scores = self._match(pixels, seen, [[f"{before} {text}".strip() for text in texts] for texts in different])
        return [best_first(texts, fits.tolist()) for texts, fits in zip(different, scores, strict=True)]

    def _check_matching(self) -> None:
        if not self.loaded.matching:
            raise ModelError(
                f"{self.loaded.name}: this model has no matching head (it was published without its first stage), so "
                "it can't say which text fits best"
            )

    @cached_property
    def reranker(self) -> DualEncoder:
        """The dual encoder that says how well a text fits, where the model has one beside its bridge."""
        from beholder.tasks.dual_encoder import DualEncoder

        return DualEncoder.from_pretrained(self.loaded.reranker, device=str(self.device), precision=self.precision)

    def _match(self, pixels: np.ndarray, seen: Tensor | None, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """The probabilities of each picture's texts; of pictures (B, 3, H, W), with tokens (B, N, Di) if there are."""
        if self.loaded.reranker:
            pictures = self.reranker.embed_images([PreprocessedImage(picture) for picture in pixels])
            words = self.reranker.embed_texts([text for candidates in texts for text in candidates])
            ends = np.cumsum([len(candidates) for candidates in texts])[:-1]
            own = zip(pictures, np.split(words, ends), strict=True)
            return [self.reranker.match(picture[None], vectors)[0] for picture, vectors in own]
        seen = self.front_end.tokens(pixels) if seen is None else seen
        probabilities = []
        for row, candidates in enumerate(texts):
            tokens = self.loaded.tokenizer(list(candidates))  # type: ignore[misc]
            probabilities.append(self.front_end.match(seen[row : row + 1], tokens.ids, tokens.mask))
        return probabilities

    def _ids(self, prompt: str, new: int) -> list[int]:
        """The prompt's tokens, after a check that prompt and answer have room.

        Raises:
            InvalidSetting: they have not.
        """
        ids = self._encode(prompt, special=True)
        room = self.language.context_length
        prompts = self.loaded.soft_prompts
        used = prompts + len(ids) + new
        if room and used > room:
            raise InvalidSetting(
                f"the prompt has {len(ids)} tokens; with the picture's {prompts} and {new} new ones that is {used}, "
                f"and the language model reads {room}. Shorten it"
            )
        return ids

    def _encode(self, text: str, special: bool) -> list[int]:
        if self.loaded.language_tokenizer is None:
            raise ModelError(f"{self.loaded.name}: this model has no language model behind it, so it can't write")
        return self.loaded.language_tokenizer.encode(text, add_special_tokens=special).ids

    def _decode(self, ids: list[int]) -> str:
        return self.loaded.prompts.postprocess(self.loaded.language_tokenizer.decode(ids, skip_special_tokens=True))  # type: ignore[union-attr]

    def _with_text(self, prompts: Tensor, ids: list[int]) -> Tensor:
        """Soft prompts (B, Q, D) with the same words behind each: (B, Q + T, D)."""
        import torch

        if not ids:
            return prompts
        words = self.language.embed(torch.tensor([ids], device=self.device)).expand(len(prompts), -1, -1)
        return torch.cat([prompts.to(words.dtype), words], 1)


def best_first(texts: Sequence[str], scores: Sequence[float]) -> list[tuple[str, float]]:
    """The texts with their scores, the highest in front."""
    return sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])
