"""Decoding strategies: greedy search, beam search, and sampling.

Shapes: B batch, K beams, T generated tokens, V vocabulary.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from beholder.errors import InvalidSetting

MASKED_SCORE = -1e9  # of what must not be chosen

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]  # generated ids (n, T), scores of the next token (n, V) → scores
OnToken = Callable[[], None]
Result = TypeVar("Result")
Mapped = TypeVar("Mapped")


class KVCache(Protocol):
    """Keys and values of a batch, and its padding mask (B, L)."""

    mask: Tensor

    def select(self, rows: Tensor) -> None:
        """Select and reorder rows (n,) of the batch; a row may be repeated."""
        ...

    @property
    def joinable(self) -> bool:
        """Whether `join` and `trim` work for this kind of cache."""
        ...

    def join(self, others: "list[Any]") -> None:
        """Append the rows of other caches to this one. Shorter rows are padded on the left."""
        ...

    def trim(self) -> None:
        """Drop the leading positions that are padding in every row."""
        ...

    def crop(self, length: int) -> None:
        """Keep the first ``length`` positions of a cache that holds all keys and values."""
        ...


class Language(Protocol):
    """A language model on any back end; its methods are those of `beholder.models.language_model.LanguageModel`."""

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
    """Settings of text generation, as in transformers' ``GenerationConfig``.

    Attributes:
        max_new_tokens: maximum length of a text.
        num_beams: beams of beam search; 1 for greedy search or sampling.
        top_p: sample from the most probable tokens whose probabilities sum to this; None to take the most probable one.
        temperature: of sampling; above 1 flattens the distribution, below 1 sharpens it.
        repetition_penalty: above 1, tokens generated before become less probable (arXiv:1909.05858, section 4.1).
        no_repeat_ngram_size: n-grams of this size are never repeated; 0 for no limit.
        length_penalty: exponent of the length by which a beam's score is divided.
        early_stopping: stop as soon as there are ``num_beams`` finished texts.
        seed: random seed.
        suppress_tokens: tokens that are never generated.
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
    suppress_tokens: tuple[int, ...] = ()

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
            raise InvalidSetting("top_p samples single texts: it needs num_beams=1")
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise InvalidSetting("temperature and repetition_penalty must be above 0")


@dataclass(frozen=True)
class GeneratedText:
    """Token ids without the end token, and the mean log-probability of all tokens including it."""

    ids: list[int]
    score: float


@dataclass(frozen=True)
class DecodeStep:
    """What a decoding strategy asks of the language model: the logits after one more token in each row.

    Attributes:
        tokens: the next token of each row that continues (n,).
        rows: the rows of its cache that those tokens continue (n,); None for all, in order.
    """

    tokens: Tensor
    rows: Tensor | None = None


# Yields what to decode, receives the logits (n, V), and returns the texts.
DecodingSteps = Generator[DecodeStep, Tensor, Result]


@dataclass(frozen=True)
class Decoding(Generic[Result]):
    """Prompts that were read, and the steps that continue them.

    `run` takes the steps alone, `beholder.runtime.continuous_batching.ContinuousBatch` those of several together.

    Attributes:
        kv_cache: of the prompts.
        steps: not started yet.
    """

    kv_cache: KVCache
    steps: DecodingSteps[Result]

    def map(self, function: Callable[[Result], Mapped]) -> "Decoding[Mapped]":
        """Return the same steps with a function of their result."""

        def steps() -> DecodingSteps[Mapped]:
            return function((yield from self.steps))

        return Decoding(self.kv_cache, steps())


@torch.inference_mode()
def run(language: Language, decoding: Decoding[Result], on_token: OnToken | None = None) -> Result:
    """Take all steps, and return the result; ``on_token`` is called before each and may raise to abort."""
    try:
        if on_token is not None:
            on_token()
        step = next(decoding.steps)
        while True:
            if step.rows is not None:
                decoding.kv_cache.select(step.rows)
            logits = language.decode(step.tokens[:, None], decoding.kv_cache)
            if on_token is not None:
                on_token()
            step = decoding.steps.send(logits)
    except StopIteration as stop:
        return stop.value


def generate(
    language: Language,
    embeddings: Tensor,
    mask: Tensor,
    settings: DecodingSettings,
    on_token: OnToken | None = None,
    *,
    num_return_sequences: int = 1,
) -> list[GeneratedText]:
    """Generate texts after prompts.

    Args:
        language: the language model.
        embeddings: of tokens and soft prompts (B, T, D).
        mask: (B, T), false at padding, which is on the left.
        settings: how to decode.
        on_token: called before each step; an exception aborts generation.
        num_return_sequences: texts per prompt, one after the other; sampled ones differ.
    """
    decoding = start_decoding(language, embeddings, mask, settings, num_return_sequences=num_return_sequences)
    return run(language, decoding, on_token)


