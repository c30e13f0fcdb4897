import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from beholder.weights import mini, mini_bridge
from beholder.weights.formats import DUAL_ENCODER, VISION_LANGUAGE_MODEL
from beholder.weights.installed import InstalledModel, installed_models

COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point both caches to folders that do not exist yet; return that of the hub."""
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "beholder"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache_repository(hub: Path, name: str, files: dict[str, str], kind: str = "models") -> Path:
    """Write a repository in the layout of huggingface_hub's cache: blobs, and a snapshot that links to them."""
    repository = hub / f"{kind}--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for number, (file, content) in enumerate(files.items()):
        blob = repository / "blobs" / f"blob{number}"
        blob.write_text(content)
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).symlink_to(blob)
    return snapshot


def config(model_type: str) -> str:
    return json.dumps({"model_type": model_type})


def test_without_a_cache_mini_is_listed_as_not_downloaded_and_nothing_is_created(tmp_path: Path) -> None:
    assert installed_models() == [
        InstalledModel("mini", None, 0, DUAL_ENCODER),
        InstalledModel("mini", None, 0, VISION_LANGUAGE_MODEL),
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0, 1])
def test_mini_is_listed_with_its_folder_and_size_once_downloaded(place: int) -> None:
    folder = (mini.model_folder(), mini_bridge.model_folder())[place]
    folder.mkdir(parents=True)
    (folder / "beholder.json").write_bytes(bytes(10))
    (folder / "model.safetensors").write_bytes(bytes(90))
    found = installed_models()[place]
    assert (found.name, found.path, found.size) == ("mini", folder, 100)
    assert installed_models()[1 - place].path is None


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": config("clip"), "model.safetensors": "weights"},
        {"config.json": config("siglip"), "pytorch_model.bin": "weights"},
        {"open_clip_config.json": "{}", "open_clip_model.safetensors": "weights"},
        {"beholder.json": "{}", "model.safetensors": "weights"},
        {
            "modules.json": json.dumps([{"type": "sentence_transformers.models.CLIPModel", "path": "0_CLIPModel"}]),
            "0_CLIPModel/config.json": config("clip"),
            "0_CLIPModel/model.safetensors": "weights",
        },
    ],
    ids=["clip", "siglip as a pickle", "open_clip", "ours", "sentence-transformers"],
)
def test_a_dual_encoder_in_the_hub_cache_is_listed_with_its_size_on_disk(caches: Path, files: dict[str, str]) -> None:
    snapshot = cache_repository(caches, "owner/name", files)
    [_, _, found] = installed_models()
    assert (found.name, found.size) == ("owner/name", sum(map(len, files.values())))
    assert found.path is not None and found.path.resolve() == snapshot.resolve()


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("models", {"config.json": config("llama"), "model.safetensors": "weights"}),
        ("models", {"config.json": config("vit"), "model.safetensors": "weights"}),
        ("models", {"config.json": config("clip")}),
        ("models", {"config.json": "{", "model.safetensors": "weights"}),
        ("models", {"model.safetensors": "weights"}),
        ("datasets", {"config.json": config("clip"), "model.safetensors": "weights"}),
    ],
    ids=["language model", "picture tower alone", "without weights", "broken config", "without config", "data set"],
)
def test_other_repositories_in_the_hub_cache_are_not_listed(caches: Path, kind: str, files: dict[str, str]) -> None:
    cache_repository(caches, "owner/name", files, kind)
    assert [model.name for model in installed_models()] == ["mini", "mini"]


def test_a_vision_language_model_is_listed_as_one(caches: Path) -> None:
    cache_repository(caches, "a/blip2", {"config.json": config("blip-2"), "model.safetensors": "weights"})
    own = json.dumps({"format": "beholder vision-language model"})
    cache_repository(caches, "b/own", {"beholder.json": own, "model.safetensors": "weights"})
    cache_repository(caches, "c/clip", {"config.json": config("clip"), "model.safetensors": "weights"})
    assert [(model.name, model.kind) for model in installed_models()[2:]] == [
        ("a/blip2", VISION_LANGUAGE_MODEL),
        ("b/own", VISION_LANGUAGE_MODEL),
        ("c/clip", DUAL_ENCODER),
    ]


def test_models_are_sorted_by_name(caches: Path) -> None:
    for name in ("b/x", "a/z", "a/y"):
        cache_repository(caches, name, {"config.json": config("clip"), "model.safetensors": "weights"})
    assert [model.name for model in installed_models()] == ["mini", "mini", "a/y", "a/z", "b/x"]
