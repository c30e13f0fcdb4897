"""Compute a text tower's vectors of every sentence once, for the training of the heads of `mini`.

    python recipes/mini/cache_sentence_vectors.py --collection FOLDER --tower minilm
    python recipes/mini/cache_sentence_vectors.py --collection FOLDER --tower e5

`minilm` reads the English sentences, `e5` the Chinese ones and some of the English. An interrupted run resumes. On two
cores they take about 2 and 6 minutes, in bfloat16 on a processor that has it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from beholder.runtime.pipeline import batches
from beholder.weights import mini
from collection import WORK, Collection, SentenceVectors

BLOCK = 2048  # sentences between two writes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--tower", choices=("minilm", "e5"), required=True)
    parser.add_argument("--work", type=Path, default=WORK)
    options = parser.parse_args()
    collection = Collection(options.collection, options.work)
    file = options.work / f"sentences-{options.tower}.npz"
    kept = SentenceVectors.load(file)
    if options.tower == "minilm":
        sentences, network, tokenizer = collection.english_sentences(), mini.text_tower(), mini.tokenizer()
    else:
        packed = mini.multilingual_text_tower()
        sentences, network, tokenizer = collection.multilingual_sentences(), packed.network(), packed.tokenizer()
    missing = [sentence for sentence in sentences if sentence not in kept.index]
    network.eval().to(torch.bfloat16)
    with torch.inference_mode():
        for block in batches(missing, BLOCK):
            ordered = sorted(block, key=len)
            rows = []
            for batch in batches(ordered, 128):
                tokens = tokenizer(batch)
                pooled = network(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)).pooled
                rows.append(pooled.float().numpy().astype(np.float16))
            kept = SentenceVectors([*kept.sentences, *ordered], np.concatenate([kept.rows, *rows]))
            kept.save(file)
            print(f"{len(kept.sentences)} of {len(sentences)}", flush=True)


if __name__ == "__main__":
    main()
