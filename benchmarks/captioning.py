"""Captions and conversations against transformers' own generate: the same random BLIP-2, the same pixels, one run.

    python benchmarks/captioning.py

Both sides take ready pixels, and their tokens are compared. The turns of a conversation are timed to the first word.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from transformers import Blip2Config, Blip2ForConditionalGeneration, BlipImageProcessorPil

from beholder import VisionLanguageModel
from beholder.models.bridge import picture_tokens
from beholder.runtime.decoding import DecodingSettings, write

IMAGE_TOKEN, START = 50264, 2
TURNS = 5


def make(folder: Path) -> Blip2ForConditionalGeneration:
    """ViT-B/16, the paper's Q-Former, OPT of 125 million parameters; random, with spread wide enough to differ."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = Blip2Config(
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "patch_size": 16,
        },
        qformer_config={"encoder_hidden_size": 768},
        text_config={
            "model_type": "opt",
            "vocab_size": 50272,
            "hidden_size": 768,
            "ffn_dim": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "init_std": 0.06,
        },
        num_query_tokens=32,
    )
    config.image_token_index = config.image_token_id = IMAGE_TOKEN
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.query_tokens.normal_()
        model.language_projection.weight.mul_(20)
    model.language_model.generation_config.eos_token_id = None
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)
    letters = Tokenizer(models.WordLevel({"<unk>": 0, **{str(n): n for n in range(1, 50272)}}, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="<unk>").save_pretrained(folder)
    return model


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The shortest of several rounds, after one to warm up."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def report(row: dict[str, object]) -> None:
    print(json.dumps(row), flush=True)


def captions(reference: Blip2ForConditionalGeneration, model: VisionLanguageModel, given: argparse.Namespace) -> None:
    pixels = torch.randn(given.pictures, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for wide in (1, 3):
        options = {"max_new_tokens": 20, "num_beams": wide, "do_sample": False}

        def theirs(options: dict[str, object] = options) -> list[list[int]]:
            with torch.inference_mode():
                parts = [reference.generate(part, **options) for part in pixels.split(given.batch)]
            return [row for part in parts for row in part.tolist()]

        def ours(wide: int = wide) -> list[list[int]]:
            texts = []
            with torch.inference_mode():
                for part in pixels.split(given.our_batch):
                    prompts = model.bridge.soft_prompts(picture_tokens(model.image, part))
                    embeddings = model._with_text(prompts, [START])
                    mask = torch.ones(embeddings.shape[:2], dtype=torch.bool)
                    texts += write(model.language, embeddings, mask, DecodingSettings(20, wide))
            return [text.ids for text in texts]

        same = sum(a == b[-len(a) :] for a, b in zip(ours(), theirs(), strict=True))
        slow, fast = seconds(theirs, given.rounds), seconds(ours, given.rounds)
        report(
            {
                "captions": "greedy" if wide == 1 else f"{wide} beams",
                "transformers, pictures a second": round(given.pictures / slow, 2),
                "beholder, pictures a second": round(given.pictures / fast, 2),
                "ratio": round(slow / fast, 2),
                "same tokens": f"{same} of {given.pictures}",
            }
        )


def conversation(reference: Blip2ForConditionalGeneration, model: VisionLanguageModel) -> None:
    """The first word of each turn: ours, and by processing picture and conversation again."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    processor = BlipImageProcessorPil(size={"height": 224, "width": 224})
    pixels = torch.from_numpy(processor(picture, return_tensors="np")["pixel_values"])
    chat = model.chat(picture, max_new_tokens=20)
    for number in range(TURNS):
        began = time.perf_counter()
        pieces = chat.stream(" ".join(str(word) for word in range(10 * number + 5, 10 * number + 15)))
        next(pieces)
        fast = time.perf_counter() - began
        before = [token for turn in chat.turns[:-1] for token in (*turn.asked, *turn.said)] + chat.turns[-1].asked
        ids = torch.tensor([[IMAGE_TOKEN] * 32 + before])
        began = time.perf_counter()
        with torch.inference_mode():
            first = reference.generate(
                pixels, input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False
            )[0, -1]
        slow = time.perf_counter() - began
        same = int(first) == chat.turns[-1].said[0]
        for _ in pieces:
            pass
        report(
            {
                "turn": number + 1,
                "transformers, seconds to the first word": round(slow, 3),
                "beholder, seconds to the first word": round(fast, 3),
                "ratio": round(slow / fast, 2),
                "same token": same,
            }
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pictures", type=int, default=32)
    options.add_argument("--batch", type=int, default=8, help="of transformers")
    options.add_argument("--our-batch", type=int, default=32)
    options.add_argument("--rounds", type=int, default=2)
    given = options.parse_args()
    with TemporaryDirectory() as folder:
        reference = make(Path(folder))
        model = VisionLanguageModel.from_pretrained(folder, device="cpu")
    captions(reference, model, given)
    conversation(reference, model)


if __name__ == "__main__":
    main()
