"""Training a bridge between the image tower of a small dual encoder and a small OPT or T5."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

import tiny_blip2
import tiny_model
import tiny_pairs
import tiny_vocabularies
from beholder import DualEncoder, VisionLanguageModel
from beholder.errors import InvalidSetting, ModelError
from beholder.models.qformer import spatial_prior
from beholder.training.bridge_config import BridgeConfig, read_bridge_config
from beholder.training.bridge_data import read_bridge_examples
from beholder.training.train_bridge import summarize, train_bridge

QFORMER = {
    "queries": 3,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "mlp_width": 24,
    "image_width": 16,
    "max_position_embeddings": 20,
}
RECIPES = Path(__file__).parent.parent.parent / "recipes"
STAGE = {"steps": 4, "batch": 4, "learning_rate": 1e-3, "save_every": 3}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the checkpoints ``tower``, ``opt``, ``t5`` and ``bert``."""
    folder = tmp_path_factory.mktemp("sides")
    DualEncoder(tiny_model.build()).save_pretrained(folder / "tower")
    torch.manual_seed(0)
    OPTForCausalLM(OPTConfig(**{**tiny_blip2.OPT, "max_position_embeddings": 256})).save_pretrained(folder / "opt")
    T5ForConditionalGeneration(T5Config(**tiny_blip2.T5)).save_pretrained(folder / "t5")
    for kind in ("opt", "t5"):
        tiny_blip2.word_tokenizer(kind).save_pretrained(folder / kind)
    (folder / "bert").mkdir()
    tiny_vocabularies.write_bert(folder / "bert")
    vocabulary = len((folder / "bert" / "vocab.txt").read_text().split())
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    BertModel(BertConfig(vocab_size=vocabulary, max_position_embeddings=32, **sizes)).save_pretrained(folder / "bert")
    return folder


def config(folder: Path, sides: Path, kind: str = "opt", **changed: Any) -> BridgeConfig:
    vocabulary = len((sides / "bert" / "vocab.txt").read_text().split())
    values: dict[str, Any] = {
        "about": "colours",
        "vision": str(sides / "tower"),
        "language": str(sides / kind),
        "text": str(sides / "bert"),
        "bridge": {"qformer": {**QFORMER, "vocabulary": vocabulary}, "embedding": 8, "language_width": 32},
        "prompts": {"caption": "a photo of"},
        "stage_1": STAGE,
        "stage_2": STAGE,
        "data": {"train": "pairs.jsonl", "views": 2, "texts": 2, "longest": 10, "evaluate_every": 2},
        "name": "mine",
    }
    for section, content in changed.items():
        before = values.get(section)
        both = isinstance(content, dict) and isinstance(before, dict)
        values[section] = {**before, **content} if both else content
    path = folder / "bridge.json"
    path.write_text(json.dumps(values))
    return read_bridge_config(path)


def with_questions(file: Path) -> None:
    with file.open("a") as lines:
        for number in range(4):
            row = {"image": f"pictures/{number}.png", "question": "what is this ?", "answer": "yes"}
            lines.write(json.dumps(row) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "kind"), [("opt_2.7b", "opt"), ("flan_t5_xl", "t5")])
