"""Train a language model with easy-VQA's small vocabulary from scratch: it answers questions about a described drawing.

    python recipes/easy_vqa/train_language_model.py runs/easy-vqa --out runs/easy-vqa/words

It is trained on text such as "a teal circle. is there a red shape? no", without pictures: the bridge learns to replace
the description by soft prompts. It is a causal model of transformers and can be loaded like any other.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from beholder.text.json_lines import read_json_lines
from beholder.training.optimization import adamw, cosine_schedule, set_learning_rate

END, UNKNOWN = "<end>", "<unknown>"
IGNORED = -100
WIDTH, LAYERS, HEADS = 96, 3, 3
STEPS, BATCH, RATE = 1500, 64, 2e-3


def read(folder: Path) -> list[tuple[str, str]]:
    """Return prompt and answer of every question about a captioned drawing, and of every caption."""
    captions: dict[str, str] = {}

    def pair(row: dict[str, Any]) -> tuple[str, str] | None:
        if "captions" in row:
            caption = captions[row["image"]] = row["captions"][0]
            return f"{caption}. it shows", caption
        caption = captions.get(row["image"])
        return None if caption is None else (f"{caption}. {row['question']}", row["answer"])

    form = "image and captions, or image, question and answer"
    return [row for row in read_json_lines(folder / "pairs.jsonl", pair, form) if row is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output folder of prepare_data.py")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--steps", type=int, default=STEPS, help="number of training steps")
    options = parser.parse_args()
    pairs = read(options.data)
    random.Random(0).shuffle(pairs)
    validation_size = min(1000, len(pairs) // 10)
    validation, pairs = pairs[:validation_size], pairs[validation_size:]

    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[.?]"), "removed", invert=True)
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # no space before punctuation
    trainer = trainers.WordLevelTrainer(special_tokens=[END, UNKNOWN])
    tokenizer.train_from_iterator((" ".join(pair) for pair in pairs), trainer)
    end = tokenizer.token_to_id(END)

    def batch(chosen: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
        """Return ids, mask and labels, padded on the right; only the answers are labels."""
        rows = [(tokenizer.encode(prompt).ids, [*tokenizer.encode(answer).ids, end]) for prompt, answer in chosen]
        longest = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.full((len(rows), longest), end)
        targets = torch.full((len(rows), longest), IGNORED)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, (prompt, answer) in enumerate(rows):
            length = len(prompt) + len(answer)
            ids[number, :length] = torch.tensor(prompt + answer)
            targets[number, len(prompt) : length] = torch.tensor(answer)
            mask[number, :length] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": targets}

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=512,
        initializer_range=WIDTH**-0.5,  # the default is meant for much wider models and slows down training here
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = LlamaForCausalLM(config)
    optimizer = adamw(model.named_parameters(), RATE, weight_decay=0.01)
    generator = random.Random(1)
    for step in range(options.steps):
        set_learning_rate(optimizer, RATE * cosine_schedule(step / options.steps, 0.05))
        loss = model(**batch(generator.sample(pairs, min(BATCH, len(pairs))))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {options.steps}: loss {float(loss.detach()):.4f}", flush=True)

    model.eval()
    with torch.inference_mode():
        validation_batch = batch(validation)
        targets = validation_batch.pop("labels")[:, 1:]
        predicted = model(**validation_batch).logits[:, :-1].argmax(-1)
    accuracy = ((predicted == targets) | (targets == IGNORED)).all(dim=1).float().mean()
    model.save_pretrained(options.out)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token=UNKNOWN).save_pretrained(options.out)
    size = tokenizer.get_vocab_size()
    print(f"{options.out}: {size} words, {model.num_parameters():,} weights, {float(accuracy):.3f} right")


if __name__ == "__main__":
    main()
