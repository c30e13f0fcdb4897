import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_model as tiny
from beholder import DualEncoder
from beholder.errors import InvalidSetting, ModelError, NotFinite, PictureBroken, PictureError, PictureNotFound
from beholder.tasks.classify import NONE

SENTENCES = ["a dog", "two cats sleep on the red sofa", "the quick brown fox jumps", "snow"]


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> DualEncoder:
    return DualEncoder.from_pretrained(tiny_model, device="cpu")


def test_embeddings_are_float32_with_unit_norm(encoder: DualEncoder, photographs: list[Path]) -> None:
    for vectors in (encoder.embed_images(photographs), encoder.embed_texts(SENTENCES)):
        assert vectors.shape == (4, tiny.EMBEDDING)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_path_bytes_image_and_array_give_the_same_embedding(encoder: DualEncoder, photographs: list[Path]) -> None:
    path = photographs[1]  # a PNG, hence lossless
    image = Image.open(path)
    sources = [path, str(path), path.read_bytes(), image, np.asarray(image)]
    vectors = encoder.embed_images(sources)
    np.testing.assert_allclose(vectors, vectors[[0] * len(sources)], atol=1e-6)
    for source in sources:
        np.testing.assert_allclose(encoder.embed_images(source), vectors[:1], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_embeddings_and_their_order_do_not_depend_on_the_batch_size(
    encoder: DualEncoder, photographs: list[Path], batch_size: int
) -> None:
    alone = np.concatenate([encoder.embed_images([path]) for path in photographs])
    np.testing.assert_allclose(encoder.embed_images(photographs, batch_size=batch_size), alone, atol=1e-6)
    alone_texts = np.concatenate([encoder.embed_texts([sentence]) for sentence in SENTENCES])
    np.testing.assert_allclose(encoder.embed_texts(SENTENCES, batch_size=batch_size), alone_texts, atol=1e-6)
    assert np.ptp(alone, axis=0).max() > 1e-3  # the pictures are different
    assert np.ptp(alone_texts, axis=0).max() > 1e-3


def test_empty_input_gives_empty_embeddings(encoder: DualEncoder) -> None:
    assert encoder.embed_images([]).shape == (0, tiny.EMBEDDING)
    assert encoder.embed_texts([]).shape == (0, tiny.EMBEDDING)
    assert list(encoder.stream_images([])) == []


def test_similarity_is_the_cosine_of_the_embeddings(encoder: DualEncoder, photographs: list[Path]) -> None:
    expected = encoder.embed_images(photographs) @ encoder.embed_texts(SENTENCES).T
    np.testing.assert_allclose(encoder.similarity(photographs, SENTENCES), expected, atol=1e-6)
    assert encoder.similarity(photographs[0], SENTENCES[0]).shape == (1, 1)


def test_a_broken_picture_is_reported_in_place_and_the_others_are_embedded(
    encoder: DualEncoder, photographs: list[Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photographs[0].read_bytes()[:200])
    sources = [cut, *photographs, tmp_path / "missing.jpg"]
    found = list(encoder.stream_images(sources, batch_size=2))
    assert [picture.index for picture in found] == list(range(6))
    assert [picture.name for picture in found] == [str(source) for source in sources]
    assert [type(picture.error) for picture in found] == [PictureBroken, *[type(None)] * 4, PictureNotFound]
    good = np.stack([picture.embedding for picture in found if picture.embedding is not None])
    np.testing.assert_allclose(good, encoder.embed_images(photographs), atol=1e-6)
    with pytest.raises(PictureError, match=r"cut\.jpg"):
        encoder.embed_images(sources)


def test_an_infinite_iterator_is_consumed_only_as_far_as_needed(encoder: DualEncoder, photographs: list[Path]) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield photographs[0]

    stream = encoder.stream_images(endless(), batch_size=2)
    assert next(stream).index == 0
    stream.close()
    assert taken <= 10


def test_leaving_a_stream_early_ends_its_threads(encoder: DualEncoder, photographs: list[Path]) -> None:
    before = set(threading.enumerate())
    stream = encoder.stream_images(photographs * 10, batch_size=1)
    next(stream)
    stream.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_classify_sorts_the_labels_and_their_probabilities_sum_to_one(
    encoder: DualEncoder, photographs: list[Path]
) -> None:
    labels = ["dog", "cat", "fox"]
    ranked = encoder.classify(photographs[0], labels)
    assert sorted(label for label, _ in ranked) == sorted(labels)
    shares = [share for _, share in ranked]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    cosines = encoder.similarity(photographs[0], [f"a photo of a {label}" for label in labels])[0]
    scaled = np.exp(cosines * encoder.network.logit_scale.exp().item())
    assert dict(ranked) == pytest.approx(dict(zip(labels, scaled / scaled.sum(), strict=True)), abs=1e-4)


def test_none_adds_a_label_and_multi_returns_each_match_independently(
    encoder: DualEncoder, photographs: list[Path]
) -> None:
    with_none = encoder.classify(photographs[0], ["dog", "cat"], none=True)
    assert {label for label, _ in with_none} == {"dog", "cat", NONE}
    assert sum(share for _, share in with_none) == pytest.approx(1, abs=1e-5)
    multi = dict(encoder.classify(photographs[0], ["dog", "cat"], multi=True))
    texts = encoder.embed_texts(["a photo of a dog", "a photo of a cat"])
    match = encoder.match(encoder.embed_images(photographs[0]), texts)[0]
    assert multi == pytest.approx({"dog": match[0], "cat": match[1]}, abs=1e-5)


def test_a_template_ensemble_is_the_normalized_mean_embedding(encoder: DualEncoder) -> None:
    templates = ["a photo of a {}", "two {} together"]
    embeddings = encoder.embed_labels(["dog", "cat"], templates)
    for label, vector in zip(["dog", "cat"], embeddings, strict=True):
        mean = encoder.embed_texts([template.replace("{}", label) for template in templates]).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"labels": []}, "no labels"),
        ({"labels": "dog"}, "list"),
        ({"labels": ["dog"], "template": "a photo"}, "must occur once"),
        ({"labels": ["dog"], "none": True, "multi": True}, "exclude"),
    ],
)
def test_an_invalid_call_is_refused_with_the_reason(
    encoder: DualEncoder, photographs: list[Path], call: dict, message: str
) -> None:
    with pytest.raises(InvalidSetting, match=message):
        encoder.classify(photographs[0], **call)


