"""Captions and conversations compared with transformers' generate: the same random BLIP-2, the same pixels, one run.

    python benchmarks/captioning.py

Both sides take preprocessed pixels in batches of the same size, in turn, and their tokens are compared; ours is
compiled. A rate is that of the best round, a speedup the ratio of two rates. The turns of a conversation are timed to
the first token. The last rows are `mini`'s, from files to captions: the best of three beams, and the best of twelve
candidates as ranked by its dual encoder, which is the default.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from transformers import Blip2Config, Blip2ForConditionalGeneration, BlipImageProcessorPil

from beholder import VisionLanguageModel
from beholder.runtime.decoding import DecodingSettings, generate
from beholder.runtime.precision import Precision
from beholder.tasks.text_codec import append_tokens
from page import Row, keep

IMAGE_TOKEN, START = 50264, 2
TURNS = 5
PHOTOGRAPHS = Path(__file__).parent.parent / "demo" / "photographs"


def make(folder: Path) -> Blip2ForConditionalGeneration:
    """Write ViT-B/16, the paper's Q-Former and OPT-125M, random, with enough spread to tell pictures apart."""
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
            "initializer_range": 0.02,  # transformers' default is so small that all pictures give the same text
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


def in_turn(sides: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the shortest round of each side, after a warm-up."""
    best = [float("inf")] * len(sides)
    for number in range(rounds + 1):
        for side, work in enumerate(sides):
            began = time.perf_counter()
            work()
            if number:
                best[side] = min(best[side], time.perf_counter() - began)
    return best


def captions(
    reference: Blip2ForConditionalGeneration,
    models: dict[Precision, VisionLanguageModel],
    given: argparse.Namespace,
) -> Iterator[Row]:
    pixels = torch.randn(given.pictures, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for wide in (1, 3):
        options = {"max_new_tokens": 20, "num_beams": wide, "do_sample": False}

        def theirs(options: dict[str, object] = options) -> list[list[int]]:
            with torch.inference_mode():
                parts = [reference.generate(part, **options) for part in pixels.split(given.batch)]
            return [row[-20:] for part in parts for row in part.tolist()]

        def ours(model: VisionLanguageModel, wide: int = wide) -> list[list[int]]:
            texts = []
            for part in pixels.split(given.batch):
                prompts = model.front_end.prompts(model.front_end.tokens(part.numpy()))
                embeddings = append_tokens(model.language, prompts, [START])
                mask = torch.ones(embeddings.shape[:2], dtype=torch.bool)
                texts += generate(model.language, embeddings, mask, DecodingSettings(20, wide))
            return [text.ids for text in texts]

        sides = [theirs, *(lambda model=model: ours(model) for model in models.values())]
        slow, *taken = in_turn(sides, given.rounds)
        expected = theirs()
        for (precision, model), fast in zip(models.items(), taken, strict=True):
            written = ours(model)
            yield {
                "captions": "greedy" if wide == 1 else f"{wide} beams",
                "precision": precision,
                "transformers, pictures a second": round(given.pictures / slow, 2),
                "beholder, pictures a second": round(given.pictures / fast, 2),
                "ratio": round(slow / fast, 2),
                "same texts": sum(one == other for one, other in zip(written, expected, strict=True)),
                "same words": int((torch.tensor(written) == torch.tensor(expected)).sum()),
                "words": sum(map(len, expected)),
                "different texts": len(set(map(tuple, expected))),
                "texts": given.pictures,
                "batch": given.batch,
            }


def conversation(reference: Blip2ForConditionalGeneration, model: VisionLanguageModel) -> Iterator[Row]:
    """Time the first token of each turn: with the KV cache kept, and by processing picture and conversation again."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    processor = BlipImageProcessorPil(size={"height": 224, "width": 224})
    pixels = torch.from_numpy(processor(picture, return_tensors="np")["pixel_values"])
    chat = model.chat(picture, max_new_tokens=20)
    for number in range(TURNS):
        began = time.perf_counter()
        pieces = chat.stream(" ".join(str(word) for word in range(10 * number + 5, 10 * number + 15)))
        next(pieces)
        fast = time.perf_counter() - began
        before = [token for turn in chat.turns[:-1] for token in (*turn.question_ids, *turn.answer_ids)] + chat.turns[
            -1
        ].question_ids
        ids = torch.tensor([[IMAGE_TOKEN] * 32 + before])
        began = time.perf_counter()
        with torch.inference_mode():
            first = reference.generate(
                pixels, input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False
            )[0, -1]
        slow = time.perf_counter() - began
        same = int(first) == chat.turns[-1].answer_ids[0]
        for _ in pieces:
            pass
        yield {
            "turn": number + 1,
            "transformers, seconds to the first word": round(slow, 3),
            "beholder, seconds to the first word": round(fast, 3),
            "ratio": round(slow / fast, 2),
            "same token": same,
        }


def photographs(given: argparse.Namespace) -> Iterator[Row]:
    """`mini` on files, as the command line runs it."""
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))
    exact = VisionLanguageModel.from_pretrained("mini", device="cpu")
    chosen = f"chosen of {exact.loaded.num_candidates} beams"
    for name, options in (("best of 3 beams", {"num_beams": 3}), (chosen, {})):
        expected = exact.caption(files, **options)
        for precision in given.precisions:
            model = VisionLanguageModel.from_pretrained("mini", device="cpu", precision=precision)
            written = partial(model.caption, files, **options)
            (taken,) = in_turn([written], given.rounds)
            yield {
                "mini": name,
                "precision": precision,
                "photographs a second": round(len(files) / taken, 2),
                "same texts": sum(a == b for a, b in zip(written(), expected, strict=True)),
                "texts": len(files),
            }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pictures", type=int, default=32)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--precisions", nargs="+", default=["exact", "fast", "fastest"])
    options.add_argument("--keep", type=Path, help="store the rows in this file, from which bench.py writes the page")
    given = options.parse_args()
    with TemporaryDirectory() as folder, patch.dict(os.environ, BEHOLDER_CACHE=str(Path(folder) / "cache")):
        reference = make(Path(folder) / "model")
        models: dict[Precision, VisionLanguageModel] = {
            precision: VisionLanguageModel.compile(Path(folder) / "model", precision=precision)
            for precision in given.precisions
        }
        exact = models["exact"] if "exact" in models else next(iter(models.values()))
        rows = []
        for row in chain(captions(reference, models, given), conversation(reference, exact)):
            print(json.dumps(row), flush=True)
            rows.append(row)
    for row in photographs(given):
        print(json.dumps(row), flush=True)
        rows.append(row)
    keep(given.keep, "words", rows)


if __name__ == "__main__":
    main()
