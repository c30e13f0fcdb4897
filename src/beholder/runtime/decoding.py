"""How words are chosen one after the other: greedy, by beams, or drawn at random.

Shapes: B rows, K beams, T words written, V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from beholder.errors import InvalidSetting
from beholder.models.language_model import LanguageModel, Memory

NEVER = -1e9  # added to the score of what must not be chosen

Rules = Callable[[Tensor, Tensor], Tensor]  # words written (n, T) and scores of the next (n, V) → scores


@dataclass(frozen=True)
class DecodingSettings:
    """How to write.

    Attributes:
        max_new_tokens: longest text, in tokens.
        num_beams: texts that are followed at once; 1 is greedy.
        top_p: draw from the likeliest words that together have this probability; None chooses the likeliest.
        temperature: above 1 evens out the probabilities that are drawn from, below 1 sharpens them.
        repetition_penalty: above 1 makes words that were written less likely (arXiv:1909.05858, section 4.1).
        no_repeat_ngram: so many words in a row never come twice; 0 allows it.
        length_penalty: power of the length by which a beam's score is divided.
        early_stopping: a row ends as soon as it has ``num_beams`` finished texts.
        seed: of the drawing.
    """

    max_new_tokens: int = 20
    num_beams: int = 1
    top_p: float | None = None
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    length_penalty: float = 1.0
    early_stopping: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise InvalidSetting("max_new_tokens and num_beams must each be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidSetting(f"top_p {self.top_p} is not between 0 and 1")
        if self.top_p is not None and self.num_beams > 1:
            raise InvalidSetting("top_p draws single texts: it goes with num_beams=1")
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise InvalidSetting("temperature and repetition_penalty must be above 0")


@dataclass(frozen=True)
class Written:
    """The tokens of a text without its end, and its score: the mean log-probability of its words, the end included."""

    ids: list[int]
    score: float


@torch.inference_mode()
def write(language: LanguageModel, embeddings: Tensor, mask: Tensor, settings: DecodingSettings) -> list[Written]:
    """One text for each row of embeddings (B, T, D); the mask (B, T) is false at padding, which stands in front."""
    logits, memory = language.begin(embeddings, mask)
    if settings.num_beams > 1:
        return beams(language, logits, memory, settings)
    return singles(language, logits, memory, settings)


def singles(language: LanguageModel, logits: Tensor, memory: Memory, settings: DecodingSettings) -> list[Written]:
    """Greedy or drawn texts. A row that has ended leaves the batch."""
    rows = torch.arange(len(logits))
    texts: list[list[int]] = [[] for _ in rows]
    scores = [0.0] * len(rows)
    written = torch.zeros(len(rows), 0, dtype=torch.long)
    choose = chooser(language, settings)
    ends = torch.tensor(language.ends)
    for number in range(settings.max_new_tokens):
        words, sure = choose(written.to(logits.device), logits)
        ended = torch.isin(words.cpu(), ends)
        for row, word, gained, end in zip(rows.tolist(), words.tolist(), sure.tolist(), ended.tolist(), strict=True):
            scores[row] += gained
            texts[row].append(word)
            if end or number + 1 == settings.max_new_tokens:
                scores[row] /= len(texts[row])
                texts[row] = texts[row][: len(texts[row]) - end]
        if ended.all() or number + 1 == settings.max_new_tokens:
            break
        going = ~ended
        rows, written = rows[going], torch.cat([written, words.cpu()[:, None]], 1)[going]
        if ended.any():
            memory.select(going.nonzero()[:, 0].to(words.device))
        logits = language.go_on(words[going.to(words.device)][:, None], memory)
    return [Written(text, score) for text, score in zip(texts, scores, strict=True)]


@torch.inference_mode()
def stream(language: LanguageModel, logits: Tensor, memory: Memory, settings: DecodingSettings) -> Iterator[int]:
    """The tokens of a single row as they come, without the end. The memory holds all but the last of them."""
    choose = chooser(language, settings)
    written = torch.zeros(1, 0, dtype=torch.long)
    for number in range(settings.max_new_tokens):
        words, _ = choose(written.to(logits.device), logits)
        if int(words) in language.ends:
            return
        yield int(words)
        written = torch.cat([written, words.cpu()[:, None]], 1)
        if number + 1 < settings.max_new_tokens:
            logits = language.go_on(words[:, None], memory)


def chooser(language: LanguageModel, settings: DecodingSettings) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The next words (B,) and their log-probabilities (B,), from what was written (B, T) and the logits (B, V)."""
    rules = rules_of(language, settings)
    if settings.top_p is None:

        def likeliest(written: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
            best = rules(written, logits.float()).argmax(-1)
            return best, gained(logits, best)

        return likeliest
    from transformers import TopPLogitsWarper

    keep = TopPLogitsWarper(settings.top_p)
    generator = torch.Generator().manual_seed(settings.seed)

    def drawn(written: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        chances = keep(written, rules(written, logits.float()) / settings.temperature).softmax(-1)
        words = torch.multinomial(chances.cpu(), 1, generator=generator)[:, 0].to(logits.device)
        return words, gained(logits, words)

    return drawn


def gained(logits: Tensor, words: Tensor) -> Tensor:
    """Log-probabilities (B,) of words (B,) among logits (B, V)."""
    logits = logits.float()
    return logits.gather(1, words[:, None])[:, 0] - logits.logsumexp(-1)


def rules_of(language: LanguageModel, settings: DecodingSettings) -> Rules:
    """What the settings forbid or make less likely, as transformers' own rules do it."""
    from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    rules = LogitsProcessorList()
    if settings.repetition_penalty != 1:
        rules.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.no_repeat_ngram:
        rules.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram))
    start = torch.tensor([language.starts])
    return lambda written, scores: rules(
        torch.cat([start.expand(len(written), -1).to(written), written], 1),  # type: ignore[arg-type]
        scores,
    )