@torch.inference_mode()
def start_decoding(
    language: Language,
    embeddings: Tensor,
    mask: Tensor,
    settings: DecodingSettings,
    *,
    num_return_sequences: int = 1,
) -> Decoding[list[GeneratedText]]:
    """Read prompts, and return the steps that continue them; the arguments are those of `generate`."""
    logits, kv_cache = language.prefill(embeddings, mask)
    if num_return_sequences > 1:
        rows = torch.arange(len(embeddings), device=logits.device).repeat_interleave(num_return_sequences)
        kv_cache.select(rows)
        logits = logits[rows]
    if settings.num_beams == 1:
        return Decoding(kv_cache, sampling_steps(language, logits, settings))
    beams = Decoding(kv_cache, beam_search_steps(language, logits, settings))
    return beams.map(lambda finished: [texts[0] for texts in finished])


def generate_candidates(
    language: Language,
    embeddings: Tensor,
    mask: Tensor,
    settings: DecodingSettings,
    count: int,
    on_token: OnToken | None = None,
) -> list[list[GeneratedText]]:
    """Generate up to ``count`` texts per prompt, best first: the best beams, or samples with ``top_p``.

    The other arguments are those of `generate`. There may be fewer texts if fewer beams finished.
    """
    return run(language, start_candidates(language, embeddings, mask, settings, count), on_token)


@torch.inference_mode()
def start_candidates(
    language: Language, embeddings: Tensor, mask: Tensor, settings: DecodingSettings, count: int
) -> Decoding[list[list[GeneratedText]]]:
    """Read prompts, and return the steps of `generate_candidates`."""
    if settings.top_p is not None:

        def ranked(samples: list[GeneratedText]) -> list[list[GeneratedText]]:
            rows = [samples[start : start + count] for start in range(0, len(samples), count)]
            return [sorted(row, key=lambda text: -text.score) for row in rows]

        return start_decoding(language, embeddings, mask, settings, num_return_sequences=count).map(ranked)
    logits, kv_cache = language.prefill(embeddings, mask)
    settings = replace(settings, num_beams=max(settings.num_beams, count))
    beams = Decoding(kv_cache, beam_search_steps(language, logits, settings))
    return beams.map(lambda finished: [texts[:count] for texts in finished])


def sampling_steps(
    language: Language, logits: Tensor, settings: DecodingSettings
) -> DecodingSteps[list[GeneratedText]]:
    """Continue cached prompts by greedy search or sampling. Finished rows leave the batch."""
    rows = torch.arange(len(logits))
    texts: list[list[int]] = [[] for _ in rows]
    scores = [0.0] * len(rows)
    generated = torch.zeros(len(rows), 0, dtype=torch.long)
    sample = token_sampler(language, settings)
    eos_token_ids = torch.tensor(language.eos_token_ids)
    for number in range(settings.max_new_tokens):
        tokens, log_probs = sample(generated.to(logits.device), logits)
        ended = torch.isin(tokens.cpu(), eos_token_ids)
        for row, token, score, end in zip(
            rows.tolist(), tokens.tolist(), log_probs.tolist(), ended.tolist(), strict=True
        ):
            scores[row] += score
            texts[row].append(token)
            if end or number + 1 == settings.max_new_tokens:
                scores[row] /= len(texts[row])
                texts[row] = texts[row][: len(texts[row]) - end]
        if ended.all() or number + 1 == settings.max_new_tokens:
            break
        running = ~ended
        rows, generated = rows[running], torch.cat([generated, tokens.cpu()[:, None]], 1)[running]
        kept = running.nonzero()[:, 0].to(tokens.device) if ended.any() else None
        logits = yield DecodeStep(tokens[running.to(tokens.device)], kept)
    return [GeneratedText(text, score) for text, score in zip(texts, scores, strict=True)]


@torch.inference_mode()
def stream(language: Language, logits: Tensor, kv_cache: KVCache, settings: DecodingSettings) -> Iterator[int]:
    """Yield the tokens of a single row as they are generated, without the end token.

    The cache then holds all of them but the last.
    """
    tokens: list[int] = []
    steps = tokens_of(sampling_steps(language, logits, settings), tokens.append)
    step = next(steps, None)
    while True:
        yield from tokens
        tokens.clear()
        if step is None:
            return
        logits = language.decode(step.tokens[:, None], kv_cache)
        try:
            step = steps.send(logits)
        except StopIteration:
            step = None


