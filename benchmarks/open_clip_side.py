"""open_clip as a side of `bench.py`: reads one request per line and answers with the seconds it took.

Runs in a process of its own. open_clip imports torchvision for its training transforms; empty stand-ins replace it,
because the presence of torchvision changes the behavior of other libraries. The networks are open_clip's own.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "parity"))
from open_clip_reference import import_open_clip


def main(folder: str, clock: str) -> None:
    now = time.process_time if clock == "processor" else time.perf_counter
    library = import_open_clip()
    model = library.create_model(f"local-dir:{folder}").eval()
    tokenizer = library.get_tokenizer(f"local-dir:{folder}")
    for line in sys.stdin:
        question = json.loads(line)
        batch = np.load(question["pixels"]) if "pixels" in question else None
        began = now()
        with torch.inference_mode():
            if batch is None:
                found = model.encode_text(tokenizer(question["texts"]), normalize=True)
            else:
                found = model.encode_image(torch.from_numpy(batch), normalize=True)
        seconds = now() - began
        np.save(question["answer"], found.numpy())
        print(seconds, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
