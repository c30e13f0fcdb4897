"""The network of another project's dual encoder, without its tokenizer, which the small checkpoints lack."""

import json
from pathlib import Path

from beholder.models.dual_encoder import TwoTowers
from beholder.pictures.preprocess import AnyPreprocessing
from beholder.weights import align, altclip, chinese_clip, clip, metaclip2, open_clip, siglip, siglip2_naflex
from beholder.weights.transformers_layout import read_network

FAMILIES = (align, altclip, chinese_clip, clip, metaclip2, siglip, siglip2_naflex)
LAYOUTS = {each.LAYOUT.model_type: each.LAYOUT for each in FAMILIES}


def load_foreign_network(folder: Path, allow_pickle: bool = True) -> tuple[TwoTowers, AnyPreprocessing]:
    """Load the network in a folder of open_clip or transformers."""
    if (folder / open_clip.CONFIG).exists():
        foreign = open_clip.read_network(folder, allow_pickle)
    else:
        layout = LAYOUTS[json.loads((folder / "config.json").read_text())["model_type"]]
        foreign = read_network(layout, folder, allow_pickle)
    return foreign.network, foreign.preprocessing