def tokens_of(steps: DecodingSteps[list[GeneratedText]], on_token: Callable[[int], None]) -> DecodingSteps[list[int]]:
    """Take the steps of a single row, call a function with each token as it is chosen, and return all tokens."""
    count = 0
    try:
        step = next(steps)
        while True:
            count += 1
            on_token(int(step.tokens))
            step = steps.send((yield step))
    except StopIteration as stop:
        ids: list[int] = stop.value[0].ids
        for token in ids[count:]:  # the last one is not decoded
            on_token(token)
        return ids


def token_sampler(language: Language, settings: DecodingSettings) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a function: generated ids (B, T), logits (B, V) → next tokens (B,), their log-probabilities (B,)."""
    process = logits_processor(language, settings)
    if settings.top_p is None:

        def greedy(generated: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
            best = process(generated, logits.float()).argmax(-1)
            return best, token_log_probs(logits, best)

        return greedy
    from transformers import TopPLogitsWarper

    top_p = TopPLogitsWarper(settings.top_p) if settings.top_p < 1 else None  # it sorts the vocabulary
    generator = torch.Generator().manual_seed(settings.seed)

    def sample(generated: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        scores = process(generated, logits.float()) / settings.temperature
        probabilities = (scores if top_p is None else top_p(generated, scores)).softmax(-1)
        tokens = torch.multinomial(probabilities.cpu(), 1, generator=generator)[:, 0].to(logits.device)
        return tokens, token_log_probs(logits, tokens)

    return sample


def token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities (B,) of tokens (B,) given logits (B, V)."""
    logits = logits.float()
    return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def logits_processor(language: Language, settings: DecodingSettings) -> LogitsProcessor:
    """Return a function that applies repetition penalty, n-gram blocking and suppressed tokens to scores."""
    penalty, size = settings.repetition_penalty, settings.no_repeat_ngram_size
    suppressed = list(settings.suppress_tokens)
    start = torch.tensor([language.decoder_start_token_ids], dtype=torch.long)

    def process(generated: Tensor, scores: Tensor) -> Tensor:
        if penalty == 1 and not size and not suppressed:
            return scores
        generated = torch.cat([start.expand(len(generated), -1).to(generated), generated], 1)
        scores = scores.clone()
        if penalty != 1 and generated.shape[1]:
            repeated = scores.gather(1, generated)
            scores.scatter_(1, generated, torch.where(repeated < 0, repeated * penalty, repeated / penalty))
        if size and generated.shape[1] >= size:
            for row, text in enumerate(generated.tolist()):
                scores[row, banned_tokens(text, size)] = -torch.inf
        if suppressed:
            scores[:, suppressed] = -torch.inf
        return scores

    return process


def banned_tokens(text: list[int], size: int) -> list[int]:
    """Return the tokens that would repeat an n-gram of this size in the text."""
    last = text[len(text) - size + 1 :]
    return [text[end] for end in range(size - 1, len(text)) if text[end - size + 1 : end] == last]


