"""VisionLanguageModel: captions, answers and a conversation about pictures, for people who have files and words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import InvalidSetting, ModelError, PictureError
from beholder.pictures.read import Limits, Source
from beholder.runtime.decoding import DecodingSettings, likelihoods, write
from beholder.runtime.pipeline import batches
from beholder.tasks.pictures import prepared, several

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.models.language_model import LanguageModel
    from beholder.tasks.conversation import Conversation
    from beholder.weights.loaded import LoadedVisionLanguage

WEAK = 0.5  # a caption whose probability to fit is below this is one to look at


@dataclass(frozen=True)
class CaptionedPicture:
    """One picture of a stream.

    Attributes:
        index: its place in the call.
        name: what it was called.
        caption: the best one; None where the picture could not be used.
        score: probability that the caption fits, from the matching head; None where nothing was chosen from.
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
        return self.score is not None and self.score < WEAK


@dataclass(frozen=True)
class Answer:
    """An answer, how probable the model finds it (0 to 1), and the ranked choice where there was one."""

    text: str
    confidence: float
    choices: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Looked:
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
        loaded: the networks with preprocessing, tokenizers and prompts.
        device: where to run, such as ``"cpu"`` or ``"cuda"``; the fastest there is by default.
    """

    def __init__(self, loaded: LoadedVisionLanguage, device: str | None = None):
        from beholder.runtime.device import pick_device

        self.loaded = loaded
        self.device = pick_device(device)
        self.image = loaded.image.to(self.device).eval()
        self.bridge = loaded.bridge.to(self.device).eval()
        if loaded.language is not None:
            loaded.language.to(self.device)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str | None = None, revision: str | None = None, allow_pickle: bool = False
    ) -> VisionLanguageModel:
        """Loads ``"mini"``, a folder, or a hub id such as ``"Salesforce/blip2-opt-2.7b"``.

        The arguments and errors are those of `DualEncoder.from_pretrained`.
        """
        from beholder.weights.vision_language import load_vision_language

        return cls(load_vision_language(name, revision=revision, allow_pickle=allow_pickle), device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that `from_pretrained` loads again bit for bit, with a model card."""
        from beholder.weights.vision_language import save_vision_language

        save_vision_language(self.loaded, Path(folder))

    @property
    def language(self) -> LanguageModel:
        """The language model.

        Raises:
            ModelError: this model has seen stage 1 alone.
        """
        if self.loaded.language is None:
            raise ModelError(f"{self.loaded.name}: this model has no language model behind it, so it can't write")
        return self.loaded.language

    def stream_captions(
        self,
        images: Iterable[Source],
        prompt: str | None = None,
        *,
        max_new_tokens: int = 20,
        num_beams: int = 3,
        top_p: float | None = None,
        temperature: float = 1.0,
        repetition_penalty: float = 1.0,
        no_repeat_ngram: int = 3,
        length_penalty: float = 1.0,
        candidates: int = 1,
        seed: int = 0,
        batch_size: int = 8,
        exact: bool = False,
        allow_urls: bool = False,
        limits: Limits | None = None,
    ) -> Iterator[CaptionedPicture]:
        """Captions pictures in batches; one that can't be used is reported in its place and the rest go on.

        Args:
            images: paths, bytes, PIL images, arrays (H, W, 3); addresses where ``allow_urls``.
            prompt: the beginning of the sentence, such as "this garment is"; the model's own by default. The caption
                is what follows it.
            max_new_tokens: longest caption, in tokens.
            num_beams: texts that are followed at once; 1 is greedy. ``top_p`` draws instead.
            top_p: draw from the likeliest words that together have this probability.
            temperature: above 1 evens out what is drawn from.
            repetition_penalty: above 1 makes words that were written less likely.
            no_repeat_ngram: so many words in a row never come twice.
            length_penalty: above 1 favours longer captions.
            candidates: write so many and keep the one that the matching head likes best.
            seed: of the drawing.
            batch_size: pictures that go through the networks together.
            exact: decode large JPEGs in full.
            allow_urls: fetch http(s) addresses.
            limits: the caps on pixels, bytes and sides.

        Raises:
            InvalidSetting: a prompt that leaves no room, or a setting that can't be used.
            ModelError: candidates asked of a model without a matching head.
        """
        settings = DecodingSettings(
            max_new_tokens=max_new_tokens,
            num_beams=1 if top_p else num_beams,
            top_p=top_p,
            temperature=temperature,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram=no_repeat_ngram,
            length_penalty=length_penalty,
            seed=seed,
        )
        if candidates < 1:
            raise InvalidSetting("candidates must be at least 1")
        if candidates > 1:
            self._check_matching()
        ids = self._ids(self.loaded.prompts.caption if prompt is None else prompt, max_new_tokens)
        stream = prepared(
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
                written = iter(self._caption(batch.pixels, ids, settings, candidates))
            for index, name, error in batch.pictures:
                if error is not None:
                    yield CaptionedPicture(index, name, None, error=error)
                    continue
                ranked = next(written)
                scored = tuple((text, score) for text, score in ranked if score is not None)
                yield CaptionedPicture(index, name, *ranked[0], scored)

    def caption(
        self, images: Iterable[Source] | Source, prompt: str | None = None, max_new_tokens: int = 20, **options: Any
    ) -> list[str]:
        """A caption of each picture; ``options``, ``num_beams=3`` among them, are those of `stream_captions`.

        Raises:
            PictureError: a picture can't be used (`stream_captions` goes on with the rest).
        """
        captions = []
        for picture in self.stream_captions(several(images), prompt, max_new_tokens=max_new_tokens, **options):
            if picture.error is not None:
                raise picture.error
            captions.append(str(picture.caption))
        return captions

    def answer(self, image: Source, question: str, **options: Any) -> str:
        """The answer to a question about a picture; ``options`` are those of `ask`."""
        return self.ask(image, question, **options).text

    def ask(
        self,
        image: Source,
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

        ids = self._ids(self.loaded.prompts.asked(question), max_new_tokens)
        if any(not choice.strip() for choice in choices):
            raise InvalidSetting("a choice is empty")
        embeddings = self._with_text(self.look_at(image, exact=exact, allow_urls=allow_urls), ids)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=self.device)
        if choices:
            end = list(self.language.ends[:1])
            with torch.inference_mode():
                logits, memory = self.language.begin(embeddings, mask)
            said = [self._encode(f" {choice.strip()}", special=False) + end for choice in choices]
            shares = likelihoods(self.language, logits, memory, said).softmax(0).tolist()
            ranked = best_first(choices, shares)
            return Answer(ranked[0][0], ranked[0][1], tuple(ranked))
        text = write(self.language, embeddings, mask, DecodingSettings(max_new_tokens, num_beams))[0]
        length = len(text.ids) + (len(text.ids) < max_new_tokens)
        return Answer(self._decode(text.ids).strip(" ."), float(np.exp(text.score * length)))

    def answers(
        self,
        questions: Iterable[tuple[Source, str]],
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
        seen: tuple[Source, Tensor] | None = None
        for batch in batches(questions, batch_size):
            rows, ids = [], []
            for image, question in batch:
                if seen is None or image is not seen[0]:
                    seen = image, self.look_at(image)
                rows.append(seen[1])
                ids.append(self._ids(self.loaded.prompts.asked(question), max_new_tokens))
            longest = max(map(len, ids))
            embeddings = torch.zeros(len(rows), rows[0].shape[1] + longest, rows[0].shape[2], device=self.device)
            mask = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=self.device)
            with torch.inference_mode():
                for row, (prompts, asked) in enumerate(zip(rows, ids, strict=True)):
                    embeddings[row, longest - len(asked) :] = self._with_text(prompts, asked)[0]
                    mask[row, longest - len(asked) :] = True
            written = write(self.language, embeddings, mask, DecodingSettings(max_new_tokens, num_beams))
            said += [self._decode(text.ids).strip(" .") for text in written]
        return said

    def chat(self, image: Source, *, max_new_tokens: int = 40, allow_urls: bool = False) -> Conversation:
        """A conversation about one picture, which is looked at once."""
        from beholder.tasks.conversation import Conversation

        return Conversation(self, self.look_at(image, allow_urls=allow_urls), max_new_tokens)

    def match(
        self, image: Source, texts: Sequence[str], *, exact: bool = False, allow_urls: bool = False
    ) -> np.ndarray:
        """Probability (n,) that each text fits the picture, from the matching head.

        Raises:
            ModelError: the model has none.
        """
        self._check_matching()
        return self._match(self._tokens_of(image, exact, allow_urls), texts)

    def look_at(self, image: Source, *, exact: bool = False, allow_urls: bool = False) -> Tensor:
        """The soft prompts of one picture: (1, Q, D)."""
        import torch

        seen = self._tokens_of(image, exact, allow_urls)
        with torch.inference_mode():
            return self.bridge.soft_prompts(seen)

    def looked(self, image: Source, text: str | None = None, prompt: str | None = None) -> Looked:
        """Where the bridge looked for each word of a caption: its own, or a given one.

        For each word, how much the language model attended to each soft prompt, times how much that prompt's query
        attended to each part of the picture; means over layers and heads.

        Args:
            image: one picture.
            text: the caption; the model's own by default.
            prompt: in front of it; the model's own by default.
        """
        import torch

        from beholder.models.bridge import picture_grid

        seen = self._tokens_of(image, False, False)
        before = self._ids(self.loaded.prompts.caption if prompt is None else prompt, 0)
        with torch.inference_mode():
            output = self.bridge.qformer(self.bridge.normed(seen), weights=True)
            prompts = self.bridge.to_prompts(output.queries)
            if text is None:
                mask = torch.ones(1, prompts.shape[1] + len(before), dtype=torch.bool, device=self.device)
                settings = DecodingSettings(num_beams=3, no_repeat_ngram=3)
                ids = write(self.language, self._with_text(prompts, before), mask, settings)[0].ids
            else:
                ids = self._encode(f" {text.strip()}", special=False)
            if not ids:
                raise InvalidSetting("there is no word to look for")
            attended = self.language.attended(self._with_text(prompts, before), ids)[:, : prompts.shape[1]]
        over = output.looked.mean((0, 1, 2))  # (Q, N)
        height, width = picture_grid(self.image, self.loaded.preprocessing.height, self.loaded.preprocessing.width)
        queries = over[:, -height * width :]
        queries = queries / queries.sum(1, keepdim=True)
        shares = attended / attended.sum(1, keepdim=True)
        words, owner = self._words(ids)
        per_word = torch.stack([shares[owner == number].mean(0) for number in range(len(words))])
        maps = (per_word @ queries).unflatten(1, (height, width)).cpu().numpy()
        return Looked(words, maps, maps.mean(0), queries.unflatten(1, (height, width)).cpu().numpy())

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

    def _tokens_of(self, image: Source, exact: bool, allow_urls: bool) -> Tensor:
        import torch

        from beholder.models.bridge import picture_tokens

        batch = next(prepared([image], self.loaded.preprocessing, batch_size=1, exact=exact, allow_urls=allow_urls))
        error = batch.pictures[0][2]
        if batch.pixels is None:
            raise error if error else InvalidSetting("there is no picture")
        with torch.inference_mode():
            return picture_tokens(self.image, torch.from_numpy(batch.pixels).to(self.device))

    def _caption(
        self, pixels: np.ndarray, ids: list[int], settings: DecodingSettings, candidates: int
    ) -> Sequence[Sequence[tuple[str, float | None]]]:
        """For each picture its candidates, best first, with their scores where there are several."""
        import torch

        from beholder.models.bridge import picture_tokens

        with torch.inference_mode():
            seen = picture_tokens(self.image, torch.from_numpy(pixels).to(self.device))
            embeddings = self._with_text(self.bridge.soft_prompts(seen), ids)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=self.device)
        rounds = [settings]
        if candidates > 1:  # the likeliest, and others drawn at random
            drawn = replace(settings, num_beams=1, top_p=settings.top_p or 0.9)
            rounds += [replace(drawn, seed=settings.seed + number) for number in range(1, candidates)]
        written = [[self._decode(text.ids) for text in write(self.language, embeddings, mask, one)] for one in rounds]
        if candidates == 1:
            return [[(text, None)] for text in written[0]]
        ranked = []
        for row, texts in enumerate(zip(*written, strict=True)):
            different = list(dict.fromkeys(texts))
            scores = self._match(seen[row : row + 1], different).tolist()
            ranked.append(best_first(different, scores))
        return ranked

    def _check_matching(self) -> None:
        if self.bridge.matching_head is None or self.loaded.tokenizer is None:
            raise ModelError(
                f"{self.loaded.name}: this model has no matching head (it was published without its first stage), so "
                "it can't say which text fits best"
            )

    def _match(self, seen: Tensor, texts: Sequence[str]) -> np.ndarray:
        """Picture tokens (1, N, Di) and n texts to probabilities (n,)."""
        import torch

        tokens = self.loaded.tokenizer(list(texts))  # type: ignore[misc]
        ids, mask = torch.from_numpy(tokens.ids).to(self.device), torch.from_numpy(tokens.mask).to(self.device)
        with torch.inference_mode():
            logits = self.bridge.match(seen.expand(len(texts), -1, -1), ids, mask)
        return logits.softmax(-1)[:, 1].float().cpu().numpy()

    def _ids(self, prompt: str, new: int) -> list[int]:
        """The prompt's tokens, after a check that prompt and answer have room.

        Raises:
            InvalidSetting: they have not.
        """
        ids = self._encode(prompt, special=True)
        room = self.language.context_length
        queries = self.bridge.settings.qformer.queries
        used = queries + len(ids) + new
        if room and used > room:
            raise InvalidSetting(
                f"the prompt has {len(ids)} tokens; with the picture's {queries} and {new} new ones that is {used}, "
                f"and the language model reads {room}. Shorten it"
            )
        return ids

    def _encode(self, text: str, special: bool) -> list[int]:
        if self.loaded.words is None:
            raise ModelError(f"{self.loaded.name}: this model has no language model behind it, so it can't write")
        return self.loaded.words.encode(text, add_special_tokens=special).ids

    def _decode(self, ids: list[int]) -> str:
        return self.loaded.prompts.tidy(self.loaded.words.decode(ids, skip_special_tokens=True))  # type: ignore[union-attr]

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
