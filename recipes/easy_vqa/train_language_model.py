"""A language model of easy-VQA's few words, from scratch: it is told what a drawing shows and answers the questions.

    python recipes/easy_vqa/train_language_model.py runs/easy-vqa --out runs/easy-vqa/words

It reads "a teal circle. is there a red shape? no" and never sees a picture: that is the bridge's part, which has to say
to it in its own way what the description says here. A causal model of transformers, so that it opens like any other.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from beholder.training.optimization import cosine_schedule

END, UNKNOWN = "<end>", "<unknown>"
IGNORED = -100
WIDTH, LAYERS, HEADS = 96, 3, 3
STEPS, BATCH, RATE = 1500, 64, 2e-3


def read(folder: Path) -> list[tuple[str, str]]:
    """What is read and what is answered, for every question about a drawing with a caption."""
    shown, found = {}, []
    for line in (folder / "pairs.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if "captions" in row:
            shown[row["image"]] = row["captions"][0]
            found.append((f"{row['captions'][0]}. it shows", row["captions"][0]))
        elif row["image"] in shown:
            found.append((f"{shown[row['image']]}. {row['question']}", row["answer"]))
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path, help="what prepare_data.py wrote")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--steps", type=int, default=STEPS)
    given = options.parse_args()
    pairs = read(given.data)
    random.Random(0).shuffle(pairs)
    most = min(1000, len(pairs) // 10)
    kept_back, pairs = pairs[:most], pairs[most:]

    words = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[.?]"), "removed", invert=True)
    words.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # a space between words, none before a mark
    trainer = trainers.WordLevelTrainer(special_tokens=[END, UNKNOWN])
    words.train_from_iterator((" ".join(pair) for pair in pairs), trainer)
    end = words.token_to_id(END)

    def batch(chosen: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
        """Ids, the mask and the targets, which are the answers alone; padding comes last."""
        rows = [(words.encode(prompt).ids, [*words.encode(answer).ids, end]) for prompt, answer in chosen]
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
        vocab_size=words.get_vocab_size(),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=512,
        initializer_range=WIDTH**-0.5,  # the default is for models of much more width, and slow here
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    draw = random.Random(1)
    for step in range(given.steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine_schedule(step / given.steps, 0.05)
        loss = model(**batch(draw.sample(pairs, min(BATCH, len(pairs))))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {given.steps}: loss {float(loss.detach()):.4f}", flush=True)

    model.eval()
    with torch.inference_mode():
        control = batch(kept_back)
        targets = control.pop("labels")[:, 1:]
        guessed = model(**control).logits[:, :-1].argmax(-1)
    right = ((guessed == targets) | (targets == IGNORED)).all(dim=1).float().mean()
    model.save_pretrained(given.out)
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, unk_token=UNKNOWN).save_pretrained(given.out)
    print(f"{given.out}: {words.get_vocab_size()} words, {model.num_parameters():,} weights, {float(right):.3f} right")


if __name__ == "__main__":
    main()
