"""Both training stages with small frozen models: which weights change, which do not, and resuming."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny_bridge
import tiny_language_models
from beholder.errors import InvalidSetting
from beholder.models.bridge import Bridge, image_tokens
from beholder.models.language_model import LanguageModel
from beholder.models.qformer import QFormer
from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.training.bridge_config import read_bridge_config
from beholder.training.bridge_stages import (
    IGNORED,
    StageConfig,
    pack,
    patch_dropout,
    run_stage,
    stage_1_losses,
    stage_1_metrics,
    stage_2_loss,
)
from beholder.training.optimization import parameter_groups

ROOT = Path(__file__).parent.parent.parent
VISION = VisionSettings(
    image_height=16, image_width=16, patch_size=8, width=16, layers=1, heads=2, mlp_width=24, classes=0
)
TEXTS = [[([3, 4], [5, 6, 7]), ([3], [8, 9])], [([3, 4, 11], [12])]]


def pictures(count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=generator)


def slow_loss(part: Bridge, language: LanguageModel, image: torch.Tensor, per_text: bool) -> float:
    """Compute the stage 2 loss one answer and one token at a time."""
    texts_lost = []
    for row, texts in enumerate(TEXTS):
        for prompt, answer in texts:
            words = language.embed(torch.tensor([prompt]))
            both = torch.cat([part.soft_prompts(image[row : row + 1]), words], 1)
            lost = []
            with torch.no_grad():
                logits, kv_cache = language.prefill(both, torch.ones(both.shape[:2], dtype=torch.bool))
                for word in answer:
                    lost.append(-float(logits.log_softmax(-1)[0, word]))
                    logits = language.decode(torch.tensor([[word]]), kv_cache)
            texts_lost.append(lost)
    if per_text:
        return sum(sum(lost) / len(lost) for lost in texts_lost) / len(texts_lost)
    return sum(map(sum, texts_lost)) / sum(map(len, texts_lost))


@pytest.mark.parametrize("per_text", [False, True])
@pytest.mark.parametrize("kind", ["opt", "llama", "t5"])
def test_the_stage_2_loss_equals_that_of_each_answer_computed_alone(kind: str, per_text: bool) -> None:
    language, part = tiny_language_models.make(kind), tiny_bridge.build().eval()
    image = image_tokens(VisionTransformer(VISION).eval(), pictures(2))
    found = float(stage_2_loss(part, language, image, TEXTS, per_text=per_text).detach())
    assert found == pytest.approx(slow_loss(part, language, image, per_text), rel=1e-4)


def test_packed_texts_do_not_attend_to_each_other() -> None:
    ids, targets, allowed, positions, owner = pack(TEXTS, 3)
    assert ids.shape == (2, 6) and allowed.shape == (2, 1, 9, 9) and positions.shape == (2, 9)
    assert ids[0].tolist() == [3, 4, 5, 6, 3, 8]
    assert targets[0].tolist() == [IGNORED, 5, 6, 7, 8, 9]
    assert owner[0].tolist() == [0, 0, 0, 0, 1, 1]
    assert positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 4]
    assert allowed[0, 0, 8].tolist() == [True] * 3 + [False] * 4 + [True, True]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_frozen_models_stay_unchanged_and_have_no_gradients(kind: str, tmp_path: Path) -> None:
    language, part, tower = (
        tiny_language_models.make(kind),
        tiny_bridge.build(),
        VisionTransformer(VISION).eval().requires_grad_(False),
    )
    frozen = {f"{side}.{name}": weight for side in (language, tower) for name, weight in side.named_parameters()}
    before = {name: tensor.clone() for name, tensor in frozen.items()}
    trained = {name: tensor.clone() for name, tensor in part.state_dict().items()}

    def step(generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"loss": stage_2_loss(part, language, image_tokens(tower, pictures(2, generator)), TEXTS)}

    language.train()
    assert not language.module.training, "a frozen model has no training mode"
    run_stage(part, StageConfig(3, learning_rate=1e-2), step, tmp_path / "stage.pt", lambda *_: None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.items())
    for side in (language, tower):
        assert all(not weight.requires_grad and weight.grad is None for weight in side.parameters())
    for name in ("qformer.query_tokens", "to_language.weight", "qformer.layers.0.cross_attention.key.weight"):
        assert not torch.equal(part.state_dict()[name], trained[name]), name


def first_stage(part: Bridge) -> Callable[[torch.Generator], dict[str, torch.Tensor]]:
    tower = VisionTransformer(VISION).eval().requires_grad_(False)

    def step(generator: torch.Generator) -> dict[str, torch.Tensor]:
        image = image_tokens(tower, pictures(4, generator))
        ids = torch.randint(2, 30, (4, 6), generator=generator)
        return stage_1_losses(part, image, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(4), generator)

    return step


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_run_matches_an_uninterrupted_one_bit_for_bit(tmp_path: Path, ema_decay: float | None) -> None:
    settings = StageConfig(8, learning_rate=1e-3, ema_decay=ema_decay, save_every=3)
    whole = tiny_bridge.build()
    torch.manual_seed(5)
    run_stage(whole, settings, first_stage(whole), tmp_path / "whole.pt", lambda *_: None)

    class Interrupt(Exception):
        pass

    def stop(step: int, _: dict[str, float]) -> None:
        if step == 5:
            raise Interrupt

    half = tiny_bridge.build()
    torch.manual_seed(5)
    step = first_stage(half)
    with pytest.raises(Interrupt):
        run_stage(half, settings, step, tmp_path / "half.pt", stop)
    steps: list[int] = []
    run_stage(half, settings, step, tmp_path / "half.pt", lambda number, _: steps.append(number))
    assert steps == [4, 5, 6, 7, 8], "training resumes after the last checkpoint"
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in half.state_dict().items())


@pytest.mark.slow
def test_stage_1_learns_to_match(tmp_path: Path) -> None:
    part = tiny_bridge.build(dropout=0)
    tower = VisionTransformer(VISION).eval().requires_grad_(False)
    image = image_tokens(tower, pictures(4, torch.Generator().manual_seed(0)))
    ids = torch.tensor([[2, 5, 6], [2, 7, 8], [2, 9, 10], [2, 11, 12]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    losses: list[dict[str, float]] = []
    run_stage(
        part,
        StageConfig(400, learning_rate=3e-3),
        lambda generator: stage_1_losses(part, image, ids, mask, torch.arange(4), generator),
        tmp_path / "stage.pt",
        lambda _, found: losses.append(found),
    )
    for name in ("contrast", "matching", "generation"):
        assert losses[-1][name] < 0.4 * losses[0][name], (name, losses[0][name], losses[-1][name])


def test_the_metrics_of_stage_1_tell_what_has_been_learned(tmp_path: Path) -> None:
    part = tiny_bridge.build(dropout=0)
    image = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[2, 5, 6], [2, 7, 8], [2, 9, 10], [2, 11, 12]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    before = stage_1_metrics(part.eval(), image, ids, mask)
    run_stage(
        part,
        StageConfig(150, learning_rate=3e-3),
        lambda generator: stage_1_losses(part, image, ids, mask, torch.arange(4), generator),
        tmp_path / "stage.pt",
        lambda *_: None,
    )
    after = stage_1_metrics(part, image, ids, mask)
    assert after["contrast_accuracy"] == 1 > before["contrast_accuracy"]
    assert after["generation"] < before["generation"] and after["generation"] < after["generation_exchanged"]
    assert after["image_similarity"] < before["image_similarity"] < 1


def test_the_metrics_of_stage_1_show_collapsed_queries() -> None:
    part = tiny_bridge.build(dropout=0).eval()
    image = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[2, 5, 6], [2, 7, 8], [2, 9, 10]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    apart = stage_1_metrics(part, image, ids, mask)["query_similarity"]
    with torch.no_grad():
        part.qformer.query_tokens[:] = part.qformer.query_tokens[0]
    assert stage_1_metrics(part, image, ids, mask)["query_similarity"] == pytest.approx(1) != pytest.approx(apart)
    with torch.no_grad():
        for layer in part.qformer.layers:
            if layer.cross_attention is not None:
                layer.cross_attention.out.weight.zero_()
    blind = stage_1_metrics(part, image, ids, mask)
    assert blind["image_similarity"] == pytest.approx(1)
    assert blind["generation"] == pytest.approx(blind["generation_exchanged"])


def test_a_multiplier_raises_the_learning_rate_of_the_parameters_it_names(tmp_path: Path) -> None:
    def moved(multipliers: dict[str, float]) -> dict[str, float]:
        part = tiny_bridge.build(dropout=0)
        before = {name: weight.detach().clone() for name, weight in part.named_parameters()}
        settings = StageConfig(1, learning_rate=1e-4, weight_decay=0, lr_scales=multipliers)
        run_stage(part, settings, first_stage(part), tmp_path / f"{len(multipliers)}.pt", lambda *_: None)
        return {name: (weight - before[name]).abs().max().item() for name, weight in part.named_parameters()}

    plain, multiplied = moved({}), moved({"cross_attention": 5.0})
    for name, distance in multiplied.items():
        factor = 5 if "cross_attention" in name else 1
        assert distance == pytest.approx(factor * plain[name], rel=0.02, abs=1e-7), name
    with pytest.raises(InvalidSetting, match="lr_scales"):
        StageConfig(1, lr_scales={"query_tokens": 0.0})


def test_multiplied_parameters_decay_as_before_and_queries_and_position_biases_never() -> None:
    names = ("cross_attention.key.weight", "cross_attention.position_bias", "query_tokens", "out.weight")
    groups = parameter_groups([(name, torch.zeros(2, 2)) for name in names], 0.1, {"cross_attention": 2.0})
    found = {(group["weight_decay"], group.get("lr_scale", 1.0)): len(group["params"]) for group in groups}
    assert found == {(0.1, 2.0): 1, (0.0, 2.0): 1, (0.1, 1.0): 1, (0.0, 1.0): 1}


def test_a_stage_ends_with_the_moving_average_of_its_weights(tmp_path: Path) -> None:
    part = tiny_bridge.build(dropout=0)
    step, snapshots = first_stage(part), []

    def note(*_: object) -> None:
        snapshots.append(part.qformer.query_tokens.detach().clone())

    run_stage(part, StageConfig(3, learning_rate=1e-2, ema_decay=0.5), step, tmp_path / "stage.pt", note)
    torch.testing.assert_close(
        part.qformer.query_tokens.detach(), snapshots[0] / 4 + snapshots[1] / 4 + snapshots[2] / 2
    )


def test_patch_dropout_keeps_the_same_share_of_tokens_in_every_row() -> None:
    image = torch.arange(20.0).view(2, 10, 1)
    kept, indices = patch_dropout(image, 0.8, torch.Generator().manual_seed(0))
    assert torch.equal(kept, image[:, indices])
    assert kept.shape == (2, 8, 1) and len(kept[0].unique()) == 8
    torch.testing.assert_close(kept[1], kept[0] + 10)


def test_patch_dropout_keeps_the_global_tokens_first() -> None:
    image = torch.arange(24.0).view(2, 12, 1)
    kept, indices = patch_dropout(image, 0.5, torch.Generator().manual_seed(0), whole=2)
    assert torch.equal(kept, image[:, indices])
    assert kept.shape == (2, 7, 1) and torch.equal(kept[:, :2], image[:, :2])
    assert len(kept[0].unique()) == 7


@pytest.mark.parametrize(("name", "width"), [("mini", 576), ("opt_2.7b", 2560), ("flan_t5_xl", 2048)])
def test_the_published_configs_have_the_expected_size(name: str, width: int) -> None:
    config = read_bridge_config(ROOT / "recipes" / "bridge" / f"{name}.json")
    assert config.bridge.language_width == width
    if name == "mini":
        return
    with torch.device("meta"):
        qformer = QFormer(config.bridge.qformer)
    # The paper: the Q-Former has 188 million parameters.
    assert sum(weight.numel() for weight in qformer.parameters()) == pytest.approx(188e6, rel=0.02)


def test_an_inconsistent_config_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(InvalidSetting, match=r"config\.json"):
        read_bridge_config(path)
    path.write_text('{"vision": "mini", "language": "mini", "bridge": {}, "stage_1": {"steps": 1, "speed": 2}}')
    with pytest.raises(InvalidSetting, match=r"config\.json"):
        read_bridge_config(path)
