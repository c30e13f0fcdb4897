"""Batches of a fine-tuning: the prompt is what the model reads when it captions, and the answer alone is learned."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

import tiny_vlm
from beholder.errors import InvalidSetting
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.image_text_to_text_model import ImageTextToTextModel
from beholder.tasks.thinking import starts_thinking, visible
from beholder.tasks.transformers_conversation import TransformersConversation
from beholder.tasks.transformers_generation import TransformersGenerator
from beholder.training.vlm_batches import IGNORED, AnswerBatch, BatchEncoder, append_answers
from beholder.training.vlm_config import VlmDataConfig
from beholder.training.vlm_data import VlmExample
from beholder.training.vlm_losses import answer_loss, first_answer
from beholder.weights import image_text_to_text
from tiny_image_text_to_text import EOS, FAMILIES, VOCABULARY


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> TransformersGenerator:
    folder = tmp_path_factory.mktemp("smolvlm")
    FAMILIES["smolvlm"](folder)
    return TransformersGenerator(image_text_to_text.load(folder, "tiny", allow_pickle=False), "cpu")


def encoder(model: TransformersGenerator, skipped: dict[str, str] | None = None, **data: object) -> BatchEncoder:
    settings = VlmDataConfig("unused", **data)  # type: ignore[arg-type]
    return BatchEncoder(model, settings, ({} if skipped is None else skipped).__setitem__)


def test_answers_follow_their_prompts_wherever_those_are_padded() -> None:
    inputs = {
        "input_ids": torch.tensor([[0, 0, 5, 6], [9, 0, 7, 8]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 0, 1, 1]]),
        "token_type_ids": torch.tensor([[0, 0, 2, 0], [2, 0, 0, 0]]),
        "qformer_input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]]),
        "pixel_values": torch.ones(2, 3, 4, 4),
    }
    batch = append_answers(inputs, [[11, 12, 13], [14]], pad_token_id=99, answer_token_type=1)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 11, 12, 13], [9, 7, 8, 14, 99]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.inputs["token_type_ids"].tolist() == [[2, 0, 1, 1, 1], [2, 0, 0, 1, 0]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 11, 12, 13], [IGNORED, IGNORED, IGNORED, 14, IGNORED]]
    assert batch.inputs["qformer_input_ids"] is inputs["qformer_input_ids"]
    assert batch.inputs["pixel_values"] is inputs["pixel_values"]
    assert batch.targets == 4 and first_answer(batch.labels) == 2


def test_the_loss_is_that_of_the_answers_tokens_and_gives_all_others_no_gradient() -> None:
    labels = torch.tensor([[IGNORED, IGNORED, 3, 1, IGNORED], [IGNORED, IGNORED, IGNORED, 2, 4]])
    logits = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = answer_loss(logits, labels)
    expected = [cross_entropy(logits[row, at - 1], labels[row, at]) for row, at in ((0, 2), (0, 3), (1, 3), (1, 4))]
    torch.testing.assert_close(loss, torch.stack(expected).sum())
    torch.testing.assert_close(answer_loss(logits[:, 1:], labels), loss)  # the last four positions are enough
    loss.backward()
    assert logits.grad is not None
    learned = {(row, at) for row, at in torch.nonzero(logits.grad.abs().sum(-1)).tolist()}
    assert learned == {(0, 1), (0, 2), (1, 2), (1, 3)}


def test_a_caption_and_an_answer_follow_the_prompts_of_caption_and_answer(
    smolvlm: TransformersGenerator, tmp_path: Path
) -> None:
    tiny_vlm.paint(tmp_path)
    path = tmp_path / "pictures" / "0.png"
    examples = [VlmExample(path, None, " a red\nwall "), VlmExample(path, "what is it?", "wall")]
    batch = encoder(smolvlm)(examples)
    assert batch is not None
    model = ImageTextToTextModel(smolvlm, TransformersConversation)
    prompts = [model.caption_prompt(CaptionOptions()), model.question_prompt("what is it?")]
    for row, (prompt, text) in enumerate(zip(prompts, ("a red wall", "wall"), strict=True)):
        with Image.open(path) as picture:
            (read,) = smolvlm.encode([[picture.convert("RGB")]], [prompt])["input_ids"].tolist()
        ids = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()].tolist()
        labels = batch.labels[row][batch.labels[row] != IGNORED].tolist()
        assert ids == read + labels
        assert smolvlm.tokenizer.decode(labels) == f"{text}</s>"


def test_a_turn_ends_as_the_chat_template_ends_it(
    smolvlm: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = VOCABULARY["<end_of_utterance>"]
    monkeypatch.setattr(smolvlm, "eos_token_ids", (EOS, end))
    prompt, answer, rest = encoder(smolvlm).texts(VlmExample(Path("a.png"), None, "wall"))
    assert encoder(smolvlm).answer_ids(prompt, answer, rest)[-1] == end
    assert encoder(smolvlm).answer_ids(prompt, answer, "")[-1] == EOS  # nothing is known of the template
    assert len(encoder(smolvlm, longest=3).answer_ids(prompt, answer, rest)) == 3


def test_instructions_and_whole_conversations_can_be_trained(smolvlm: TransformersGenerator) -> None:
    caption, question = VlmExample(Path("a.png"), None, "a\nb"), VlmExample(Path("a.png"), "What?", " a\nb ")
    prompt, answer, _ = encoder(smolvlm, instruction="Name the dress.").texts(caption)
    assert "Name the dress." in prompt and answer == "a b"
    prompt, answer, _ = encoder(smolvlm, brief=False).texts(question)
    assert "What?<end_of_utterance>" in prompt and answer == "a\nb"


def test_a_model_that_would_think_first_learns_an_empty_thought(
    smolvlm: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = encoder(smolvlm)
    monkeypatch.setattr(smolvlm, "render", lambda messages: "Describe it.Assistant:<think>\n")
    prompt, answer, rest = encode.texts(VlmExample(Path("a.png"), None, "wall"))
    learned = smolvlm.tokenizer.decode(encode.answer_ids(prompt, answer, rest))
    assert learned == "\n</think>\n\nwall</s>"
    assert visible(learned, starts_thinking(prompt)).strip() == "wall</s>"


def test_what_a_family_without_a_chat_template_cannot_do_is_refused(tmp_path: Path) -> None:
    FAMILIES["paligemma"](tmp_path)
    model = TransformersGenerator(image_text_to_text.load(tmp_path, "tiny", allow_pickle=False), "cpu")
    with pytest.raises(InvalidSetting, match=r"data\.brief: a paligemma has no chat template"):
        encoder(model, brief=False)
    with pytest.raises(InvalidSetting, match="a paligemma follows no instructions"):
        encoder(model, instruction="Name the dress.")
    tiny_vlm.paint(tmp_path)
    batch = encoder(model)([VlmExample(tmp_path / "pictures" / "0.png", None, "wall")])
    assert batch is not None
    assert model.tokenizer.decode(batch.inputs["input_ids"][0]).endswith("caption en\nwall</s>")


def test_what_looks_like_a_control_token_is_text(smolvlm: TransformersGenerator, tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    example = VlmExample(tmp_path / "pictures" / "0.png", "<image>?", "<image></s>!")
    batch = encoder(smolvlm)([example])
    assert batch is not None
    assert batch.labels[0][-2:].tolist() == [VOCABULARY["!"], EOS]
    assert int((batch.inputs["input_ids"] == VOCABULARY["<image>"]).sum()) == 4 * batch.inputs["pixel_values"].shape[1]


def test_pictures_that_cannot_be_used_and_texts_that_do_not_fit_are_skipped_by_name(
    smolvlm: TransformersGenerator, tmp_path: Path
) -> None:
    tiny_vlm.paint(tmp_path, 3, broken=(1,))
    paths = [tmp_path / "pictures" / f"{number}.png" for number in range(3)]
    skipped: dict[str, str] = {}
    encode = encoder(smolvlm, skipped, longest=1000)
    batch = encode([VlmExample(path, None, text) for path, text in zip(paths, ("a", "b", "c" * 500), strict=True)])
    assert batch is not None and len(batch.labels) == 1
    assert set(skipped) == {str(paths[1]), str(paths[2])} and "context is 512" in skipped[str(paths[2])]
    assert encode([VlmExample(paths[1], None, "b")]) is None


def test_a_picture_that_the_processor_refuses_is_skipped_and_the_rest_of_its_batch_is_not(
    smolvlm: TransformersGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_vlm.paint(tmp_path)
    paths = [tmp_path / "pictures" / f"{number}.png" for number in range(3)]
    Image.new("RGB", (25, 20)).save(paths[1])
    real = smolvlm.encode

    def refuse(images: list[list[Image.Image]], texts: list[str]) -> object:
        if any(image.width == 25 for (image,) in images):
            raise ValueError("an odd picture")
        return real(images, texts)

    monkeypatch.setattr(smolvlm, "encode", refuse)
    skipped: dict[str, str] = {}
    batch = encoder(smolvlm, skipped)([VlmExample(path, None, "a") for path in paths])
    assert isinstance(batch, AnswerBatch) and len(batch.labels) == 2
    assert list(skipped) == [str(paths[1])] and "an odd picture" in skipped[str(paths[1])]
