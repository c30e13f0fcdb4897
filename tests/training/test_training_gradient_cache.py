"""Gradients of a batch computed in chunks against those of the whole batch, on the small dual encoder."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

import tiny_model
from beholder.training.clip_config import TrainingConfig
from beholder.training.clip_model import EncodePairs
from beholder.training.data_loader import ImageTextBatch
from beholder.training.distributed import ProcessGroup
from beholder.training.freezing import Freezing, Lora, add_lora, freeze, recompute_activations
from beholder.training.gradient_cache import DualEncoderOutput, backward
from beholder.training.train_clip import pair_loss

TRAIN = TrainingConfig(steps=1, batch=10)
HERE = ProcessGroup(torch.device("cpu"))


def batch(count: int = 10) -> ImageTextBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 100, (count, 7), generator=generator)
    ids[:, 0], ids[:, -1] = 2, 3
    there = torch.ones(count, dtype=torch.bool)
    there[3] = False
    return ImageTextBatch(
        torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator),
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        torch.tensor([*range(count - 1), 0]),
        torch.arange(count),
        there,
    )


def gradients(
    chunk: int,
    train: TrainingConfig = TRAIN,
    freezing: Freezing | None = None,
    lora: bool = False,
    recompute: bool = False,
) -> tuple[float, dict[str, torch.Tensor]]:
    loaded = tiny_model.build(logit_bias=train.loss == "sigmoid")
    freeze(loaded.network, freezing or Freezing())
    if lora:
        torch.manual_seed(1)
        add_lora(loaded.network, Lora(4))
        for name, weight in loaded.network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(
                    weight, std=0.1
                )  # initialized to zero, which blocks the gradients of earlier layers
    if recompute:
        recompute_activations(loaded.network)
    model = EncodePairs(loaded.network, loaded.preprocessing, train, HERE.device)
    lost = backward(
        lambda part: DualEncoderOutput(*model(part.pixels, part.ids, part.mask)),
        batch().split(chunk),
        lambda embedded: pair_loss(embedded, batch(), train, HERE),
        lambda _: nullcontext(),
    )
    found = {name: weight.grad for name, weight in loaded.network.named_parameters() if weight.requires_grad}
    assert all(gradient is not None for gradient in found.values()), [name for name in found if found[name] is None]
    return float(lost), found  # type: ignore[return-value]


@pytest.mark.parametrize("chunk", [1, 3, 5])
@pytest.mark.parametrize("loss", ["contrastive", "sigmoid"])
def test_chunked_gradients_equal_those_of_the_whole_batch(loss: str, chunk: int) -> None:
    train = replace(TRAIN, loss=loss)  # type: ignore[arg-type]
    lost, whole = gradients(10, train)
    lost_in_pieces, pieces = gradients(chunk, train)
    assert lost_in_pieces == pytest.approx(lost, rel=1e-6)
    assert set(whole) == set(pieces) and any("image.patches" in name for name in whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(
            pieces[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(
    "options", [{"freezing": Freezing(image="all")}, {"freezing": Freezing(text=1)}, {"lora": True}]
)
def test_chunks_can_be_combined_with_frozen_parameters(options: dict) -> None:
    _, whole = gradients(10, **options)
    _, pieces = gradients(3, **options)
    assert set(whole) == set(pieces)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, atol=1e-5, rtol=1e-4)


def test_activation_checkpointing_does_not_change_the_gradients() -> None:
    _, whole = gradients(10)
    _, again = gradients(10, recompute=True)
    for name, gradient in whole.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-7, rtol=1e-6)


def test_gradient_accumulation_without_the_cache_gives_another_loss() -> None:
    """Accumulating the losses of the chunks omits the negatives in other chunks, so the cache is needed."""
    lost, _ = gradients(10)
    loaded = tiny_model.build()
    model = EncodePairs(loaded.network, loaded.preprocessing, TRAIN, HERE.device)
    alone = [
        float(pair_loss(DualEncoderOutput(*model(part.pixels, part.ids, part.mask)), part, TRAIN, HERE).detach())
        for part in batch().split(5)
    ]
    assert abs(sum(alone) / 2 - lost) > 0.1
