"""Peak memory and time of one caption of a BLIP-2 in half precision, beside transformers.

    python benchmarks/checkpoint_memory.py
    python benchmarks/checkpoint_memory.py --vision-layers 39 --layers 32 --hidden 2560      # BLIP-2 OPT-2.7B, 7.5 GB

The checkpoint has random weights: ViT-g with fewer layers, the paper's Q-Former, and an OPT. Each side is a process of
its own. It loads the checkpoint and captions one picture greedily, with 20 tokens, several times. Its memory is the
peak after that, less the peak after all imports, divided by the bytes of the checkpoint. The processor time of all
threads is shown beside the time by the clock, since other programs do not disturb it. Tokens are compared with those
of the first side.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, BlipImageProcessorPil, PreTrainedTokenizerFast

from beholder import VisionLanguageModel
from beholder.runtime.decoding import DecodingSettings, generate
from beholder.runtime.precision import Precision
from beholder.tasks.text_codec import append_tokens
from resident import most_resident

IMAGE_TOKEN, START, TOKENS = 50264, 2, 20
SIDES = ("transformers float32", "transformers bfloat16", "beholder exact", "beholder fast", "beholder fastest")


def write(folder: Path, given: argparse.Namespace) -> None:
    """Write the checkpoint, with enough spread to tell pictures apart."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = Blip2Config(
        vision_config={"num_hidden_layers": given.vision_layers, "initializer_range": 0.02},
        text_config={
            "model_type": "opt",
            "vocab_size": 50272,
            "hidden_size": given.hidden,
            "word_embed_proj_dim": given.hidden,
            "ffn_dim": 4 * given.hidden,
            "num_hidden_layers": given.layers,
            "num_attention_heads": given.hidden // 64,
            "init_std": 0.04,
        },
        num_query_tokens=32,
    )
    config.image_token_index = config.image_token_id = IMAGE_TOKEN
    model = Blip2ForConditionalGeneration._from_config(config, dtype=torch.float16)
    with torch.no_grad():
        model.query_tokens.normal_()
        model.language_projection.weight.mul_(20)
    model.language_model.generation_config.eos_token_id = None  # all captions have the same length
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<unk>": 0, **{str(n): n for n in range(1, 50272)}}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)


def load_transformers(folder: Path, dtype: torch.dtype) -> Callable[[torch.Tensor], list[int]]:
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()

    def caption(pixels: torch.Tensor) -> list[int]:
        with torch.inference_mode():
            found = model.generate(pixels.to(dtype), max_new_tokens=TOKENS, do_sample=False)
        return cast(list[int], found[0, -TOKENS:].tolist())

    return caption


def load_beholder(folder: Path, precision: Precision) -> Callable[[torch.Tensor], list[int]]:
    model = VisionLanguageModel.from_pretrained(folder, device="cpu", precision=precision).with_bridge("a caption")

    def caption(pixels: torch.Tensor) -> list[int]:
        prompts = model.front_end.prompts(model.front_end.tokens(pixels.numpy()))
        embeddings = append_tokens(model.language, prompts, [START])
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool)
        return list(generate(model.language, embeddings, mask, DecodingSettings(TOKENS, 1))[0].ids)

    return caption


def measure(folder: Path, side: str, rounds: int) -> dict[str, Any]:
    """Load and caption, in this process."""
    pixels = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32))
    imported, began = most_resident(), time.perf_counter()
    library, kind = side.split()
    caption = (
        load_transformers(folder, getattr(torch, kind))
        if library == "transformers"
        else load_beholder(folder, cast(Precision, kind))
    )
    loaded, loading = most_resident(), time.perf_counter() - began
    seconds, processor = [], []
    for _ in range(rounds):
        began, began_processor = time.perf_counter(), time.process_time()
        tokens = caption(pixels)
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - began_processor)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {
        "side": side,
        "checkpoint, GB": round(size / 1e9, 2),
        "peak of loading": round((loaded - imported) / size, 2),
        "peak": round((most_resident() - imported) / size, 2),
        "seconds to load": round(loading, 1),
        "seconds of a caption": round(min(seconds), 2),
        "of the processor": round(min(processor), 2),
        "tokens": tokens,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--vision-layers", type=int, default=8)
    options.add_argument("--layers", type=int, default=8)
    options.add_argument("--hidden", type=int, default=2048)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    options.add_argument("--write", type=Path, help="only write the checkpoint into this folder")
    options.add_argument("--side", choices=SIDES, help="only measure this side, with the checkpoint of --model")
    options.add_argument("--model", type=Path, help="a checkpoint that --write wrote")
    given = options.parse_args()
    if given.write:
        write(given.write, given)
        return
    if given.side:
        print(json.dumps(measure(given.model, given.side, given.rounds)))
        return
    with TemporaryDirectory() as scratch:
        model = given.model or Path(scratch)
        if given.model is None:  # in a process of its own, like all that follows
            subprocess.run([sys.executable, *sys.argv, "--write", scratch], check=True)
        expected: list[int] = []
        for side in given.sides:
            command = [sys.executable, __file__, "--side", side, "--model", str(model), "--rounds", str(given.rounds)]
            row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            tokens = row.pop("tokens")
            expected = expected or tokens
            row["tokens as the first side"] = sum(one == other for one, other in zip(tokens, expected, strict=True))
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
