"""Classification, similarity, captions and attention maps match the library."""

import numpy as np
import pytest

from beholder import DualEncoder, VisionLanguageModel
from serving import Running, data_address, picture


def test_classification_matches_the_library(server: Running, encoder: DualEncoder) -> None:
    labels, templates = ["a dog", "a cat", "the sea"], ["a photo of {}", "{} by night"]
    for options in ({}, {"none": True}, {"multi": True}):
        body = {"image": data_address(picture()), "labels": labels, "template": templates} | options
        answer = server.post("/v1/classify", body).json
        expected = encoder.classify(picture(), labels, templates, **options)
        assert [row["label"] for row in answer["labels"]] == [label for label, _ in expected]
        assert [row["probability"] for row in answer["labels"]] == pytest.approx([share for _, share in expected])
    body = {"image": data_address(picture()), "labels": labels, "top": 1}
    assert len(server.post("/v1/classify", body).json["labels"]) == 1


def test_similarity_matches_the_library(server: Running, encoder: DualEncoder) -> None:
    pictures, texts = [picture(1), picture(2)], ["a dog", "a cat", "the sea"]
    answer = server.post("/v1/similarity", {"images": [*map(data_address, pictures)], "texts": texts}).json
    images, words = encoder.embed_images(pictures), encoder.embed_texts(texts)
    np.testing.assert_allclose(answer["cosines"], images @ words.T, atol=1e-6)
    np.testing.assert_allclose(answer["match"], encoder.match(images, words), atol=1e-6)


def test_captions_match_the_library(server: Running, vision_language_model: VisionLanguageModel) -> None:
    body = {"image": data_address(picture(4)), "prompt": "a photo of", "max_new_tokens": 7, "num_beams": 2}
    answer = server.post("/v1/caption", body).json
    assert answer["caption"] == vision_language_model.caption(picture(4), "a photo of", 7, num_beams=2)
    assert answer["score"] is None and answer["candidates"] == []
    drawn = server.post("/v1/caption", {"image": data_address(picture(4)), "top_p": 0.9, "seed": 7}).json["caption"]
    assert drawn == vision_language_model.caption(picture(4), top_p=0.9, seed=7)
    without = server.post("/v1/caption", {"image": data_address(picture(4)), "candidates": 3})
    assert without.status == 400 and without.code == "unsupported_by_model"  # it has no matching head


def test_attention_maps_match_the_library(server: Running, vision_language_model: VisionLanguageModel) -> None:
    answer = server.post("/v1/attention", {"image": data_address(picture()), "text": "a red dog"}).json
    attention_maps = vision_language_model.attention_maps(picture(), "a red dog")
    assert answer["words"] == attention_maps.words
    np.testing.assert_allclose(answer["maps"], attention_maps.maps, atol=1e-6)
    np.testing.assert_allclose(answer["overall"], attention_maps.overall, atol=1e-6)


def test_the_openapi_document_lists_every_route(server: Running) -> None:
    described = server.ask("GET", "/openapi.json").json["paths"]
    assert {"/v1/models", "/v1/embeddings", "/v1/chat/completions", "/v1/classify", "/v1/similarity"} < set(described)
    assert "/v1/caption" in described and "/v1/attention" in described


def test_metrics_count_the_work_done(server: Running) -> None:
    body = {"image": data_address(picture()), "labels": ["a dog", "a cat"]}
    assert server.post("/v1/classify", body).status == 200
    text = server.ask("GET", "/metrics").data.decode()
    assert 'beholder_requests_total{method="POST",route="/v1/classify",status="200"}' in text
    assert "beholder_ready 1.0" in text and "beholder_pictures_total" in text
    assert 'beholder_batch_inputs_count{work="embed pictures"}' in text
    assert "process_resident_memory_bytes" in text
    assert 'beholder_cache_capacity_tokens{model="tiny"} 16384.0' in text
    assert 'beholder_cache_tokens{model="tiny"} 0.0' in text
    assert 'beholder_tokens_per_second{model="tiny"}' in text and 'beholder_texts_waiting{model="tiny"} 0.0' in text
    assert 'beholder_decoding_rows_count{model="tiny"}' in text
    assert 'beholder_requests_under_way{route="/metrics"} 1.0' in text
