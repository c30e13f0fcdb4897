"""Our decoding against transformers' `generate`: the same embeddings give the same tokens."""

import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.models.language_model import LanguageModel
from beholder.runtime.decoding import DecodingSettings, generate, generate_candidates, sequence_log_probs, stream
from tiny_language_models import make, prompts


def reference(language: LanguageModel, vectors: torch.Tensor, mask: torch.Tensor, **options: object) -> list[list[int]]:
    """Return transformers' token ids, without the end token and what follows it."""
    end = language.eos_token_ids[0]
    rows = language.module.generate(inputs_embeds=vectors, attention_mask=mask.long(), **options).tolist()
    texts = []
    for row in rows:
        row = row[1:] if language.encoder_decoder else row
        texts.append(row[: row.index(end)] if end in row else row)
    return texts


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["opt", "llama", "t5"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 3},
        {"num_beams": 5, "length_penalty": 2.0},
        {"num_beams": 3, "length_penalty": -1.0},
        {"num_beams": 4, "early_stopping": True},
        {"num_beams": 3, "repetition_penalty": 1.5},
        {"num_beams": 1, "no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_decoding_gives_the_tokens_of_transformers(kind: str, padded: bool, options: dict[str, object]) -> None:
    language = make(kind)
    vectors, mask = prompts(padded)
    ours = generate(language, vectors, mask, DecodingSettings(max_new_tokens=12, **options))  # type: ignore[arg-type]
    theirs = dict(options)
    if "no_repeat_ngram_size" in theirs:
        theirs["no_repeat_ngram_size"] = theirs.pop("no_repeat_ngram_size")
    theirs |= {"max_new_tokens": 12, "do_sample": False}
    if (
        padded and "repetition_penalty" in options
    ):  # transformers' texts of a padded batch differ from those of its rows
        expected = [
            reference(language, vectors[row : row + 1, skip:], mask[row : row + 1, skip:], **theirs)[0]
            for row, skip in enumerate((~mask).sum(1).tolist())
        ]
    else:
        expected = reference(language, vectors, mask, **theirs)
    assert [text.ids for text in ours] == expected
    if options.get("length_penalty") != 2:  # which favours the longest
        assert len({len(text.ids) for text in ours}) > 1, "all rows ended at once, which tests little"


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_several_returned_sequences_equal_those_of_transformers(kind: str) -> None:
    language = make(kind)
    vectors, mask = prompts(padded=False)
    several = generate_candidates(language, vectors, mask, DecodingSettings(max_new_tokens=12, num_beams=2), 4)
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 12, "do_sample": False}
    assert [text.ids for row in several for text in row] == reference(language, vectors, mask, **options)
    for row, best in zip(several, generate(language, vectors, mask, DecodingSettings(12, num_beams=4)), strict=True):
        assert row[0] == best
        assert [text.score for text in row] == sorted((text.score for text in row), reverse=True)
    two = generate_candidates(language, vectors, mask, DecodingSettings(max_new_tokens=12, num_beams=4), 2)
    assert two == [row[:2] for row in several]


def test_several_sampled_texts_are_grouped_by_row() -> None:
    language = make("llama")
    vectors, mask = prompts(padded=False)
    narrow = DecodingSettings(12, top_p=1e-6)
    greedy = generate(language, vectors, mask, DecodingSettings(12))
    for row, text in zip(generate_candidates(language, vectors, mask, narrow, 3), greedy, strict=True):
        assert [each.ids for each in row] == [text.ids] * 3


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("wide", [1, 3])
def test_decoding_does_not_depend_on_the_batch(kind: str, wide: int) -> None:
    language = make(kind)
    vectors, mask = prompts(padded=True)
    settings = DecodingSettings(max_new_tokens=12, num_beams=wide)
    together = generate(language, vectors, mask, settings)
    for row in range(len(vectors)):
        alone = generate(language, vectors[row : row + 1, row % 7 :], mask[row : row + 1, row % 7 :], settings)
        assert alone[0].ids == together[row].ids
        assert alone[0].score == pytest.approx(together[row].score, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_score_is_the_mean_log_probability(kind: str) -> None:
    language = make(kind)
    vectors, mask = prompts(padded=False)
    for wide in (1, 3):
        for row, text in enumerate(
            generate(language, vectors, mask, DecodingSettings(max_new_tokens=12, num_beams=wide))
        ):
            answer = text.ids + ([*language.eos_token_ids] if len(text.ids) < 12 else [])
            logits, kv_cache = language.prefill(vectors[row : row + 1], mask[row : row + 1])
            found = sequence_log_probs(language, logits, kv_cache, [answer, [5]])
            assert float(found[0]) / len(answer) == pytest.approx(text.score, abs=1e-4)
            assert float(found[1]) == pytest.approx(float(logits.log_softmax(-1)[0, 5]), abs=1e-4)


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_streaming_gives_the_tokens_of_greedy_decoding(kind: str) -> None:
    language = make(kind)
    vectors, mask = prompts(padded=False)
    settings = DecodingSettings(max_new_tokens=12)
    logits, kv_cache = language.prefill(vectors[:1], mask[:1])
    assert (
        list(stream(language, logits, kv_cache, settings)) == generate(language, vectors[:1], mask[:1], settings)[0].ids
    )


def test_sampled_texts_depend_on_the_seed_alone() -> None:
    language = make("llama")
    vectors, mask = prompts(padded=False)
    texts = [
        [text.ids for text in generate(language, vectors, mask, DecodingSettings(top_p=0.9, seed=seed))]
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_sampling_from_a_single_token_is_greedy() -> None:
    language = make("llama")
    vectors, mask = prompts(padded=False)
    narrow = generate(language, vectors, mask, DecodingSettings(top_p=1e-6))
    assert [text.ids for text in narrow] == [text.ids for text in generate(language, vectors, mask, DecodingSettings())]


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 0}, {"num_beams": 0}, {"top_p": 1.5}, {"top_p": 0.5, "num_beams": 2}, {"temperature": 0}],
)
def test_invalid_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting):
        DecodingSettings(**settings)  # type: ignore[arg-type]