def test_a_scaled_down_recipe_of_the_paper_runs(recipe: str, kind: str, sides: Path, tmp_path: Path) -> None:
    """A BLIP-2 vision transformer, a BERT, and OPT or T5, each as in the recipe but smaller."""
    tiny_blip2.make("retrieval", tmp_path / "vision")
    tiny_pairs.paint(tmp_path, 6)
    values = json.loads((RECIPES / "bridge" / f"{recipe}.json").read_text("utf-8"))
    values |= {"vision": "vision", "language": str(sides / kind), "text": str(sides / "bert")}
    vocabulary = len((sides / "bert" / "vocab.txt").read_text().split())
    values["bridge"]["qformer"] |= {**QFORMER, "image_width": 32, "vocabulary": vocabulary}
    values["bridge"] |= {"embedding": 8, "language_width": 32}
    for stage in ("stage_1", "stage_2"):
        values[stage] |= {"steps": 2, "batch": 4}
    (tmp_path / "bridge.json").write_text(json.dumps(values))
    logged: list[dict[str, Any]] = []
    folder = train_bridge(read_bridge_config(tmp_path / "bridge.json"), tmp_path / "out", logged.append, device="cpu")
    assert [(row["stage"], row["step"]) for row in logged if "stage" in row] == [(1, 2), (2, 2)]
    (caption,) = VisionLanguageModel.from_pretrained(folder).caption([tmp_path / "pictures" / "0.png"], num_beams=1)
    assert isinstance(caption, str)


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_the_result_loads_as_a_vision_language_model_with_unchanged_frozen_models(
    kind: str, sides: Path, tmp_path: Path
) -> None:
    with_questions(tiny_pairs.paint(tmp_path, 8, broken=(5,)))
    logged: list[dict[str, Any]] = []
    made = config(tmp_path, sides, kind, data={"evaluate": "pairs.jsonl"})
    folder = train_bridge(made, tmp_path / "out", logged.append, device="cpu")
    model = VisionLanguageModel.from_pretrained(folder)
    (caption,) = model.caption([tmp_path / "pictures" / "0.png"], max_new_tokens=4)
    assert isinstance(caption, str) and model.loaded.name == "mine"
    assert 0 <= float(model.match(tmp_path / "pictures" / "0.png", ["a cat"])[0]) <= 1
    tower, after = load_file(sides / "tower" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in tower.items() if name.startswith("image."))
    assert [(row["stage"], row["step"]) for row in logged if "stage" in row] == [(1, 4), (2, 2), (2, 4)]
    assert logged[-1]["kept_back"] > 0 and logged[-1]["exchanged"] > 0
    (named,) = [json.loads(line) for line in (tmp_path / "out" / "broken.jsonl").read_text().splitlines()]
    assert named["name"].endswith("5.png")


@pytest.mark.slow
def test_a_resumed_run_matches_an_uninterrupted_one_bit_for_bit(sides: Path, tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 8)
    made = config(tmp_path, sides, stage_2={"ema_decay": 0.5, "steps": 8})
    train_bridge(made, tmp_path / "whole", device="cpu")

    def crash(row: dict[str, Any]) -> None:
        if row.get("stage") == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train_bridge(made, tmp_path / "half", crash, device="cpu")
    train_bridge(made, tmp_path / "half", device="cpu")
    whole, half = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("whole", "half"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in half.items())
    with pytest.raises(InvalidSetting, match="another stage_2"):
        train_bridge(config(tmp_path, sides), tmp_path / "whole", device="cpu")


