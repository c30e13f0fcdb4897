import dataclasses
import json

import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.models.bert import BertSettings
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.efficientnet_lite import EfficientNetLiteSettings
from beholder.models.layers import HeadSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings

BLOCKS = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 24}
GRID = EfficientNetLiteSettings(width_scale=0.25, depth_scale=0.3, classes=0)
IMAGES = {
    "vit": VisionSettings(image_height=32, image_width=32, patch_size=8, **BLOCKS),
    "stem": VisionSettings(image_height=64, image_width=64, patch_size=2, stem=(4, 8), **BLOCKS),
    "efficientnet_lite": GRID,
}
TEXTS = {
    "transformer": TextTransformerSettings(vocabulary=30, context_length=10, **BLOCKS),
    "bert": BertSettings(vocabulary=30, context_length=10, **BLOCKS),
}


def settings_of(image: str, text: str, **changes: object) -> TwoTowersSettings:
    heads = {"image_head": HeadSettings("mlp", bias=True, hidden=12), "text_head": HeadSettings("linear")}
    return TwoTowersSettings(IMAGES[image], TEXTS[text], embedding=8, **{**heads, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("text", TEXTS)
def test_settings_survive_json(image: str, text: str) -> None:
    settings = settings_of(image, text, logit_bias=True)
    assert TwoTowersSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("text", TEXTS)
def test_embeddings_have_unit_norm_and_logits_are_scaled_cosines(image: str, text: str) -> None:
    network = TwoTowers(settings_of(image, text, logit_bias=True)).eval()
    with torch.no_grad():
        network.logit_scale.fill_(2.0)
        network.logit_bias.fill_(-3.0)
        images = network.embed_image(torch.randn(3, 3, 64, 64))
        texts = network.embed_text(torch.randint(0, 30, (2, 6)), torch.ones(2, 6, dtype=torch.bool))
        logits = network.logits(images, texts)
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(5))
    assert images.shape == (3, 8)
    expected = torch.cosine_similarity(images[:, None], texts[None], dim=-1) * torch.tensor(2.0).exp() - 3
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_embeddings_are_float32_even_if_the_network_is_not() -> None:
    network = TwoTowers(settings_of("vit", "transformer")).bfloat16().eval()
    assert network.embed_image(torch.randn(1, 3, 32, 32, dtype=torch.bfloat16)).dtype == torch.float32
    assert network.embed_text(torch.zeros(1, 4, dtype=torch.int64)).dtype == torch.float32


def test_every_parameter_of_both_towers_and_heads_gets_a_gradient() -> None:
    network = TwoTowers(settings_of("vit", "transformer", logit_bias=True))
    images = network.embed_image(torch.randn(2, 3, 32, 32))
    network.logits(images, network.embed_text(torch.randint(0, 30, (2, 6)))).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_an_mlp_head_is_added_to_a_linear_one() -> None:
    network = TwoTowers(settings_of("vit", "transformer"))
    head = network.image_head
    pooled = torch.randn(2, 16)
    with torch.no_grad():
        head.down.weight.zero_()
        head.down.bias.zero_()
    torch.testing.assert_close(head(pooled), pooled @ head.linear.weight.T + head.linear.bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": {"kind": "resnet"}}, "resnet"),
        ({"text": {}}, "text tower's kind"),
        ({"text": {"kind": "bert", "depth": 3}}, "depth"),
        ({"image_head": {"kind": "linear", "size": 3}}, "size"),
        ({"temperature": 3}, "temperature"),
        ({"image": {"kind": "vit", "grid": {"classes": 0}}}, "no longer supported"),
    ],
)
def test_unknown_settings_are_refused(change: dict, message: str) -> None:
    written = settings_of("vit", "transformer").to_dict()
    with pytest.raises(InvalidSetting, match=message):
        TwoTowersSettings.from_dict({**written, **change})


def test_serialized_names_are_stable_so_that_fingerprints_do_not_change() -> None:
    head = HeadSettings("linear", input_normalization="hellinger", part_weights=(0.25, 0.75))
    written = settings_of("vit", "transformer", image_head=head).to_dict()
    assert written["image"]["grid"] is None
    assert written["image_head"]["prepare"] == "root" and written["image_head"]["shares"] == (0.25, 0.75)
    assert written["text_head"] == {"kind": "linear", "bias": False, "hidden": 0, "prepare": "nothing", "shares": ()}
    current = {"kind": "linear", "input_normalization": "hellinger", "part_weights": [0.25, 0.75]}
    assert TwoTowersSettings.from_dict({**written, "image_head": current}).image_head == head


def test_invalid_head_settings_are_refused() -> None:
    for head, message in ((HeadSettings("none"), "width 16"), (HeadSettings("cubic"), "cubic")):  # type: ignore[arg-type]
        with pytest.raises(InvalidSetting, match=message):
            TwoTowers(dataclasses.replace(settings_of("vit", "transformer"), image_head=head))
