"""SmolVLM2 compared with transformers' generate: the same random weights of SmolVLM2-256M's shape, in one run.

    python benchmarks/smolvlm.py
    python benchmarks/smolvlm.py --longest-edge 1024 --rounds 2

Both sides caption files from `demo/photographs` greedily, in turn, from the JPEG to the text; ours is compiled.
transformers runs in single precision, which `exact` is compared with, and in bfloat16, the checkpoint's own type. Each
token spells a word of its own, so equal texts are equal ids. First, the time to the first word of a
conversation's fifth turn is taken: with the cache kept, and by transformers, which reads picture and turns again. The
processor time of all threads is shown beside the time by the clock, since other programs do not disturb it.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import transformers
from PIL import Image, ImageOps

from beholder import VisionLanguageModel
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.image_text_to_text_model import ImageTextToTextModel
from beholder.weights.image_text_to_text import read_processor

PHOTOGRAPHS = sorted((Path(__file__).parent.parent / "demo" / "photographs").glob("*.jpg"))
QUESTIONS = ["w101 w102 w103", "w104 w105", "w106 w107 w108", "w109 w110", "w111 w112 w113"]
VOCABULARY = 49280
SPECIAL = ["<pad>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
SPECIAL += [f"<row_{row}_col_{column}>" for row in range(1, 9) for column in range(1, 9)]
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% else %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def make(folder: Path, longest_edge: int) -> None:
    """Write a checkpoint of SmolVLM2-256M's shape with random weights in bfloat16."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = transformers.SmolVLMConfig(
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
            "initializer_range": 0.03,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rope_theta": 100000.0,
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.06,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        image_token_id=SPECIAL.index("<image>"),
        scale_factor=4,
        pad_token_id=0,
    )
    model = transformers.SmolVLMForConditionalGeneration(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = 2
    model.generation_config.suppress_tokens = list(range(len(SPECIAL)))  # all captions have the same length
    model.save_pretrained(folder)
    transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": longest_edge}, max_image_size={"longest_edge": 512}
    ).save_pretrained(folder)
    words = {token: number for number, token in enumerate(SPECIAL)}
    words |= {f"w{number}": number for number in range(len(words), VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
    ).save_pretrained(folder)
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "SmolVLMProcessor", "image_seq_len": 64})
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE)


class Reference:
    """transformers' own processor and generate."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
        self.processor: Any = read_processor(folder, "smolvlm")
        self.processor.tokenizer.padding_side = "left"

    def generate(self, files: list[list[Path]], texts: list[str], max_new_tokens: int) -> list[str]:
        pictures = [[ImageOps.exif_transpose(Image.open(file)).convert("RGB") for file in row] for row in files]
        inputs = self.processor(
            images=pictures, text=texts, return_tensors="pt", padding=True, add_special_tokens=False
        ).to(dtype=self.model.dtype)
        with torch.inference_mode():
            found = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        rows = found[:, inputs["input_ids"].shape[1] :]
        return [
            " ".join(text.split()) for text in self.processor.tokenizer.batch_decode(rows, skip_special_tokens=True)
        ]


class Timed(NamedTuple):
    """What a side writes, and the seconds of its fastest round by the clock and of the processor."""

    texts: list[str]
    seconds: float
    processor: float


def timed(work: Callable[[], list[str]], rounds: int) -> Timed:
    seconds, processor = [], []
    for _ in range(rounds):
        began, began_processor = time.perf_counter(), time.process_time()
        texts = work()
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - began_processor)
    return Timed(texts, min(seconds), min(processor))


def show(what: str, found: Timed, baseline: Timed) -> None:
    same = sum(one == other for one, other in zip(found.texts, baseline.texts, strict=True))
    print(
        f"{what:22} {len(found.texts) / found.seconds:.3f} captions/s, ratio {baseline.seconds / found.seconds:.2f};  "
        f"processor {found.processor:6.1f} s, ratio {baseline.processor / found.processor:5.2f};  "
        f"{same} of {len(found.texts)} texts equal",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest-edge", type=int, default=2048, help="of the processor; 2048 as published")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--max-new-tokens", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precisions", nargs="+", default=["exact", "fast"])
    parser.add_argument("--folder", type=Path, help="keep the model and its compiled form here, for further runs")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores; pictures resized to {given.longest_edge}; {given.max_new_tokens} new tokens", flush=True)
    with TemporaryDirectory() as temporary, ExitStack() as stack:
        scratch = given.folder or Path(temporary)
        stack.enter_context(patch.dict(os.environ, BEHOLDER_CACHE=str(scratch / "cache")))
        folder = scratch / "model"
        if not folder.is_dir():
            make(folder, given.longest_edge)
        sides = {"float32": Reference(folder, torch.float32), "bfloat16": Reference(folder, torch.bfloat16)}
        models = {each: VisionLanguageModel.compile(folder, precision=each) for each in given.precisions}
        backend = next(iter(models.values())).backend
        if not isinstance(backend, ImageTextToTextModel):
            raise TypeError("a SmolVLM is prompted by its chat template")
        prompt = backend.caption_prompt(CaptionOptions())
        options: dict[str, Any] = {"num_beams": 1, "no_repeat_ngram_size": 0, "max_new_tokens": given.max_new_tokens}
        for model in models.values():  # kernels are generated on first use
            model.caption(PHOTOGRAPHS[0], **options | {"max_new_tokens": 2})
        fifth_turn(sides["float32"], next(iter(models.values())), given.max_new_tokens)
        for batch in given.batches:
            files = PHOTOGRAPHS[:batch]
            print(f"\nbatch {batch}")
            baseline = timed(partial(sides["float32"].generate, *asked(files, prompt, given)), given.rounds)
            show("transformers, float32", baseline, baseline)
            rounded = timed(partial(sides["bfloat16"].generate, *asked(files, prompt, given)), given.rounds)
            show("transformers, bfloat16", rounded, baseline)
            for precision, model in models.items():
                ours = timed(partial(model.caption, files, batch_size=len(files), **options), given.rounds)
                show(f"beholder, {precision}", ours, baseline)


def asked(files: list[Path], prompt: str, given: argparse.Namespace) -> tuple[list[list[Path]], list[str], int]:
    return [[file] for file in files], [prompt] * len(files), given.max_new_tokens


def fifth_turn(reference: Reference, model: VisionLanguageModel, max_new_tokens: int) -> None:
    """Time the first word of the fifth answer."""
    chat = model.chat(PHOTOGRAPHS[0], max_new_tokens=max_new_tokens)
    messages: list[dict[str, Any]] = []
    for number, question in enumerate(QUESTIONS):
        began = time.perf_counter()
        pieces = chat.stream(question)
        word = next(pieces)
        fast = time.perf_counter() - began
        for _ in pieces:
            pass
        shown = [] if number else [{"type": "image"}]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        if number + 1 < len(QUESTIONS):
            messages.append({"role": "assistant", "content": [{"type": "text", "text": chat.turns[-1].answer}]})
    began = time.perf_counter()
    text = reference.processor.tokenizer.apply_chat_template(
        messages, chat_template=TEMPLATE, add_generation_prompt=True, tokenize=False
    )
    (expected,) = reference.generate([[PHOTOGRAPHS[0]]], [text], 1)
    slow = time.perf_counter() - began
    print(
        f"\nfirst word of a fifth turn: transformers {slow:.2f} s, beholder {fast:.3f} s, ratio {slow / fast:.1f}, "
        f"{'the same word' if word.strip() == expected else 'another word'}"
    )


if __name__ == "__main__":
    main()
