"""The language model of `mini` alone, compared with transformers and llama.cpp: greedy decoding without a picture.

    pip install xllamacpp
    python benchmarks/language_alone.py

llama.cpp uses the GGUF file's four-bit weights with eight-bit activations; it runs as its own server, in this
process, with one slot per prompt. transformers has the same weights in float32; ours keeps the file's quantization
groups and computes in float32. The sides take turns in one run, on the same prompts; a rate is that of the best
round, and a speedup the ratio of two rates. "Same words" is the share of tokens that agree with those of transformers
at the same position: once a side picks another token, the rest of its text differs.
"""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from beholder import VisionLanguageModel
from beholder.runtime.decoding import DecodingSettings, generate
from beholder.weights import mini_bridge
from beholder.weights.mini import fetch
from captioning import in_turn
from page import Row, keep

NEW = 40
PROMPTS = (
    "The old harbour lies in the evening sun, and on the quay",
    "A man in a red jacket rides his bicycle down the hill while",
    "Two children and their small brown dog watch from the porch of",
    "On the wooden table stands a plate of rice with vegetables, and",
    "The train leaves the station at half past seven in the morning, so",
    "In the middle of the market a woman sells flowers, which she",
    "Snow lies on the mountains behind the lake, and the first birds",
    "The cat sleeps on the window sill until somebody opens the door and",
)
Ids = list[list[int]]


def padded(asked: Ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask (B, T), padded on the left."""
    longest = max(map(len, asked))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in asked])
    mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in asked])
    return ids, mask


def theirs(model: Any, asked: Ids) -> Ids:
    ids, mask = padded(asked)
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=mask.long(), max_new_tokens=NEW, do_sample=False)
    return found[:, ids.shape[1] :].tolist()


def ours(language: Any, asked: Ids) -> Ids:
    ids, mask = padded(asked)
    return [text.ids for text in generate(language, language.embed(ids), mask, DecodingSettings(NEW))]


class LlamaCpp:
    """llama.cpp, with one slot per prompt."""

    def __init__(self, slots: int, words: Any):
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(fetch(mini_bridge.LANGUAGE_MODEL) / mini_bridge.GGUF)
        settings.n_parallel, settings.n_ctx = slots, 128 * slots
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
        self.server, self.words = xllamacpp.Server(settings), words

    def __call__(self, asked: Ids) -> Ids:
        with ThreadPoolExecutor(len(asked)) as pool:
            return list(pool.map(self._one, asked))

    def _one(self, prompt: list[int]) -> list[int]:
        asked = {"prompt": prompt, "n_predict": NEW, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        text = self.server.handle_completions(asked)["choices"][0]["text"]
        return (self.words.encode(text).ids + [-1] * NEW)[:NEW]


def measure(rounds: int) -> list[Row]:
    """Return the rows: each side, at batch size 1 and larger."""
    models = {
        name: VisionLanguageModel.from_pretrained("mini", device="cpu", precision=name)  # type: ignore[arg-type]
        for name in ("exact", "fast", "fastest")
    }
    for model in models.values():
        model.language.eos_token_ids = ()  # no side stops early
    reference, words = mini_bridge.language_model()
    reference.module.generation_config.eos_token_id = None
    rows = []
    for batch in (1, len(PROMPTS)):
        asked = [words.encode(text).ids for text in PROMPTS[:batch]]
        sides: dict[str, Callable[[], Ids]] = {
            "transformers": partial(theirs, reference.module, asked),
            "llama.cpp, four bits": partial(LlamaCpp(batch, words), asked),
        }
        sides |= {f"beholder {name}": partial(ours, model.language, asked) for name, model in models.items()}
        taken = in_turn(list(sides.values()), rounds)
        expected = np.array(sides["transformers"]())
        for (name, side), seconds in zip(sides.items(), taken, strict=True):
            row: Row = {"language alone": name, "batch": batch, "words a second": round(batch * NEW / seconds, 1)}
            row |= {"ratio": round(taken[0] / seconds, 2)}
            rows.append(row | {"same words": round(float((np.array(side()) == expected).mean()), 3)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--keep", type=Path, help="store the rows in this file, from which bench.py writes the page")
    given = options.parse_args()
    keep(given.keep, "language", measure(given.rounds))


if __name__ == "__main__":
    main()
