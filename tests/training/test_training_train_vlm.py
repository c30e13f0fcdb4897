"""Fine-tuning vision-language models with LoRA, on small random checkpoints that transformers wrote."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import tiny_blip2
import tiny_model
import tiny_vlm
from beholder import DualEncoder, VisionLanguageModel
from beholder.errors import InvalidSetting
from beholder.runtime.pipeline import batches
from beholder.tasks.transformers_generation import TransformersGenerator
from beholder.training.interruption import Interrupted
from beholder.training.train_vlm import exchange_pictures, forward_loss, summarize, train_vlm
from beholder.training.vlm_batches import BatchEncoder
from beholder.training.vlm_config import read_vlm_config
from beholder.training.vlm_data import VlmExample, read_vlm_data
from beholder.training.vlm_model import add_adapters, language_model_name, projector_names, trained_parameters
from beholder.weights import image_text_to_text
from tiny_image_text_to_text import FAMILIES, VOCABULARY


def blip2(folder: Path) -> None:
    """Write a BLIP-2 with a small OPT, whose tokenizer and processor know the picture's tokens."""
    tiny_blip2.make("opt", folder)
    words = tiny_blip2.word_tokenizer("opt")
    words.add_tokens([*(f"<{number}>" for number in range(39 - len(words))), "<image>"])
    assert words.convert_tokens_to_ids("<image>") == 39
    words.save_pretrained(folder)
    settings = {"processor_class": "Blip2Processor", "num_query_tokens": 5}
    (folder / "processor_config.json").write_text(json.dumps(settings))


