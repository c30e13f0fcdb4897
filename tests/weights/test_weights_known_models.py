import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.errors import ModelNotFound
from beholder.models.dual_encoder import TwoTowers
from beholder.weights import chinese_clip, clip, siglip, siglip2_naflex
from beholder.weights.known_models import KNOWN_MODELS, known_model
from beholder.weights.sources import HUB_ID, find_model, hub_id
from beholder.weights.table import build_empty

LARGE_CLIP = {
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
    "projection_dim": 768,
}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}


def test_names_are_unique_and_resolve_to_a_hub_id_in_any_case() -> None:
    names = [name.lower() for model in KNOWN_MODELS for name in model.names]
    assert len(set(names)) == len(names) and "mini" not in names
    for model in KNOWN_MODELS:
        assert HUB_ID.fullmatch(model.repository)
        for name in model.names:
            assert hub_id(name) == hub_id(name.upper()) == model.repository
    for usual in ("clip", "clip-ViT-B-32", "siglip2", "chinese-clip", "blip2"):
        assert known_model(usual) is not None


def test_every_published_figure_has_a_source() -> None:
    assert all(re.search(r"\d", model.figure) and model.source and model.licence for model in KNOWN_MODELS)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clip", clip.settings({})),
        ("clip-ViT-B-16", clip.settings({"vision_config": {"patch_size": 16}})),
        ("clip-large", clip.settings(LARGE_CLIP)),
        ("siglip2", siglip.settings({"text_config": {"vocab_size": 256000}})),
        ("siglip2-naflex", siglip2_naflex.settings({"text_config": {"vocab_size": 256000}})),
        (
            "siglip2-so400m",
            siglip.settings(
                {
                    "text_config": {**SO400M, "vocab_size": 256000},
                    "vision_config": {**SO400M, "patch_size": 16, "image_size": 256},
                }
            ),
        ),
        (
            "chinese-clip",
            chinese_clip.settings({"text_config": {"vocab_size": 21128}, "vision_config": {"patch_size": 16}}),
        ),
    ],
)
def test_the_listed_size_equals_that_of_the_network(name: str, settings) -> None:
    known = known_model(name)
    assert known is not None
    parameters = sum(parameter.numel() for parameter in build_empty(TwoTowers, settings).parameters())
    assert known.parameters == round(parameters / 1e6)


def test_a_folder_takes_precedence_over_a_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    assert find_model("clip") == Path("clip")
    with pytest.raises(ModelNotFound, match="models --known"):
        hub_id("klip")


def test_known_models_are_listed_as_text_and_as_json() -> None:
    listed = CliRunner().invoke(app, ["models", "--known"]).output
    assert "clip, clip-vit-base-patch32: openai/clip-vit-base-patch32" in listed and "63.2 %" in listed
    rows = [json.loads(line) for line in CliRunner().invoke(app, ["models", "--known", "--json"]).output.splitlines()]
    assert [row["repository"] for row in rows] == [model.repository for model in KNOWN_MODELS]
    assert {"name", "kind", "purpose", "licence", "figure", "source", "gigabytes"} <= rows[0].keys()
