import pytest
import torch
import torch.nn.functional as F

from beholder.errors import InvalidSetting
from canonical_correlation import inverse_square_root, statistics
from locked_image_tuning import (
    LockedImageConfig,
    LockedImageData,
    caption_moments,
    fit_caption_map,
    prepare_features,
    train_heads,
)


def test_the_caption_map_is_ridge_regression_on_square_root_features() -> None:
    torch.manual_seed(0)
    images, captions = torch.rand(40, 2, 6), torch.randn(40, 3, 4)
    data = LockedImageData(images, captions, torch.randn(5, 1, 4), torch.randn(5, 6), torch.zeros(5))
    settings = LockedImageConfig(distillation_weight=0.0, image_ridge=0.5, text_ridge=0.1)
    x = prepare_features(images, "root").double()
    y = prepare_features(captions, "unit").double()
    rows = [(x[n, v], y[n, c]) for n in range(40) for v in range(2) for c in range(3)]
    inputs, targets = (torch.stack(side) for side in zip(*rows, strict=True))
    inputs, targets = inputs - inputs.mean(0), targets - targets.mean(0)
    whitened = targets @ inverse_square_root(statistics(x, y).text, 0.1)
    gram = inputs.T @ inputs / len(inputs)
    ridge = 0.5 * gram.trace() / 6 * torch.eye(6, dtype=torch.double)
    solved = torch.linalg.solve(gram + ridge, inputs.T @ whitened / len(inputs))
    found = fit_caption_map(data, settings)
    assert torch.allclose(found.weight.T.double(), solved, atol=1e-4)
    mean = found(prepare_features(images, "root").flatten(0, 1)).mean(0)
    assert torch.allclose(mean, torch.zeros(4), atol=1e-5), "the mean picture is mapped to the mean caption"


def test_additional_caption_moments_count_by_their_weight() -> None:
    torch.manual_seed(0)
    images, captions = torch.rand(40, 2, 6), torch.randn(40, 3, 4)
    data = LockedImageData(images, captions, torch.randn(5, 1, 4), torch.randn(5, 6), torch.zeros(5))
    settings = LockedImageConfig(distillation_weight=0.0)
    drawings, drawing_captions = torch.rand(30, 1, 6), torch.randn(30, 1, 4)
    found = fit_caption_map(data, settings, caption_moments(drawings, drawing_captions) * 0.1).weight
    assert not torch.allclose(found, fit_caption_map(data, settings).weight, atol=1e-3)
    heavy = fit_caption_map(data, settings, caption_moments(drawings, drawing_captions) * 1e6).weight
    of_drawings = LockedImageData(drawings, drawing_captions, data.names, data.classifier, data.classifier_bias)
    alone = (
        fit_caption_map(of_drawings, settings).weight / 1e6**0.5
    )  # whitened by moments that are a million times larger
    assert torch.allclose(heavy, alone, rtol=1e-3, atol=1e-6), "the photographs have negligible weight"


@pytest.mark.parametrize(
    ("loss", "distillation_weight"), [("contrastive", 0.0), ("sigmoid", 0.0), ("contrastive", 1.0)]
)
def test_training_fits_the_captions_of_the_photographs(loss: str, distillation_weight: float) -> None:
    torch.manual_seed(0)
    topics = torch.randn(24, 5)
    images = (topics @ torch.randn(5, 8))[:, None].relu() + 0.05 * torch.rand(24, 2, 8)
    captions = (topics @ torch.randn(5, 6))[:, None] + 0.05 * torch.randn(24, 3, 6)
    data = LockedImageData(images, captions, torch.randn(5, 2, 6), torch.randn(5, 8), torch.zeros(5))
    settings = LockedImageConfig(
        part=4,
        hidden=8,
        loss=loss,  # type: ignore[arg-type]
        steps=60,
        batch=24,
        learning_rate=1e-2,
        image_dropout=0.0,
        text_dropout=0.0,
        distillation_weight=distillation_weight,
    )
    losses: list[float] = []
    heads = train_heads(data, settings, lambda _, loss: losses.append(loss))
    assert len(losses) == 60
    assert distillation_weight or sum(losses[-10:]) < sum(losses[:10])
    similarity = F.normalize(heads.image(images[:, 0]), dim=-1) @ F.normalize(heads.text(captions[:, 0]), dim=-1).T
    assert (similarity.argmax(dim=1) == torch.arange(24)).float().mean() > 0.2, "by chance it is 0.04"
    again = train_heads(data, settings)
    assert torch.equal(again.image.linear.weight, heads.image.linear.weight), "the seed determines the result"


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="must be one of contrastive, sigmoid"):
        LockedImageConfig(loss="triplet")  # type: ignore[arg-type]