MODELS: dict[str, Callable[[Path], None]] = {**FAMILIES, "blip2": blip2}
TRAINED = sorted(set(MODELS) - {"blip", "florence2"})
LONG = {"steps": 90, "batch": 4, "report_every": 90, "learning_rate": 5e-3}
QUICK = {"smolvlm"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a family to the folder of a checkpoint."""
    folders: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            MODELS[family](folders[family])
        return folders[family]

    return get


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def encoder(folder: Path, config: Any) -> tuple[TransformersGenerator, BatchEncoder]:
    model = TransformersGenerator(image_text_to_text.load(folder, "tiny", allow_pickle=False), "cpu")
    return model, BatchEncoder(model, config.data, lambda name, reason: None)


@pytest.mark.parametrize(
    "family", [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in TRAINED]
)
def test_every_family_learns_and_its_merged_model_is_the_adapted_one(
    family: str, checkpoint: Any, tmp_path: Path
) -> None:
    tiny_vlm.paint(tmp_path)
    source = checkpoint(family)
    config = tiny_vlm.config(tmp_path, source, train={"projector": True, "projector_lr_ratio": 1.0, "warmup": 0.0})
    folder = train_vlm(config, tmp_path / "out", device="cpu")
    losses = [row["loss"] for row in rows(tmp_path / "out")]
    assert losses[-1] < losses[0]

    _, encode = encoder(source, config)
    batch = encode(read_vlm_data(config).training)
    assert batch is not None
    base = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "out" / "adapter")).eval()
    merged = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected, found = (network(**batch.inputs).logits for network in (adapted, merged))
        with adapted.disable_adapter():
            original = adapted(**batch.inputs).logits
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert float((expected - original).abs().max()) > 1e-2

    after = merged.state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    language, projectors = language_model_name(merged), projector_names(merged)
    assert all(name.startswith((f"{language}.", *projectors)) for name in changed)
    assert any(name.startswith(f"{language}.") for name in changed) and projectors
    unused = "model.visual.deepstack_merger_list.1"  # comes after the last of two layers, where no answer sees it
    assert all(any(name.startswith(each) for name in changed) for each in projectors if each != unused)

    model = VisionLanguageModel.from_pretrained(folder, device="cpu")
    (caption,) = model.caption([tmp_path / "pictures" / "0.png"], max_new_tokens=3, num_beams=1)
    assert isinstance(caption, str)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["smolvlm", "qwen2_5_vl", "blip2"])
def test_a_fine_tuned_model_writes_what_it_was_taught(family: str, checkpoint: Any, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    lines = [{"image": f"pictures/{number}.png", "captions": ["dog"]} for number in range(2)]
    questions = [{"image": line["image"], "question": "what is it ?", "answer": "cat"} for line in lines]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, *questions]))
    config = tiny_vlm.config(tmp_path, checkpoint(family), train=LONG)
    model = VisionLanguageModel.from_pretrained(train_vlm(config, tmp_path / "out", device="cpu"), device="cpu")
    picture = tmp_path / "pictures" / "0.png"
    assert model.caption(picture, num_beams=1).lower() == "dog"
    assert model.answer(picture, "what is it ?").lower() == "cat"


@pytest.mark.slow
def test_a_resumed_run_matches_an_uninterrupted_one_bit_for_bit(checkpoint: Any, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    config = tiny_vlm.config(
        tmp_path,
        checkpoint("smolvlm"),
        data={"evaluate": "pairs.jsonl"},
        lora={"dropout": 0.3},
        train={"projector": True, "batch": 4, "chunk": 3, "save_every": 2},
    )
    train_vlm(config, tmp_path / "whole", device="cpu")

    class Crash(Exception):
        pass

    def crash(row: dict[str, Any]) -> None:
        if row["step"] == 4:
            raise Crash

    with pytest.raises(Crash):
        train_vlm(config, tmp_path / "half", crash, device="cpu")
    train_vlm(config, tmp_path / "half", device="cpu")
    whole, half = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("whole", "half"))
    assert whole.keys() == half.keys() and all(whole[name].equal(half[name]) for name in whole)
    timeless = [
        [(row["step"], row.get("loss"), row.get("validation_loss"), row.get("exchanged_loss")) for row in rows(out)]
        for out in (tmp_path / "half", tmp_path / "whole")
    ]
    assert timeless[0] == timeless[1] and [row[0] for row in timeless[0]] == [1, 2, 3, 4, 5, 6, 6]
    assert timeless[0][-1][2] > 0 and timeless[0][-1][3] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_the_same_call_resumes(
    number: signal.Signals, checkpoint: Any, tmp_path: Path
) -> None:
    tiny_vlm.paint(tmp_path)
    config = tiny_vlm.config(tmp_path, checkpoint("smolvlm"), train={"save_every": 100})

    def interrupt(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="stopped after step 3 of 6"):
        train_vlm(config, tmp_path / "out", interrupt, device="cpu")
    assert [file.name for file in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000003.pt"]
    assert not (tmp_path / "out" / "model").exists()
    train_vlm(config, tmp_path / "out", device="cpu")
    assert [row["step"] for row in rows(tmp_path / "out")] == [1, 2, 3, 4, 5, 6]


def test_chunks_and_padding_change_neither_loss_nor_gradient(checkpoint: Any, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    config = tiny_vlm.config(tmp_path, checkpoint("smolvlm"))
    model, encode = encoder(checkpoint("smolvlm"), config)
    torch.manual_seed(0)
    adapted = add_adapters(model.loaded.module, config.lora, projector=True)
    examples = read_vlm_data(config).training
    gradients, losses = [], []
    for size in (len(examples), 1):
        adapted.zero_grad()
        parts = [batch for part in batches(examples, size) if (batch := encode(part)) is not None]
        loss = torch.stack([forward_loss(adapted, part) for part in parts]).sum() / sum(part.targets for part in parts)
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: weight.grad.clone() for name, weight in trained_parameters(adapted).items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-3)


def test_only_adapters_are_trained_unless_the_projector_is_asked_for(checkpoint: Any, tmp_path: Path) -> None:
    config = tiny_vlm.config(tmp_path, checkpoint("llava"), lora={"targets": ["q_proj", "v_proj"]})
    for projector in (False, True):
        model, _ = encoder(checkpoint("llava"), config)
        names = set(trained_parameters(add_adapters(model.loaded.module, config.lora, projector)))
        adapters = {name for name in names if ".lora_" in name}
        assert len(adapters) == 2 * 2 * 2  # layers, matrices, A and B
        assert all("language_model" in name and ("q_proj" in name or "v_proj" in name) for name in adapters)
        assert bool(names - adapters) == projector
        assert all("multi_modal_projector" in name for name in names - adapters)


@pytest.mark.slow
def test_a_checkpoint_in_bfloat16_stays_in_it_and_gradients_can_be_recomputed(checkpoint: Any, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    half = tmp_path / "half"
    FAMILIES["smolvlm"](half)
    AutoModelForImageTextToText.from_pretrained(half, dtype=torch.bfloat16).save_pretrained(half)
    config = tiny_vlm.config(
        tmp_path, half, train={"precision": "bfloat16", "recompute": True, "projector": True, "warmup": 0.0}
    )
    folder = train_vlm(config, tmp_path / "out", device="cpu")
    losses = [row["loss"] for row in rows(tmp_path / "out")]
    assert losses[-1] < losses[0]
    before, after = load_file(half / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys() and {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert all(after[name].equal(weight) for name, weight in before.items() if "vision" in name)
    saved = torch.load(tmp_path / "out" / "checkpoints" / "step-00000006.pt", weights_only=True)
    assert {weight.dtype for weight in saved["weights"].values()} == {torch.float32}


@pytest.mark.slow
def test_recomputed_activations_give_the_same_model(checkpoint: Any, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    for recompute in (False, True):
        train = {"steps": 3, "recompute": recompute}
        config = tiny_vlm.config(tmp_path, checkpoint("smolvlm"), lora={"dropout": 0.3}, train=train)
        train_vlm(config, tmp_path / str(recompute), device="cpu")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("False", "True")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-4, rtol=0)


def test_another_config_does_not_resume_and_more_steps_do(checkpoint: Any, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path, broken=(1,))
    train_vlm(tiny_vlm.config(tmp_path, checkpoint("smolvlm"), train={"steps": 2}), tmp_path / "out", device="cpu")
    with pytest.raises(InvalidSetting, match=r"another lora\.rank"):
        changed = tiny_vlm.config(tmp_path, checkpoint("smolvlm"), lora={"rank": 2}, train={"steps": 2})
        train_vlm(changed, tmp_path / "out", device="cpu")
    more = tiny_vlm.config(tmp_path, checkpoint("smolvlm"), train={"steps": 3, "save_every": 1})
    train_vlm(more, tmp_path / "out", device="cpu")
    assert [row["step"] for row in rows(tmp_path / "out")] == [1, 2, 3]
    assert rows(tmp_path / "out")[-1]["broken"] == 1
    (skipped,) = (tmp_path / "out" / "broken.jsonl").read_text().splitlines()
    assert json.loads(skipped)["name"].endswith("1.png")


def test_a_batch_without_a_usable_picture_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path, broken=(0, 1, 2))
    config = tiny_vlm.config(tmp_path, checkpoint("smolvlm"))
    with pytest.raises(InvalidSetting, match=r"none of the 6 pictures of a batch can be used"):
        train_vlm(config, tmp_path / "out", device="cpu")
    with pytest.raises(InvalidSetting, match=r"none of its pictures can be used; .*\.png"):
        summarize(config)


def test_texts_are_exchanged_between_pictures() -> None:
    examples = [VlmExample(Path(name), None, text) for name, text in (("a", "1"), ("a", "2"), ("b", "3"))]
    assert [(str(each.path), each.text) for each in exchange_pictures(examples)] == [("b", "1"), ("b", "2"), ("a", "3")]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown setting": ({"train": {"speed": 1}}, r"train\.speed: there is no such setting"),
    "a misspelled setting": ({"lora": {"ranks": 1}}, r"lora\.ranks: there is no such setting; do you mean rank"),
    "text where a number should be": ({"train": {"batch": "4"}}, r"train\.batch"),
    "neither steps nor epochs": ({"train": {"steps": None}}, "needs either steps or epochs"),
    "no steps": ({"train": {"steps": 0}}, "steps 0 must be more than 0"),
    "a chunk larger than the batch": ({"train": {"chunk": 7}}, "chunk 7 must be between 1 and the batch's 6"),
    "a share above one": ({"train": {"warmup": 2.0}}, r"warmup 2\.0 must be a share"),
    "an adapter without a rank": ({"lora": {"rank": 0}}, "rank 0 must be at least 1"),
    "a dropout of everything": ({"lora": {"dropout": 1.0}}, r"dropout 1\.0 must be a share"),
    "no layers": ({"lora": {"targets": []}}, "targets names no layer"),
    "answers of no tokens": ({"data": {"longest": 0}}, "longest 0 must be at least 1"),
    "an empty instruction": ({"data": {"instruction": " "}}, "the instruction is empty"),
    "a batch larger than the data": ({"train": {"batch": 40}}, r"train\.batch 40 is more than the 7 texts"),
    "no data": ({"data": {"train": "missing.jsonl"}}, r"missing\.jsonl: no such file"),
    "layers that are not there": ({"lora": {"targets": ["qkv"]}}, r"lora\.targets: no layer qkv; .* has .*q_proj"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_setting_is_named(fault: str, checkpoint: Any, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    changed, message = WRONG[fault]
    with pytest.raises(InvalidSetting, match=message):
        summarize(tiny_vlm.config(tmp_path, checkpoint("smolvlm"), **changed))


def dual_encoder(folder: Path) -> None:
    DualEncoder(tiny_model.build()).save_pretrained(folder)


def clip(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "clip"}')


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "Beholder's own format": (dual_encoder, "is not in transformers' format, .*; beholder train bridge"),
    "a dual encoder": (clip, "is a clip, which generates no text from pictures"),
    "cross-attention": (FAMILIES["blip"], "is a blip, whose language model reads the picture by cross-attention"),
    "an encoder with a decoder": (
        FAMILIES["florence2"],
        "language model of this florence2 is an encoder with a decoder",
    ),
    "BLIP-2 with Flan-T5": (
        partial(tiny_blip2.make, "t5"),
        "language model of this blip-2 is an encoder with a decoder",
    ),
    "a BLIP-2 of an older layout": (partial(tiny_blip2.make, "opt"), "is of an older layout"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_cannot_be_fine_tuned_is_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    write, message = REFUSED[kind]
    (tmp_path / "model").mkdir()
    write(tmp_path / "model")
    with pytest.raises(InvalidSetting, match=f"model.from_pretrained: .*{message}"):
        summarize(tiny_vlm.config(tmp_path, tmp_path / "model"))


def test_the_summary_says_what_would_be_trained(checkpoint: Any, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    config = tiny_vlm.config(tmp_path, checkpoint("smolvlm"), train={"steps": None, "epochs": 2.0, "projector": True})
    summary = summarize(config)
    assert (summary["pictures"], summary["captions"], summary["questions"], summary["steps"]) == (3, 6, 1, 3)
    assert 0 < summary["trained"] < summary["parameters"] and summary["projector"] == "model.connector"
    assert len(VOCABULARY) > 100


def test_the_recipe_is_valid() -> None:
    config = read_vlm_config(Path(__file__).parents[2] / "recipes" / "vlm" / "smolvlm.json")
    assert config.model.from_pretrained == "smolvlm" and config.train.projector