def beams(language: LanguageModel, logits: Tensor, memory: Memory, settings: DecodingSettings) -> list[Written]:
    """The best of several texts followed at once, chosen as transformers chooses it.

    All beams of a row begin from one memory of its picture. A row that no running beam can improve leaves the batch.
    """
    count, wide, vocabulary = len(logits), settings.num_beams, logits.shape[-1]
    device = logits.device
    rules = rules_of(language, settings)
    ends = torch.tensor(language.ends, device=device)
    kept = max(2, 1 + len(ends)) * wide
    rows = torch.arange(count)
    running = torch.zeros(count, 1, 0, dtype=torch.long, device=device)  # (B, K, T); at first one empty beam
    scores = torch.zeros(count, 1, device=device)
    done = torch.zeros(count, wide, settings.max_new_tokens, dtype=torch.long, device=device)
    lengths = torch.zeros(count, wide, dtype=torch.long, device=device)
    done_scores = torch.full((count, wide), NEVER, device=device)
    finished: list[Written | None] = [None] * count
    for number in range(settings.max_new_tokens):
        held = running.shape[1]
        gains = logits.float().log_softmax(-1)
        gains = rules(running.flatten(0, 1), gains).view(len(rows), held, vocabulary)
        best, places = (gains + scores[:, :, None]).flatten(1).topk(min(kept, held * vocabulary))
        parents, words = places // vocabulary, places % vocabulary
        longer = torch.cat([take(running, parents), words[:, :, None]], 2)
        ended = torch.isin(words, ends) | (number + 1 == settings.max_new_tokens)
        # What has ended among the first K is finished; it stays if it is among the K best that ever finished.
        closing = best / (number + 1) ** settings.length_penalty
        closing = closing.masked_fill(~ended | (torch.arange(best.shape[1], device=device) >= wide), NEVER)
        if settings.early_stopping:
            closing = closing.masked_fill((done_scores > NEVER).all(1, keepdim=True), NEVER)
        done_scores, stay = torch.cat([done_scores, closing], 1).topk(wide)
        padded = torch.nn.functional.pad(longer, (0, settings.max_new_tokens - number - 1))
        done = take(torch.cat([done, padded], 1), stay)
        lengths = torch.cat([lengths, torch.full_like(words, number + 1)], 1).gather(1, stay)
        scores, chosen = (best + ended * NEVER).topk(wide)
        full = (done_scores > NEVER).all(1)
        worst = torch.where(full, done_scores[:, -1], torch.tensor(NEVER, device=device))
        over = (scores[:, 0] / (number + 1) ** settings.length_penalty <= worst) | ended.all(1)
        if settings.early_stopping:
            over |= full
        for place in over.nonzero()[:, 0].tolist():
            ids = done[place, 0, : int(lengths[place, 0])].tolist()
            mean = float(done_scores[place, 0]) * len(ids) ** (settings.length_penalty - 1)
            finished[int(rows[place])] = Written(ids[: len(ids) - (ids[-1] in language.ends)], mean)
        going = (~over).nonzero()[:, 0]
        if not len(going):
            break
        source = (parents.gather(1, chosen) + torch.arange(len(rows), device=device)[:, None] * held)[going]
        running, scores = take(longer, chosen)[going], scores[going]
        done, lengths, done_scores = done[going], lengths[going], done_scores[going]
        rows = rows[going.cpu()]
        memory.select(source.flatten())
        logits = language.go_on(running[:, :, -1].reshape(-1, 1), memory)
    return [text for text in finished if text is not None]


def take(beams: Tensor, chosen: Tensor) -> Tensor:
    """Of (B, n, T) those that ``chosen`` (B, K) names: (B, K, T)."""
    return beams.gather(1, chosen[:, :, None].expand(-1, -1, beams.shape[2]))


@torch.inference_mode()
def likelihoods(language: LanguageModel, logits: Tensor, memory: Memory, answers: list[list[int]]) -> Tensor:
    """Log-probability of each answer, a list of tokens, behind the single row that the memory holds: (n,)."""
    longest = max(len(answer) for answer in answers)
    ids = torch.zeros(len(answers), longest, dtype=torch.long, device=logits.device)
    there = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer, device=logits.device)
        there[row, : len(answer)] = True
    memory.select(torch.zeros(len(answers), dtype=torch.long, device=logits.device))
    first = logits.expand(len(answers), -1)[:, None]
    every = first if longest == 1 else torch.cat([first, language.go_on(ids[:, :-1], memory, every=True)], 1)
    gains = every.float().log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0]
    return (gains * there).sum(1)
