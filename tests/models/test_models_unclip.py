"""The generator's networks: shapes, conditions, guidance, batches."""

from dataclasses import replace

import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.models.diffusion_transformer import (
    DiffusionTransformer,
    DiffusionTransformerSettings,
    merge_patches,
    patchify,
    split_patches,
    unpatchify,
)
from beholder.models.prior import Prior, PriorSettings
from beholder.models.unclip import Standardization, Unclip, UnclipSettings
from random_weights import enlarge

DECODER = DiffusionTransformerSettings(
    8, image_size=16, patch_size=4, width=16, layers=2, heads=2, mlp_width=24, condition_width=12, context_tokens=2
)
HOURGLASS = replace(DECODER, merge=2, outer_width=8, map_channels=3, map_hidden=10)
PRIOR = PriorSettings(8, width=16, layers=2, hidden=24)


def network(decoder: DiffusionTransformerSettings = DECODER) -> Unclip:
    torch.manual_seed(0)
    return enlarge(Unclip(UnclipSettings(decoder, PRIOR)))


def test_patches_are_put_together_again_as_they_were_cut():
    pixels = torch.randn(2, 3, 16, 16)
    patches = patchify(pixels, 4)
    assert patches.shape == (2, 16, 48)
    assert torch.equal(patches[0, 5].reshape(3, 4, 4), pixels[0, :, 4:8, 4:8])  # second row, second column
    assert torch.equal(unpatchify(patches, 4), pixels)


def test_squares_of_patches_are_merged_and_split_again():
    patches = torch.arange(16.0).reshape(1, 16, 1).expand(2, 16, 3)  # a grid of 4 × 4
    merged = merge_patches(patches, 2)
    assert merged.shape == (2, 4, 12)
    assert merged[0, 1].unflatten(0, (4, 3))[:, 0].tolist() == [2, 3, 6, 7]  # the square at the top right
    assert torch.equal(split_patches(merged, 2), patches)


def test_the_map_alone_shows_a_picture_that_the_embedding_decides():
    decoder = network(HOURGLASS).decoder
    embedding = torch.randn(2, 8)
    picture = decoder.map.picture(embedding)
    assert picture.shape == (2, 3, 16, 16) and not torch.allclose(picture[0], picture[1], atol=1e-3)
    inputs = torch.randn(2, 3, 16, 16), torch.rand(2), embedding
    usual = decoder(*inputs)
    with torch.no_grad():
        decoder.map.to_tokens.weight.zero_()
    assert not torch.allclose(decoder(*inputs), usual, atol=1e-3), "the map is not added to the patches"


@pytest.mark.parametrize("settings", [DECODER, HOURGLASS])
def test_an_untrained_decoder_predicts_gray_whatever_it_is_given(settings):
    torch.manual_seed(0)
    predicted = DiffusionTransformer(settings)(torch.randn(2, 3, 16, 16), torch.rand(2), torch.randn(2, 8))
    assert torch.equal(predicted, torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(("part", "settings"), [("decoder", DECODER), ("decoder", HOURGLASS), ("prior", DECODER)])
def test_time_condition_and_sample_all_matter_and_a_dropped_condition_does_not(part, settings):
    predict = getattr(network(settings), part)
    sample = torch.randn(1, 3, 16, 16) if part == "decoder" else torch.randn(1, 8)
    time, condition, kept, dropped = torch.tensor([0.3]), torch.randn(1, 8), torch.tensor([False]), torch.tensor([True])
    usual = predict(sample, time, condition, kept)
    for changed in ((sample + 1, time, condition), (sample, time + 0.4, condition), (sample, time, condition + 1)):
        assert not torch.allclose(predict(*changed, kept), usual, atol=1e-3)
    without = predict(sample, time, condition, dropped)
    assert not torch.allclose(without, usual, atol=1e-3)
    assert torch.equal(predict(sample, time, condition + 1, dropped), without)


def test_drawing_with_guidance_1_is_drawing_with_the_condition_alone():
    generator = network()
    embeddings, noise = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1), torch.randn(2, 3, 16, 16)
    plain = generator.draw(embeddings, noise, 3, 1.0)
    assert torch.allclose(generator.draw(embeddings, noise, 3, 1.0 + 1e-6), plain, atol=1e-4)
    assert not torch.allclose(generator.draw(embeddings, noise, 3, 4.0), plain, atol=1e-3)
    assert plain.min() >= -1 and plain.max() <= 1


def test_the_prior_returns_unit_vectors_that_depend_on_the_sentence():
    generator = network()
    sentences, noise = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1), torch.randn(1, 8).expand(2, 8)
    found = generator.imagine(sentences, noise, 4, 2.0)
    assert torch.allclose(found.norm(dim=-1), torch.ones(2))
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_each_step_shows_the_predicted_picture():
    seen = []
    generator = network()
    drawn = generator.draw(
        torch.randn(1, 8), torch.randn(1, 3, 16, 16), 3, 2.0, on_step=lambda *step: seen.append(step)
    )
    assert [number for number, _ in seen] == [1, 2, 3]
    assert all(picture.shape == drawn.shape and picture.abs().max() <= 1 for _, picture in seen)


def test_standardized_embeddings_are_centered_and_of_unit_variance_and_come_back():
    embeddings = 5 + 3 * torch.randn(1000, 4)
    standardization = Standardization(4)
    standardization.fit(embeddings)
    standardized = standardization(embeddings)
    assert torch.allclose(standardized.mean(0), torch.zeros(4), atol=1e-5)
    assert float(standardized.square().mean()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(standardization.inverse(standardized), embeddings, atol=1e-5)


def test_settings_survive_json_and_impossible_ones_are_refused():
    settings = UnclipSettings(DECODER, PRIOR)
    assert UnclipSettings.from_dict(settings.to_dict()) == settings
    with pytest.raises(InvalidSetting, match="can't be cut into patches of 5"):
        DiffusionTransformerSettings(8, image_size=16, patch_size=5)
    with pytest.raises(InvalidSetting, match="can't be split into 3 heads"):
        DiffusionTransformerSettings(8, width=16, heads=3)
    with pytest.raises(InvalidSetting, match="4 × 4 patches can't be merged by 3 × 3"):
        replace(HOURGLASS, merge=3)
    with pytest.raises(InvalidSetting, match="outer_width of 12 can't be split into heads of 8"):
        replace(HOURGLASS, outer_width=12)
    with pytest.raises(InvalidSetting, match="map_channels -1 must be at least 0"):
        replace(HOURGLASS, map_channels=-1)
    with pytest.raises(InvalidSetting, match="embeddings of 8 numbers and the prior makes some of 9"):
        UnclipSettings(DECODER, PriorSettings(9))
    with pytest.raises(InvalidSetting, match="dropout 1"):
        PriorSettings(8, dropout=1.0)


def test_dropout_of_the_prior_is_for_training_only():
    prior = Prior(PRIOR)
    enlarge(prior)
    inputs = torch.randn(4, 8), torch.rand(4), torch.randn(4, 8)
    assert torch.equal(prior(*inputs), prior(*inputs))
    prior.train()
    assert not torch.equal(prior(*inputs), prior(*inputs))
