"""How words are chosen one after the other: greedy, by beams, or drawn at random.

Shapes: B rows, K beams, T words written, V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from beholder.errors import InvalidSetting

MASKED_SCORE = -1e9  # added to the score of what must not be chosen

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]  # words written (n, T) and scores of the next (n, V) → scores


class KVCache(Protocol):
    """What a language model remembers of rows it has read."""

    def select(self, rows: Tensor) -> None:
        """Keeps these rows (n,), in this order; a row may come several times."""
        ...


class Language(Protocol):
    """A language model, whatever runs it; its methods are those of `beholder.models.language_model.LanguageModel`."""

    encoder_decoder: bool

    @property
    def context_length(self) -> int: ...  # noqa: D102
    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def decoder_start_token_ids(self) -> tuple[int, ...]: ...  # noqa: D102
    def embed(self, ids: Tensor) -> Tensor: ...  # noqa: D102
    def prefill(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Any]: ...  # noqa: D102
    def decode(self, ids: Tensor, kv_cache: Any, *, all_positions: bool = False) -> Tensor: ...  # noqa: D102
    def prompt_attention(self, embeddings: Tensor, ids: list[int]) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True)
class DecodingSettings:
    """How to write.

    Attributes:
        max_new_tokens: longest text, in tokens.
        num_beams: texts that are followed at once; 1 is greedy.
        top_p: draw from the likeliest words that together have this probability; None chooses the likeliest.
        temperature: above 1 evens out the probabilities that are drawn from, below 1 sharpens them.
        repetition_penalty: above 1 makes words that were written less likely (arXiv:1909.05858, section 4.1).
        no_repeat_ngram_size: so many words in a row never come twice; 0 allows it.
        length_penalty: power of the length by which a beam's score is divided.
        early_stopping: a row ends as soon as it has ``num_beams`` finished texts.
        seed: of the drawing.
    """

    max_new_tokens: int = 20
    num_beams: int = 1
    top_p: float | None = None
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    early_stopping: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "no_repeat_ngram_size", "seed"):
            if not isinstance(getattr(self, name), int):
                raise InvalidSetting(f"{name} must be an integer, not {getattr(self, name)!r}")
        if self.no_repeat_ngram_size < 0:
            raise InvalidSetting(f"no_repeat_ngram_size {self.no_repeat_ngram_size} must be at least 0")
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise InvalidSetting("max_new_tokens and num_beams must each be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidSetting(f"top_p {self.top_p} is not between 0 and 1")
        if self.top_p is not None and self.num_beams > 1:
            raise InvalidSetting("top_p draws single texts: it goes with num_beams=1")
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise InvalidSetting("temperature and repetition_penalty must be above 0")


@dataclass(frozen=True)
class GeneratedText:
    """The tokens of a text without its end, and its score: the mean log-probability of its words, the end included."""

    ids: list[int]
    score: float


@torch.inference_mode()
def generate(
    language: Language,
    embeddings: Tensor,
    mask: Tensor,
    settings: DecodingSettings,
    on_token: Callable[[], None] | None = None,
    *,
    copies: int = 1,
) -> list[GeneratedText]:
    """Texts for rows of embeddings (B, T, D).

    Args:
        language: what writes.
        embeddings: words and soft prompts.
        mask: (B, T), false at padding, which stands in front.
        settings: how.
        on_token: called before each word is chosen; what it raises ends the writing.
        copies: how many texts of each row, one after the other; drawn ones differ.
    """
    logits, kv_cache = language.prefill(embeddings, mask)
    if copies > 1:
        rows = torch.arange(len(embeddings), device=logits.device).repeat_interleave(copies)
        kv_cache.select(rows)
        logits = logits[rows]
    if settings.num_beams == 1:
        return sample_texts(language, logits, kv_cache, settings, on_token or nothing)
    return [texts[0] for texts in beam_search(language, logits, kv_cache, settings, on_token or nothing)]


@torch.inference_mode()
def generate_candidates(
    language: Language,
    embeddings: Tensor,
    mask: Tensor,
    settings: DecodingSettings,
    count: int,
    on_token: Callable[[], None] | None = None,
) -> list[list[GeneratedText]]:
    """Up to ``count`` texts of each row, the arguments those of `write`: its likeliest beams, or drawn with ``top_p``.

    Of one row, the likeliest text comes first, and there may be fewer where fewer beams came to an end.
    """
    if settings.top_p is not None:
        drawn = generate(language, embeddings, mask, settings, on_token, copies=count)
        rows = [drawn[start : start + count] for start in range(0, len(drawn), count)]
        return [sorted(row, key=lambda text: -text.score) for row in rows]
    logits, kv_cache = language.prefill(embeddings, mask)
    wide = replace(settings, num_beams=max(settings.num_beams, count))
    return [texts[:count] for texts in beam_search(language, logits, kv_cache, wide, on_token or nothing)]


def nothing() -> None:
    """Where nobody asked to be called before each word."""


def sample_texts(
    language: Language, logits: Tensor, kv_cache: KVCache, settings: DecodingSettings, on_token: Callable[[], None]
) -> list[GeneratedText]:
    """Greedy or drawn texts. A row that has ended leaves the batch."""
    rows = torch.arange(len(logits))
    texts: list[list[int]] = [[] for _ in rows]
    scores = [0.0] * len(rows)
    written = torch.zeros(len(rows), 0, dtype=torch.long)
    choose = token_sampler(language, settings)
    eos_token_ids = torch.tensor(language.eos_token_ids)
    for number in range(settings.max_new_tokens):
        on_token()
        words, sure = choose(written.to(logits.device), logits)
        ended = torch.isin(words.cpu(), eos_token_ids)
        for row, word, token_log_probs, end in zip(
            rows.tolist(), words.tolist(), sure.tolist(), ended.tolist(), strict=True
        ):
            scores[row] += token_log_probs
            texts[row].append(word)
            if end or number + 1 == settings.max_new_tokens:
                scores[row] /= len(texts[row])
                texts[row] = texts[row][: len(texts[row]) - end]
        if ended.all() or number + 1 == settings.max_new_tokens:
            break
        going = ~ended
        rows, written = rows[going], torch.cat([written, words.cpu()[:, None]], 1)[going]
        if ended.any():
            kv_cache.select(going.nonzero()[:, 0].to(words.device))
        logits = language.decode(words[going.to(words.device)][:, None], kv_cache)
    return [GeneratedText(text, score) for text, score in zip(texts, scores, strict=True)]


@torch.inference_mode()
def stream(language: Language, logits: Tensor, kv_cache: KVCache, settings: DecodingSettings) -> Iterator[int]:
    """The tokens of a single row as they come, without the end. The memory holds all but the last of them."""
    choose = token_sampler(language, settings)
    written = torch.zeros(1, 0, dtype=torch.long)
    for number in range(settings.max_new_tokens):
        words, _ = choose(written.to(logits.device), logits)
        if int(words) in language.eos_token_ids:
            return
        yield int(words)
        written = torch.cat([written, words.cpu()[:, None]], 1)
        if number + 1 < settings.max_new_tokens:
            logits = language.decode(words[:, None], kv_cache)


def token_sampler(language: Language, settings: DecodingSettings) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The next words (B,) and their log-probabilities (B,), from what was written (B, T) and the logits (B, V)."""
    rules = logits_processor(language, settings)
    if settings.top_p is None:

        def first(written: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
            best = rules(written, logits.float()).argmax(-1)
            return best, token_log_probs(logits, best)

        return first
    from transformers import TopPLogitsWarper

    keep = TopPLogitsWarper(settings.top_p)
    generator = torch.Generator().manual_seed(settings.seed)

    def drawn(written: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        chances = keep(written, rules(written, logits.float()) / settings.temperature).softmax(-1)
        words = torch.multinomial(chances.cpu(), 1, generator=generator)[:, 0].to(logits.device)
        return words, token_log_probs(logits, words)

    return drawn


def token_log_probs(logits: Tensor, words: Tensor) -> Tensor:
    """Log-probabilities (B,) of words (B,) among logits (B, V)."""
    logits = logits.float()
    return logits.gather(1, words[:, None])[:, 0] - logits.logsumexp(-1)


def logits_processor(language: Language, settings: DecodingSettings) -> LogitsProcessor:
    """What the settings forbid or make less likely."""
    penalty, gram = settings.repetition_penalty, settings.no_repeat_ngram_size
    start = torch.tensor([language.decoder_start_token_ids], dtype=torch.long)

    def apply(written: Tensor, scores: Tensor) -> Tensor:
        if penalty == 1 and not gram:
            return scores
        written = torch.cat([start.expand(len(written), -1).to(written), written], 1)
        scores = scores.clone()
        if penalty != 1 and written.shape[1]:
            found = scores.gather(1, written)
            scores.scatter_(1, written, torch.where(found < 0, found * penalty, found / penalty))
        if gram and written.shape[1] >= gram:
            for row, texts in enumerate(written.tolist()):
                scores[row, banned_tokens(texts, gram)] = -torch.inf
        return scores

    return apply


def banned_tokens(text: list[int], gram: int) -> list[int]:
    """The words that would make the last ``gram`` words of a text ones that it holds already."""
    last = text[len(text) - gram + 1 :]
    return [text[end] for end in range(gram - 1, len(text)) if text[end - gram + 1 : end] == last]


def blockwise_topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row (n, V), in order, and their places: what ``topk`` gives, sooner.

    The largest lie in those blocks whose own largest are the largest, and those are found at the speed of memory.
    """
    block = 32
    whole = scores.shape[1] // block * block
    if whole // block <= 2 * count:
        return scores.topk(count)
    blocks = scores[:, :whole].unflatten(1, (-1, block))
    best = blocks.amax(2).topk(count).indices  # (n, count)
    places = (best[:, :, None] * block + torch.arange(block, device=scores.device)).flatten(1)
    rest = torch.arange(whole, scores.shape[1], device=scores.device).expand(len(scores), -1)
    places = torch.cat([places, rest], 1)
    values, chosen = scores.gather(1, places).topk(count)
    return values, places.gather(1, chosen)


def beam_search(
    language: Language, logits: Tensor, kv_cache: KVCache, settings: DecodingSettings, on_token: Callable[[], None]
) -> list[list[GeneratedText]]:
    """Of several texts of each row, followed at once, those that ended, the best first, as transformers chooses them.

    All beams of a row begin from one memory of its picture. A row that no running beam can improve leaves the batch.
    """
    count, wide, vocabulary = len(logits), settings.num_beams, logits.shape[-1]
    device = logits.device
    rules = logits_processor(language, settings)
    eos_token_ids = torch.tensor(language.eos_token_ids, device=device)
    kept = max(2, 1 + len(eos_token_ids)) * wide
    rows = torch.arange(count)
    running = torch.zeros(count, 1, 0, dtype=torch.long, device=device)  # (B, K, T); at first one empty beam
    scores = torch.zeros(count, 1, device=device)
    done = torch.zeros(count, wide, settings.max_new_tokens, dtype=torch.long, device=device)
    lengths = torch.zeros(count, wide, dtype=torch.long, device=device)
    done_scores = torch.full((count, wide), MASKED_SCORE, device=device)
    finished: list[list[GeneratedText]] = [[] for _ in range(count)]
    for number in range(settings.max_new_tokens):
        on_token()
        held = running.shape[1]
        logits = logits.float()
        gains = rules(running.flatten(0, 1), logits - logits.logsumexp(-1, keepdim=True))
        # The best of all are among the best of each beam.
        each, places = blockwise_topk(gains, min(kept, vocabulary))
        each = each.view(len(rows), held, -1) + scores[:, :, None]
        best, chosen = each.flatten(1).topk(min(kept, each[0].numel()))
        parents = chosen // each.shape[2]
        words = places.view(len(rows), -1).gather(1, chosen)
        longer = torch.cat([gather_beams(running, parents), words[:, :, None]], 2)
        ended = torch.isin(words, eos_token_ids) | (number + 1 == settings.max_new_tokens)
        # What has ended among the first K is finished; it stays if it is among the K best that ever finished.
        closing = best / (number + 1) ** settings.length_penalty
        closing = closing.masked_fill(~ended | (torch.arange(best.shape[1], device=device) >= wide), MASKED_SCORE)
        if settings.early_stopping:
            closing = closing.masked_fill((done_scores > MASKED_SCORE).all(1, keepdim=True), MASKED_SCORE)
        done_scores, stay = torch.cat([done_scores, closing], 1).topk(wide)
        padded = torch.nn.functional.pad(longer, (0, settings.max_new_tokens - number - 1))
        done = gather_beams(torch.cat([done, padded], 1), stay)
        lengths = torch.cat([lengths, torch.full_like(words, number + 1)], 1).gather(1, stay)
        scores, chosen = (best + ended * MASKED_SCORE).topk(wide)
        full = (done_scores > MASKED_SCORE).all(1)
        worst = torch.where(full, done_scores[:, -1], torch.tensor(MASKED_SCORE, device=device))
        over = (scores[:, 0] / (number + 1) ** settings.length_penalty <= worst) | ended.all(1)
        if settings.early_stopping:
            over |= full
        for place in over.nonzero()[:, 0].tolist():
            ending = max(1, int((done_scores[place] > MASKED_SCORE).sum()))
            for text, length, score in zip(
                done[place, :ending].tolist(), lengths[place].tolist(), done_scores[place].tolist(), strict=False
            ):
                words_alone = text[: length - (text[length - 1] in language.eos_token_ids)]
                finished[int(rows[place])].append(
                    GeneratedText(words_alone, score * length ** (settings.length_penalty - 1))
                )
        going = (~over).nonzero()[:, 0]
        if not len(going):
            break
        source = (parents.gather(1, chosen) + torch.arange(len(rows), device=device)[:, None] * held)[going]
        running, scores = gather_beams(longer, chosen)[going], scores[going]
        done, lengths, done_scores = done[going], lengths[going], done_scores[going]
        rows = rows[going.cpu()]
        kv_cache.select(source.flatten())
        logits = language.decode(running[:, :, -1].reshape(-1, 1), kv_cache)
    return finished


def gather_beams(beam_search: Tensor, chosen: Tensor) -> Tensor:
    """Of (B, n, T) those that ``chosen`` (B, K) names: (B, K, T)."""
    return beam_search.gather(1, chosen[:, :, None].expand(-1, -1, beam_search.shape[2]))


@torch.inference_mode()
def sequence_log_probs(language: Language, logits: Tensor, kv_cache: KVCache, answers: list[list[int]]) -> Tensor:
    """Log-probability of each answer, a list of tokens, behind the single row that the memory holds: (n,)."""
    longest = max(len(answer) for answer in answers)
    ids = torch.zeros(len(answers), longest, dtype=torch.long, device=logits.device)
    there = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer, device=logits.device)
        there[row, : len(answer)] = True
    kv_cache.select(torch.zeros(len(answers), dtype=torch.long, device=logits.device))
    first = logits.expand(len(answers), -1)[:, None]
    all_positions = (
        first if longest == 1 else torch.cat([first, language.decode(ids[:, :-1], kv_cache, all_positions=True)], 1)
    )
    gains = all_positions.float().log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0]
    return (gains * there).sum(1)
