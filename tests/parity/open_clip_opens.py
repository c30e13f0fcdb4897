"""Load folders with open_clip and write the embeddings it computes: ``open_clip_opens.py FOLDER...``.

Run in a separate process, for the same reason as ``open_clip_reference.py``.
"""

import json
import sys
from pathlib import Path

import torch
from open_clip_reference import import_open_clip
from safetensors.torch import load_file, save_file

if __name__ == "__main__":
    open_clip = import_open_clip()
    for folder in map(Path, sys.argv[1:]):
        model = open_clip.create_model(f"local-dir:{folder / 'exported'}").eval()
        inputs = load_file(folder / "inputs.safetensors")
        with torch.no_grad():
            outputs = {
                "images": model.encode_image(inputs["pixels"], normalize=True),
                "texts": model.encode_text(inputs["ids"], normalize=True),
                "logits": model.get_logits(inputs["pixels"], inputs["ids"])[0],
            }
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder / 'exported'}")
        outputs["tokens"] = tokenizer(json.loads((folder / "sentences.json").read_text()))
        save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, folder / "outputs.safetensors")
        (folder / "preprocess.json").write_text(json.dumps(model.visual.preprocess_cfg))
