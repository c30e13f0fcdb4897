"""`mini`'s image generator: eight bits, only the heads of its dual encoder, and drawings of what was asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_generator
import tiny_model
from beholder import ImageGenerator
from beholder.errors import InvalidSetting, WeightsMismatch
from beholder.models.diffusion_transformer import DiffusionTransformerSettings
from beholder.models.prior import PriorSettings
from beholder.models.unclip import Unclip, UnclipSettings
from beholder.weights import mini, mini_generator
from beholder.weights.eight_bits import pack, unpack
from beholder.weights.mini_parts import HEADS
from beholder.weights.native_generator import LoadedImageGenerator
from random_weights import enlarge


def test_a_matrix_in_eight_bits_errs_by_half_a_step_of_its_row() -> None:
    torch.manual_seed(0)
    tensors = {"matrix": torch.randn(64, 80) * torch.logspace(-3, 3, 64)[:, None], "small": torch.randn(3, 3)}
    tensors |= {"bias": torch.randn(5000), "convolution": torch.randn(16, 3, 16, 16), "zero": torch.zeros(64, 64)}
    packed = pack(tensors)
    assert {name for name, tensor in packed.items() if tensor.dtype == torch.int8} == {"matrix", "convolution", "zero"}
    found = unpack(packed)
    assert set(found) == set(tensors) and all(found[name].shape == tensor.shape for name, tensor in tensors.items())
    step = tensors["matrix"].abs().amax(1, keepdim=True) / 127
    assert ((found["matrix"] - tensors["matrix"]).abs() <= 0.501 * step).all()
    assert torch.equal(found["zero"], tensors["zero"]) and torch.allclose(found["bias"], tensors["bias"], rtol=1e-3)


def test_scales_that_are_missing_are_named() -> None:
    packed = pack({"matrix": torch.randn(64, 80)})
    del packed["matrix.scale"]
    with pytest.raises(WeightsMismatch, match="matrix: the scales"):
        unpack(packed)


@pytest.mark.slow
def test_mini_draws_what_is_asked_for_and_variations_of_it() -> None:
    generator = ImageGenerator.from_pretrained("mini", device="cpu")
    encoder = generator.backend.encoder
    assert encoder is not None
    texts = ["a red heart", "a smiling face", "a blue book", "a clock", "the flag of France"]
    drawn = [generator.generate(text, seed=1)[0] for text in texts]
    assert all(picture.size == (64, 64) for picture in drawn)
    assert (encoder.similarity(drawn, texts).argmax(1) == np.arange(len(texts))).all()
    colors = [np.asarray(picture, float)[16:48, 16:48].mean((0, 1)) for picture in drawn]
    assert colors[0].argmax() == 0 and colors[2].argmax() == 2, "a red heart is not red, or a blue book not blue"
    variations = [generator.generate(like=picture, seed=2)[0] for picture in drawn[:3]]
    assert (encoder.similarity(variations, texts).argmax(1) == np.arange(3)).all()
    assert not np.array_equal(np.asarray(variations[0]), np.asarray(drawn[0]))
    again = [result.picture for result in generator.stream("a red heart", count=2, seed=1)]
    assert np.array_equal(np.asarray(again[0]), np.asarray(drawn[0]))
    assert not np.array_equal(np.asarray(again[1]), np.asarray(drawn[0]))


@pytest.mark.slow
def test_mini_is_assembled_from_its_towers_and_a_packed_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoder = replace(mini.assemble(HEADS), multilingual=None)
    embedding = encoder.network.settings.embedding
    torch.manual_seed(0)
    decoder = DiffusionTransformerSettings(embedding, **tiny_generator.DECODER)
    network = enlarge(Unclip(UnclipSettings(decoder, PriorSettings(embedding, **tiny_generator.PRIOR))))
    loaded = LoadedImageGenerator(network, encoder, "mini", "cc-by-4.0")
    mini_generator.save(loaded, tmp_path / "packed")
    assert not any(file.stat().st_size > 8e6 for file in (tmp_path / "packed").iterdir())  # no tower among them
    monkeypatch.setattr(mini_generator, "FOLDER", tmp_path / "packed")
    finished = tmp_path / "assembled"
    monkeypatch.setattr(mini_generator, "model_folder", lambda _: finished)
    generator = ImageGenerator.from_pretrained("mini", device="cpu")
    assert generator.name == "mini" and finished.is_dir()
    (drawn,) = generator.stream("a cat", seed=1, steps=2)
    assert drawn.picture.size == (16, 16) and drawn.match is not None
    again = mini_generator.assemble(tmp_path / "packed")
    assert isinstance(again.encoder, type(encoder))
    for name, tensor in encoder.network.state_dict().items():
        assert torch.allclose(
            again.encoder.network.state_dict()[name], tensor, atol=float(tensor.abs().max()) / 100, rtol=1e-3
        ), name
    for name, tensor in network.state_dict().items():
        assert torch.allclose(again.network.state_dict()[name], tensor, atol=float(tensor.abs().max()) / 100), name


@pytest.mark.slow
def test_other_towers_than_those_of_mini_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="towers of the dual encoder are not those of mini"):
        mini_generator.save(tiny_generator.build(), tmp_path)
    with pytest.raises(InvalidSetting, match="heads of its own"):
        mini_generator.save(replace(tiny_generator.build(), encoder="mini"), tmp_path)
    second = replace(tiny_model.build(), multilingual=tiny_model.build())  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="second text tower"):
        mini_generator.save(replace(tiny_generator.build(), encoder=second), tmp_path)