@pytest.mark.slow
def test_the_bridge_learns_to_caption_its_training_pictures(sides: Path, tmp_path: Path) -> None:
    file = tiny_pairs.paint(tmp_path, 6)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    texts = ["red dog", "two cat"]
    rows = [{**row, "captions": [texts[number % 2]]} for number, row in enumerate(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    logged: list[dict[str, Any]] = []
    long = {"steps": 150, "learning_rate": 1e-2, "batch": 6, "ema_decay": None}
    made = config(tmp_path, sides, stage_1={"steps": 0}, stage_2=long)
    folder = train_bridge(made, tmp_path / "out", logged.append, device="cpu")
    losses = [row["loss"] for row in logged if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    model = VisionLanguageModel.from_pretrained(folder)
    paths = [tmp_path / row["image"] for row in rows]
    written = model.caption(paths, max_new_tokens=4, num_beams=1)
    assert sum(text.lower() == row["captions"][0] for text, row in zip(written, rows, strict=True)) >= 4


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown setting": ({"stage_1": {"speed": 1}}, r"stage_1\.speed: there is no such setting"),
    "text where a number should be": ({"stage_1": {"batch": "4"}}, r"stage_1\.batch"),
    "heads that do not divide the width": (
        {"bridge": {"qformer": {**QFORMER, "heads": 3}}},
        r"width of 16 cannot be split into 3 heads",
    ),
    "a batch larger than the data": ({"stage_2": {"batch": 40}}, r"stage_2\.batch 40 is more than the 8 pictures"),
    "a width that is not the language model's": (
        {"bridge": {"language_width": 16}},
        r"must be the language model's 32",
    ),
    "texts that do not fit": ({"data": {"texts": 50}}, r"do not fit into the 256"),
    "no data": ({"data": {"train": "missing.jsonl"}}, r"missing\.jsonl: no such file"),
    "the shape of a tower": ({"vision": {"image_height": 28, "image_width": 28}}, r"vision: .*valid string"),
    "a negative number of steps": ({"stage_1": {"steps": -1}}, r"steps -1"),
    "a prompt without a place": ({"prompts": {"question": "what?"}}, r"needs one \{\}"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_config_is_refused_by_name(fault: str, sides: Path, tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 8)
    changed, message = BAD[fault]
    with pytest.raises(InvalidSetting, match=message):
        summarize(config(tmp_path, sides, **changed))


def test_a_config_is_summarized(sides: Path, tmp_path: Path) -> None:
    with_questions(tiny_pairs.paint(tmp_path, 8))
    summary = summarize(config(tmp_path, sides))
    assert (summary["pictures"], summary["captions"], summary["questions"]) == (8, 16, 4)


def test_lines_of_the_same_picture_are_merged(tmp_path: Path) -> None:
    file = tiny_pairs.paint(tmp_path, 5)
    with_questions(file)
    found = read_bridge_examples(file)
    assert len(found) == 5 and found[0].questions == (("what is this ?", "yes"),) and len(found[0].captions) == 2
    assert found[4].questions == ()
    file.write_text('{"image": "a.jpg", "question": "what?"}')
    with pytest.raises(InvalidSetting, match="line 1"):
        read_bridge_examples(file)


def test_identical_texts_for_all_pictures_are_refused(sides: Path, tmp_path: Path) -> None:
    file = tiny_pairs.paint(tmp_path, 8)
    rows = [{**json.loads(line), "captions": ["A wall"]} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InvalidSetting, match=r"pairs\.jsonl: all pictures have the same text"):
        summarize(config(tmp_path, sides))


def test_a_damaged_checkpoint_falls_back_to_the_previous_one_and_stage_2_can_be_extended(
    sides: Path, tmp_path: Path
) -> None:
    tiny_pairs.paint(tmp_path, 8)
    made, out = config(tmp_path, sides, stage_1={"steps": 0}), tmp_path / "out"
    train_bridge(made, out, device="cpu")
    whole = load_file(out / "model" / "model.safetensors")
    newest = out / "stage-2.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"stage-2\.pt: this checkpoint is damaged .* stage-2\.previous\.pt"):
        train_bridge(made, out, device="cpu")
    newest.unlink()
    train_bridge(made, out, device="cpu")
    again = load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())
    logged: list[dict[str, Any]] = []
    more = config(tmp_path, sides, stage_1={"steps": 0}, stage_2={"steps": 6})
    train_bridge(more, out, logged.append, device="cpu")
    assert [row["step"] for row in logged if "step" in row] == [6]
    with pytest.raises(InvalidSetting, match=r"another stage_2\.steps"):
        train_bridge(made, out, device="cpu")


def test_a_grid_has_to_be_the_image_tower_s_and_its_position_biases_are_trained_and_saved(
    sides: Path, tmp_path: Path
) -> None:
    tiny_pairs.paint(tmp_path, 8)
    made = config(tmp_path, sides)

    def with_grid(height: int, width: int) -> BridgeConfig:
        qformer = replace(made.bridge.qformer, grid_height=height, grid_width=width, prefix_tokens=1)
        return replace(made, bridge=replace(made.bridge, qformer=qformer))

    message = r"prefix_tokens \+ grid_height \* grid_width = 13 must be the image tower's 17"
    with pytest.raises(InvalidSetting, match=message):
        summarize(with_grid(3, 4))
    folder = train_bridge(with_grid(4, 4), tmp_path / "out", device="cpu")
    qformer = VisionLanguageModel.from_pretrained(folder, device="cpu").bridge.qformer
    prior = spatial_prior(qformer.settings)
    for layer in (layer.cross_attention for layer in qformer.layers if layer.cross_attention is not None):
        assert layer.position_bias.shape == prior.shape == (3, 17)
        assert not torch.equal(layer.position_bias, prior) and torch.allclose(layer.position_bias, prior, atol=0.1)
