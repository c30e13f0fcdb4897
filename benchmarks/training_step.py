"""Training compared with transformers: the same ViT-B/32 CLIP, initial weights, and pairs in the same order.

    python benchmarks/training_step.py --photographs captions.jsonl

The other side is ``CLIPModel(return_loss=True)`` with torch's ``DataLoader``, whose workers prepare pictures with
CLIP's own processor; the texts are padded to 77 tokens, as in transformers' example of CLIP training, and then also
to the longest of the batch. Ours is what ``beholder train clip`` runs. Both use AdamW with the same parameter groups,
learning rate and gradient clipping. The sides take turns of a few steps each, so that a machine of varying speed is
fair to both.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from beholder.text import clip_bpe
from beholder.text.tokenizer import Tokenizer, TokenizerSettings
from beholder.training.augmentation import Augmentation
from beholder.training.clip_config import TrainingConfig
from beholder.training.clip_model import EncodePairs
from beholder.training.data_loader import ImageTextBatch, load_batches
from beholder.training.distributed import ProcessGroup, clip_grad_norm
from beholder.training.examples import Columns, read_examples
from beholder.training.gradient_cache import DualEncoderOutput, backward
from beholder.training.optimization import parameter_groups
from beholder.training.samplers import ShuffledBatchSampler
from beholder.training.train_clip import pair_loss
from beholder.weights import clip
from beholder.weights.transformers_layout import read_network

RATE, DECAY, CLIP, LONGEST = 1e-5, 0.2, 1.0, 77
VOCABULARY = 4000


class Theirs(torch.utils.data.Dataset):
    """Pictures and texts in the order of our sampler."""

    def __init__(self, drawn: list[tuple[Path, str]], tokenizer: Tokenizer, full: bool):
        self.drawn = drawn
        self.tokenizer = tokenizer
        self.full = full
        self.processor = CLIPImageProcessorPil()

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, str]:
        path, text = self.drawn[row]
        pixels = self.processor(Image.open(path).convert("RGB"), return_tensors="np")["pixel_values"][0]
        return torch.from_numpy(np.asarray(pixels)), text

    def collate(self, rows: list[tuple[torch.Tensor, str]]) -> dict[str, torch.Tensor]:
        tokens = self.tokenizer([text for _, text in rows])
        ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
        if self.full:
            missing = LONGEST - ids.shape[1]
            ids = torch.nn.functional.pad(ids, (0, missing), value=self.tokenizer.settings.pad_id)
            mask = torch.nn.functional.pad(mask, (0, missing))
        pixels = torch.stack([pixels for pixels, _ in rows])
        return {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask.long()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photographs", type=Path, required=True, help="JSON lines with image and captions")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--turn", type=int, default=5, help="steps per turn")
    options.add_argument("--workers", type=int, default=2, help="workers of the DataLoader")
    given = options.parse_args()

    examples = read_examples(given.photographs, Columns(), ("{}",))
    backend = clip_bpe.train_bpe((text for each in examples for text in each.texts), VOCABULARY)
    marks = backend.get_vocab()
    end = marks[clip_bpe.EOS_TOKEN]
    tokenizer = Tokenizer(backend, TokenizerSettings(LONGEST, end, marks[clip_bpe.BOS_TOKEN]))
    order = ShuffledBatchSampler(examples, given.batch, seed=0)
    drawn = []
    for draws, _ in islice(order.batches(), given.steps):
        for draw in draws:  # the text that our sampler draws
            texts = draw.example.texts
            drawn.append((draw.example.picture, texts[int(np.random.default_rng(draw.seed).integers(len(texts)))]))

    torch.manual_seed(0)
    vision = {"patch_size": 32}  # the defaults of CLIPConfig are those of ViT-B/32
    text = {"vocab_size": backend.get_vocab_size(), "bos_token_id": marks[clip_bpe.BOS_TOKEN], "eos_token_id": end}
    first = CLIPModel(CLIPConfig(vision_config=vision, text_config=text))
    with TemporaryDirectory() as name:
        first.save_pretrained(name)
        CLIPImageProcessorPil().save_pretrained(name)
        sides: dict[str, Iterator[float]] = {"beholder": ours(Path(name), order, tokenizer)}
        for full in (True, False):
            model = CLIPModel.from_pretrained(name)
            which = "transformers, padded to 77" if full else "transformers, padded to the longest"
            sides[which] = theirs(model, Theirs(drawn, tokenizer, full), given.batch, given.workers)
        losses: dict[str, list[float]] = {side: [] for side in sides}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(0, given.steps, given.turn):
            for side, steps in sides.items():
                began = time.perf_counter()
                losses[side] += list(islice(steps, given.turn))
                seconds[side].append(time.perf_counter() - began)
    for side in sides:
        kept = seconds[side][1:] or seconds[side]  # the first turn is a warm-up
        per_second = given.turn * given.batch / np.array(kept)
        ratio = np.array(kept) / np.array(seconds["beholder"][1:] or seconds["beholder"])
        apart = max(abs(a - b) for a, b in zip(losses[side], losses["beholder"], strict=True))
        row = {"side": side, "pairs a second": round(float(np.median(per_second)), 2)}
        row |= {"ours is faster by": f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"}
        row |= {"loss, first and last": [round(losses[side][0], 4), round(losses[side][-1], 4)]}
        print(json.dumps({**row, "largest difference of the losses": round(apart, 5)}), flush=True)


def optimizer(model: torch.nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameter_groups(model.named_parameters(), DECAY), lr=RATE, betas=(0.9, 0.98), eps=1e-6)


def ours(folder: Path, order: ShuffledBatchSampler, tokenizer: Tokenizer) -> Iterator[float]:
    foreign = read_network(clip.LAYOUT, folder)
    network, preprocessing = foreign.network, foreign.preprocessing
    here = ProcessGroup(torch.device("cpu"))
    train = TrainingConfig(steps=1, batch=order.batch)
    model = EncodePairs(network, preprocessing, train, here.device)
    steps = optimizer(network)
    for batch, _ in load_batches(order, None, preprocessing, Augmentation(), tokenizer, print):
        steps.zero_grad()

        def loss(output: DualEncoderOutput, batch: ImageTextBatch = batch) -> torch.Tensor:
            return pair_loss(output, batch, train, here)

        lost = backward(
            lambda part: DualEncoderOutput(*model(part.pixels, part.ids, part.mask)), [batch], loss, nullcontext
        )
        clip_grad_norm(list(network.parameters()), CLIP)
        steps.step()
        with torch.no_grad():
            network.logit_scale.clamp_(0, math.log(100))
        yield float(lost)


def theirs(model: CLIPModel, data: Theirs, batch: int, workers: int) -> Iterator[float]:
    loader = torch.utils.data.DataLoader(data, batch, num_workers=workers, collate_fn=data.collate)
    steps = optimizer(model)
    model.train()
    for each in loader:
        steps.zero_grad()
        loss = model(**each, return_loss=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        steps.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        yield float(loss.detach())


if __name__ == "__main__":
    main()