def blockwise_topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest values of each row (n, V), in order, and their indices; faster than ``topk``.

    They lie in the blocks whose maxima are largest, and those are found at the speed of memory.
    """
    block = 32
    blocked = scores.shape[1] // block * block
    if blocked // block <= 2 * count:
        return scores.topk(count)
    blocks = scores[:, :blocked].unflatten(1, (-1, block))
    best = blocks.amax(2).topk(count).indices  # (n, count)
    indices = (best[:, :, None] * block + torch.arange(block, device=scores.device)).flatten(1)
    rest = torch.arange(blocked, scores.shape[1], device=scores.device).expand(len(scores), -1)
    indices = torch.cat([indices, rest], 1)
    values, chosen = scores.gather(1, indices).topk(count)
    return values, indices.gather(1, chosen)


def beam_search_steps(
    language: Language, logits: Tensor, settings: DecodingSettings
) -> DecodingSteps[list[list[GeneratedText]]]:
    """Continue cached prompts by beam search, and return each row's finished texts, best first, as transformers does.

    All beams of a row start from one cached prompt. A row that no running beam can improve leaves the batch.
    """
    count, num_beams, vocabulary = len(logits), settings.num_beams, logits.shape[-1]
    device = logits.device
    process = logits_processor(language, settings)
    eos_token_ids = torch.tensor(language.eos_token_ids, device=device)
    kept = max(2, 1 + len(eos_token_ids)) * num_beams
    rows = torch.arange(count)
    running = torch.zeros(count, 1, 0, dtype=torch.long, device=device)  # (B, K, T); initially one empty beam
    scores = torch.zeros(count, 1, device=device)
    done = torch.zeros(count, num_beams, settings.max_new_tokens, dtype=torch.long, device=device)
    lengths = torch.zeros(count, num_beams, dtype=torch.long, device=device)
    done_scores = torch.full((count, num_beams), MASKED_SCORE, device=device)
    finished: list[list[GeneratedText]] = [[] for _ in range(count)]
    for number in range(settings.max_new_tokens):
        width = running.shape[1]
        logits = logits.float()
        log_probs = process(running.flatten(0, 1), logits - logits.logsumexp(-1, keepdim=True))
        # The best of all are among the best of each beam.
        each, tokens = blockwise_topk(log_probs, min(kept, vocabulary))
        each = each.view(len(rows), width, -1) + scores[:, :, None]
        best, chosen = each.flatten(1).topk(min(kept, each[0].numel()))
        parents = chosen // each.shape[2]
        new_tokens = tokens.view(len(rows), -1).gather(1, chosen)
        longer = torch.cat([gather_beams(running, parents), new_tokens[:, :, None]], 2)
        ended = torch.isin(new_tokens, eos_token_ids) | (number + 1 == settings.max_new_tokens)
        # Texts that end among the best K are finished; the K best finished texts are kept.
        finished_scores = best / (number + 1) ** settings.length_penalty
        unfinished = ~ended | (torch.arange(best.shape[1], device=device) >= num_beams)
        if settings.early_stopping:
            unfinished |= (done_scores > MASKED_SCORE).all(1, keepdim=True)
        finished_scores = finished_scores.masked_fill(unfinished, MASKED_SCORE)
        done_scores, stay = torch.cat([done_scores, finished_scores], 1).topk(num_beams)
        padded = torch.nn.functional.pad(longer, (0, settings.max_new_tokens - number - 1))
        done = gather_beams(torch.cat([done, padded], 1), stay)
        lengths = torch.cat([lengths, torch.full_like(new_tokens, number + 1)], 1).gather(1, stay)
        scores, chosen = (best + ended * MASKED_SCORE).topk(num_beams)
        full = (done_scores > MASKED_SCORE).all(1)
        worst = torch.where(full, done_scores[:, -1], torch.tensor(MASKED_SCORE, device=device))
        over = (scores[:, 0] / (number + 1) ** settings.length_penalty <= worst) | ended.all(1)
        if settings.early_stopping:
            over |= full
        for row in over.nonzero()[:, 0].tolist():
            finished_count = max(1, int((done_scores[row] > MASKED_SCORE).sum()))
            for text, length, score in zip(
                done[row, :finished_count].tolist(), lengths[row].tolist(), done_scores[row].tolist(), strict=False
            ):
                ids = text[: length - (text[length - 1] in language.eos_token_ids)]
                text_score = score * length ** (settings.length_penalty - 1)
                finished[int(rows[row])].append(GeneratedText(ids, text_score))
        running_rows = (~over).nonzero()[:, 0]
        if not len(running_rows):
            break
        source = (parents.gather(1, chosen) + torch.arange(len(rows), device=device)[:, None] * width)[running_rows]
        running, scores = gather_beams(longer, chosen)[running_rows], scores[running_rows]
        done, lengths, done_scores = done[running_rows], lengths[running_rows], done_scores[running_rows]
        rows = rows[running_rows.cpu()]
        logits = yield DecodeStep(running[:, :, -1].flatten(), source.flatten())
    return finished


def gather_beams(beams: Tensor, chosen: Tensor) -> Tensor:
    """Select beams (B, K) of (B, n, T) → (B, K, T)."""
    return beams.gather(1, chosen[:, :, None].expand(-1, -1, beams.shape[2]))


@torch.inference_mode()
def sequence_log_probs(language: Language, logits: Tensor, kv_cache: KVCache, answers: list[list[int]]) -> Tensor:
    """Return the log-probability (n,) of each answer, a list of token ids, after the single cached prompt."""
    longest = max(len(answer) for answer in answers)
    ids = torch.zeros(len(answers), longest, dtype=torch.long, device=logits.device)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer, device=logits.device)
        mask[row, : len(answer)] = True
    kv_cache.select(torch.zeros(len(answers), dtype=torch.long, device=logits.device))
    all_logits = logits.expand(len(answers), -1)[:, None]
    if longest > 1:
        following = language.decode(ids[:, :-1], kv_cache, all_positions=True)
        all_logits = torch.cat([all_logits, following], 1)
    log_probs = all_logits.float().log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0]
    return (log_probs * mask).sum(1)