def test_match_is_computed_from_the_calibration_or_from_sigmoid_logits(photographs: list[Path]) -> None:
    calibrated = DualEncoder(tiny.build(), "cpu")
    images, texts = calibrated.embed_images(photographs), calibrated.embed_texts(SENTENCES)
    assert calibrated.calibrated
    match = calibrated.match(images, texts)
    assert match.shape == (4, 4)
    assert ((match > 0) & (match < 1)).all()

    sigmoid = DualEncoder(tiny.build(logit_bias=True, calibrated=False), "cpu")
    with torch.no_grad():
        sigmoid.network.logit_bias.fill_(-2.0)  # type: ignore[union-attr]
        logits = sigmoid.network.logits(torch.from_numpy(images), torch.from_numpy(texts))
    assert sigmoid.calibrated
    np.testing.assert_allclose(sigmoid.match(images, texts), torch.sigmoid(logits).numpy(), atol=1e-5)


def test_match_without_calibration_is_an_error(photographs: list[Path]) -> None:
    encoder = DualEncoder(tiny.build(calibrated=False), "cpu")
    assert not encoder.calibrated
    assert encoder.classify(photographs[0], ["dog", "cat"])
    for way in ("none", "multi"):
        with pytest.raises(ModelError, match="calibration"):
            encoder.classify(photographs[0], ["dog", "cat"], **{way: True})


def test_nan_embeddings_raise_an_error(photographs: list[Path]) -> None:
    encoder = DualEncoder(tiny.build(), "cpu")
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(NotFinite, match=r"harbour\.jpg"):
        encoder.embed_images(photographs)
    with pytest.raises(NotFinite, match="the texts"):
        encoder.embed_texts(SENTENCES)


def test_a_saved_encoder_gives_the_same_embeddings(
    encoder: DualEncoder, photographs: list[Path], tmp_path: Path
) -> None:
    encoder.save_pretrained(tmp_path / "saved")
    again = DualEncoder.from_pretrained(str(tmp_path / "saved"), device="cpu")
    assert np.array_equal(again.embed_images(photographs), encoder.embed_images(photographs))
    assert np.array_equal(again.embed_texts(SENTENCES), encoder.embed_texts(SENTENCES))
    assert again.loaded.name == encoder.loaded.name


def test_decoding_a_large_photograph_at_reduced_scale_gives_nearly_the_exact_embedding(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    random = np.random.default_rng(2)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    coarse.resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    quick, exact = (encoder.embed_images(tmp_path / "large.jpg", exact=exact) for exact in (False, True))
    assert (quick @ exact.T).item() > 0.999


def test_an_invalid_device_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InvalidSetting, match="abacus"):
        DualEncoder.from_pretrained(tiny_model, device="abacus")


def test_sentences_keep_their_order_when_batched_by_length(encoder: DualEncoder) -> None:
    sentences = ["a dog " * (1 + number % 5) for number in range(20)]
    together = encoder.embed_texts(sentences, batch_size=4)
    for number in range(5):
        np.testing.assert_allclose(together[number::5], together[[number] * 4], atol=1e-6)
