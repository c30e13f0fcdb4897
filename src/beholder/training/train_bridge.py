"""A bridge trained on one's own pictures, from top to bottom: texts, frozen sides, features, two stages, result.

    OUT/stage-1.jsonl, stage-2.jsonl   losses every few steps, and the loss on pictures kept back
    OUT/stage-1.pt, stage-2.pt         from which the same call goes on
    OUT/broken.jsonl                   pictures that could not be used
    OUT/features/                      what the frozen tower says of each picture, computed once
    OUT/model/                         the result, for `VisionLanguageModel.from_pretrained`

Shapes: B pictures, V views of each, N tokens of a picture, Di their width.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from tokenizers import Tokenizer as Words
from torch import Tensor, nn

from beholder.errors import InvalidSetting, PictureError
from beholder.models.bert import Bert
from beholder.models.bridge import Bridge, image_tokens
from beholder.models.efficientnet_lite import EfficientNetLite
from beholder.models.language_model import LanguageModel
from beholder.pictures.read import read_picture
from beholder.pictures.transform import Preprocessing, to_pixels
from beholder.runtime.device import select_device
from beholder.runtime.pipeline import map_ahead
from beholder.text.prompts import Prompts
from beholder.text.tokenizer import Tokenizer
from beholder.text.tokenizer_files import tokenizer_from_folder
from beholder.training.augmentation import views_of
from beholder.training.bridge_config import BridgeConfig, BridgeData
from beholder.training.bridge_stages import Pair, StageConfig, run_stage, sample_images, stage_1_losses, stage_2_loss
from beholder.training.examples import key_of, texts_of
from beholder.training.interruption import Interruption
from beholder.training.metrics_logger import MetricsLogger, Row
from beholder.training.skipped_examples import SkippedExamples
from beholder.weights import bert, huggingface, mini, mini_bridge
from beholder.weights.load import load_frozen_language_model, load_image_tower
from beholder.weights.loaded import LoadedVisionLanguage
from beholder.weights.native_vision_language import save_vision_language
from beholder.weights.sources import find_model
from beholder.weights.table import build_empty, load_foreign
from beholder.weights.tensors import read_tensors

REPORT_EVERY = 10
ASIDE = ".part.npy"


@dataclass(frozen=True)
class BridgeExample:
    """A picture, and what is written about it: captions, and questions with their answers."""

    path: Path
    captions: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()


def read_bridge_examples(file: Path) -> list[BridgeExample]:
    """JSON lines with ``image`` (relative to the file), and ``captions``, or ``question`` and ``answer``.

    Lines of the same picture are taken together.

    Raises:
        InvalidSetting: the file is missing or empty, or a line is of another form; the message has its number.
    """
    if not file.is_file():
        raise InvalidSetting(f"{file}: no such file; it should hold JSON lines with image, and captions or a question")
    found: dict[Path, BridgeExample] = {}
    for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            path = file.parent / row["image"]
            before = found.get(path, BridgeExample(path))
            if "question" in row:
                question, answer = row["question"], row["answer"]
                if not (isinstance(question, str) and isinstance(answer, str) and question.strip() and answer.strip()):
                    raise TypeError("no question or no answer")
                found[path] = replace(before, questions=(*before.questions, (question, answer)))
            else:
                found[path] = replace(before, captions=(*before.captions, *texts_of(row)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidSetting(
                f'{file}, line {number}: should be like {{"image": "a.jpg", "captions": ["a cat"]}} or {{"image": '
                '"a.jpg", "question": "What is it?", "answer": "a cat"}'
            ) from error
    if not found:
        raise InvalidSetting(f"{file}: holds no pictures with texts")
    return list(found.values())


def train_bridge(
    config: BridgeConfig,
    out: Path,
    report: Callable[[Row], None] = lambda _: None,
    *,
    device: str | None = None,
    tensorboard: bool = False,
) -> Path:
    """Trains a bridge in one process; interrupted, the same call goes on where it stopped.

    Args:
        config: what and how; it must name data.
        out: the folder of all that comes of it.
        report: called with each line of the log.
        device: where; the fastest there is by default.
        tensorboard: also writes for TensorBoard, into ``out/tensorboard``.

    Returns:
        The folder of the model, for `VisionLanguageModel.from_pretrained`.

    Raises:
        InvalidSetting: the config can't be, or its sizes are not those of what stands on the bridge's sides.
        Interrupted: SIGTERM or Ctrl-C came; what was learned is in a checkpoint.
    """
    # Texts
    data, written, judged = read_bridge_data(config)
    place = select_device(device)
    out.mkdir(parents=True, exist_ok=True)
    _keep_config(config, out)

    # The frozen sides, and the bridge between them
    tower, preprocessing = load_vision_tower(config.vision)
    language, language_tokenizer = load_language_side(config)
    tokenizer, begin_with = load_text_side(config)
    check_sizes(config, tower, preprocessing, language, tokenizer, begin_with)
    torch.manual_seed(config.stage_1.seed)
    bridge = Bridge(config.bridge)
    if config.initialize_from_text and begin_with is not None:
        mini_bridge.initialize_from_bert(bridge, begin_with)
    bridge.to(place)
    language.to(place)

    # Features of every view, computed once
    broken = SkippedExamples(out / "broken.jsonl")
    folder = out / "features"
    every = {each.path: each for each in (*written, *judged)}
    usable = compute_features(tower, preprocessing, list(every), data.views, folder, place, broken, report)
    written = [each for each in written if each.path in usable]
    judged = [each for each in judged if each.path in usable]
    seen = FeatureFiles([usable[each.path] for each in written])
    captioned = [each for each in written if each.captions]
    seen_captioned = FeatureFiles([usable[each.path] for each in captioned])
    if not written or (config.stage_1.steps and len(captioned) < 2):
        raise InvalidSetting(f"{data.train}: too few pictures with texts could be used; {broken.path} names the others")

    prompts = config.prompts or mini_bridge.PROMPTS
    said = [_pairs(each, prompts, language_tokenizer, language, data) for each in written]
    autocast = torch.autocast(place.type, torch.bfloat16, enabled=config.precision == "bfloat16")

    def first(generator: torch.Generator) -> dict[str, Tensor]:
        chosen, image = sample_images(seen_captioned, config.stage_1.batch, generator)
        texts = [_one(captioned[row].captions, generator) for row in chosen]
        tokens = tokenizer(texts)
        ids, mask = torch.from_numpy(tokens.ids).to(place), torch.from_numpy(tokens.mask).to(place)
        with autocast:
            return stage_1_losses(bridge, image.to(place), ids, mask, torch.tensor(chosen, device=place), generator)

    def second(generator: torch.Generator) -> dict[str, Tensor]:
        chosen, image = sample_images(seen, config.stage_2.batch, generator)
        rows = [_some(said[row], data.texts, generator) for row in chosen]
        with autocast:
            return {"language": stage_2_loss(bridge, language, image.to(place), rows, per_text=True)}

    kept_back = [_pairs(each, prompts, language_tokenizer, language, data)[: data.texts] for each in judged]
    whole = FeatureFiles([usable[each.path] for each in judged])

    @torch.no_grad()
    def control() -> dict[str, float]:
        """The loss on pictures kept back, once with their own and once with each other's."""
        bridge.eval()
        lost: dict[str, list[float]] = {"kept_back": [], "exchanged": []}
        for start in range(0, len(judged), config.stage_2.batch):
            places = range(start, min(start + config.stage_2.batch, len(judged)))
            for name, shift in (("kept_back", 0), ("exchanged", 1)):
                image = np.stack([whole[(number + shift) % len(judged)][0] for number in places]).astype(np.float32)
                rows = [kept_back[number] for number in places]
                pixels = torch.from_numpy(image).to(place)
                with autocast:
                    lost[name].append(float(stage_2_loss(bridge, language, pixels, rows, per_text=True)))
        bridge.train()
        return {name: float(np.mean(values)) for name, values in lost.items()}

    # The two stages
    with Interruption() as interruption:
        for number, (settings, losses) in enumerate(((config.stage_1, first), (config.stage_2, second)), start=1):
            if not settings.steps:
                continue
            checkpoint = out / f"stage-{number}.pt"
            done = torch.load(checkpoint, weights_only=True, mmap=True)["step"] if checkpoint.exists() else 0
            board = out / "tensorboard" / f"stage-{number}" if tensorboard else None
            log = MetricsLogger(out / f"stage-{number}.jsonl", done, board)
            look = control if number == 2 and judged else None
            line = _lines(log, report, number, settings, done, look, data.evaluate_every)
            run_stage(bridge, settings, losses, checkpoint, line, lambda: interruption.number)
            log.close()

    # Result
    loaded = LoadedVisionLanguage(
        tower.cpu(),
        preprocessing,
        bridge.cpu(),
        language.cpu(),
        language_tokenizer,
        tokenizer,
        prompts,
        config.name,
        config.licence,
    )
    save_vision_language(loaded, out / "model")
    return out / "model"


def read_bridge_data(config: BridgeConfig) -> tuple[BridgeData, list[BridgeExample], list[BridgeExample]]:
    """The data that a config names: pictures to train on and pictures kept back.

    Raises:
        InvalidSetting: there is none, or too little; or the config lacks what ``beholder train bridge`` needs.
    """
    data = config.data
    if data is None:
        raise InvalidSetting("data: this config names no pictures to train on")
    if not config.bridge.language_width or not config.bridge.embedding:
        raise InvalidSetting("bridge: both stages need an embedding and a language_width above 0")
    written = read_bridge_examples(Path(data.train))
    judged = read_bridge_examples(Path(data.evaluate)) if data.evaluate else []
    captioned = sum(bool(each.captions) for each in written)
    for name, stage, count in (("stage_1", config.stage_1, captioned), ("stage_2", config.stage_2, len(written))):
        if stage.steps and stage.batch > count:
            what = "captioned pictures" if name == "stage_1" else "pictures"
            raise InvalidSetting(f"{name}.batch {stage.batch} is more than the {count} {what} of {data.train}")
    if config.stage_1.steps and config.stage_1.batch < 2:
        raise InvalidSetting("stage_1.batch 1: at least 2, or there is nothing to tell a picture apart from")
    return data, written, judged


def summarize(config: BridgeConfig) -> dict[str, Any]:
    """What would be trained on what: everything that can be wrong is looked at, and nothing is trained.

    Raises:
        InvalidSetting: the config or the data can't be.
    """
    data, written, judged = read_bridge_data(config)
    tower, preprocessing = load_vision_tower(config.vision)
    language, language_tokenizer = load_language_side(config)
    tokenizer, begin_with = load_text_side(config)
    check_sizes(config, tower, preprocessing, language, tokenizer, begin_with)
    bridge = Bridge(config.bridge)
    if begin_with is not None:
        mini_bridge.initialize_from_bert(bridge, begin_with)
    for each in written:
        _pairs(each, config.prompts or mini_bridge.PROMPTS, language_tokenizer, language, data)
    return {
        "pictures": len(written),
        "captions": sum(len(each.captions) for each in written),
        "questions": sum(len(each.questions) for each in written),
        "pictures to evaluate on": len(judged),
        "steps": f"{config.stage_1.steps} and {config.stage_2.steps}",
        "picture tower": sum(weight.numel() for weight in tower.parameters()),
        "bridge": sum(weight.numel() for weight in bridge.parameters()),
        "language model": sum(weight.numel() for weight in language.parameters()),
    }


def load_vision_tower(name: str) -> tuple[nn.Module, Preprocessing]:
    """The frozen picture tower of a model, and how it takes its pictures."""
    if name != "mini":
        return load_image_tower(name)
    tower, preprocessing = mini.image_tower(), mini.PREPROCESSING
    tower.classifier = None
    tower.settings = replace(tower.settings, classes=0)
    return tower.float().requires_grad_(False).eval(), preprocessing


def load_language_side(config: BridgeConfig) -> tuple[LanguageModel, Words]:
    """The frozen language model and its tokenizer."""
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    if config.language == "mini":
        return mini_bridge.language_model(dtype)
    language, language_tokenizer = load_frozen_language_model(config.language)
    language.module.to(dtype)
    return language, language_tokenizer


def load_text_side(config: BridgeConfig) -> tuple[Tokenizer, Bert | None]:
    """The Q-Former's tokenizer, and the network that it begins from."""
    if config.text == "mini":
        return mini_bridge.tokenizer(), mini.text_tower() if config.initialize_from_text else None
    folder = find_model(config.text)
    tokenizer = tokenizer_from_folder(folder, "bert", config.bridge.qformer.max_position_embeddings)
    if not config.initialize_from_text:
        return tokenizer, None
    settings = bert.settings(huggingface.read_json(folder / "config.json"), pooling="first")
    tensors = read_tensors(folder, huggingface.STEMS)
    return tokenizer, load_foreign(build_empty(Bert, settings), tensors, bert.rows(), bert.ignored())


def check_sizes(
    config: BridgeConfig,
    tower: nn.Module,
    preprocessing: Preprocessing,
    language: LanguageModel,
    tokenizer: Tokenizer,
    begin_with: Bert | None,
) -> None:
    """That the bridge fits between its two sides.

    Raises:
        InvalidSetting: it does not; every size that is wrong is named with the right one.
    """
    qformer = config.bridge.qformer
    pixels = torch.zeros(1, 3, preprocessing.height, preprocessing.width)
    with torch.inference_mode():
        width = image_tokens(tower, pixels).shape[-1]
    wanted = [
        ("bridge.qformer.image_width", qformer.image_width, width, "the picture tower's"),
        ("bridge.language_width", config.bridge.language_width, language.width, "the language model's"),
        ("bridge.qformer.vocabulary", qformer.vocabulary, tokenizer.backend.get_vocab_size(), "the text's"),
    ]
    if begin_with is not None:
        known = begin_with.settings
        wanted += [
            (f"bridge.qformer.{size}", getattr(qformer, size), getattr(known, size), "that of what it begins from,")
            for size in ("width", "heads", "mlp_width")
        ]
    wrong = [f"{name} {given} must be {whose} {right}" for name, given, right, whose in wanted if given != right]
    if begin_with is not None:
        known = begin_with.settings
        if qformer.layers > known.layers or qformer.max_position_embeddings >= known.context_length:
            wrong.append(
                f"bridge.qformer.layers {qformer.layers} and max_position_embeddings "
                f"{qformer.max_position_embeddings} must be at most those of what it begins from, "
                f"{known.layers} and {known.context_length - 1}"
            )
    if tokenizer.settings.context_length > qformer.max_position_embeddings:
        wrong.append(
            f"bridge.qformer.max_position_embeddings {qformer.max_position_embeddings} must be "
            f"{tokenizer.settings.context_length} at least"
        )
    room = language.context_length
    data = config.data
    prompts = config.bridge.soft_prompts
    if room and data is not None and prompts + data.texts * (data.longest + 16) > room:
        wrong.append(
            f"data.texts {data.texts} of {data.longest} tokens behind {prompts} soft prompts do not fit into the "
            f"{room} that the language model reads"
        )
    if wrong:
        raise InvalidSetting("; ".join(wrong))


class FeatureFiles(Sequence[np.ndarray]):
    """Features (V, N, Di), half precision, of each picture in a file; only those that are asked for are read."""

    def __init__(self, files: Sequence[Path]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, row: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, row: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        """The features of one picture, or of several."""
        if isinstance(row, slice):
            return FeatureFiles(self.files[row])
        return np.load(self.files[row], mmap_mode="r")


def compute_features(
    tower: nn.Module,
    preprocessing: Preprocessing,
    paths: Sequence[Path],
    views: int,
    folder: Path,
    device: torch.device,
    broken: Callable[[str, str], None],
    report: Callable[[Row], None],
) -> dict[Path, Path]:
    """What the tower says of the views of every picture that can be read, kept in files: picture → file.

    Interrupted, it goes on where it stopped. The views of a picture depend on its path alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"*{ASIDE}"):
        left.unlink()
    files = {path: folder / f"{key_of(str(path)):016x}-{views}.npy" for path in paths}
    missing = [path for path in paths if not files[path].exists()]

    def prepare(path: Path) -> tuple[Path, np.ndarray | None]:
        generator = np.random.default_rng(key_of(str(path)))
        try:
            picture = read_picture(path, reduce_to=2 * preprocessing.shorter_side)
        except PictureError as error:
            broken(error.name, error.reason)
            return path, None
        return path, np.stack([to_pixels(view, preprocessing) for view in views_of(picture, views, generator)])

    fast = deepcopy(tower)
    fast = (fast.folded() if isinstance(fast, EfficientNetLite) else fast).to(device)
    with torch.inference_mode():
        for number, (path, pixels) in enumerate(map_ahead(prepare, missing, ahead=8), start=1):
            if pixels is not None:
                said = image_tokens(fast, torch.from_numpy(pixels).to(device)).cpu().numpy()
                aside = files[path].with_suffix(ASIDE)
                np.save(aside, said.astype(np.float16))
                aside.replace(files[path])
            if number % 100 == 0 or number == len(missing):
                report({"pictures_looked_at": number, "pictures": len(missing)})
    return {path: file for path, file in files.items() if file.exists()}


def _pairs(
    each: BridgeExample, prompts: Prompts, language_tokenizer: Words, language: LanguageModel, data: BridgeData
) -> list[Pair]:
    """Everything that is written about a picture, as tokens of a prompt and of what follows it."""

    def pair(prompt: str, text: str) -> Pair:
        text = " ".join(text.split())
        text = text.lower() if prompts.lowercase else text
        target = language_tokenizer.encode(f" {text}", add_special_tokens=False).ids
        prefix = language_tokenizer.encode(prompt, add_special_tokens=True).ids
        if not prefix:
            raise InvalidSetting("prompts.caption: this language model needs at least a word in front of a caption")
        return prefix, [*target[: data.longest], *language.eos_token_ids[:1]]

    captions = [
        pair(prompts.caption, f"{caption.rstrip(' .')}." if prompts.lowercase else caption) for caption in each.captions
    ]
    return captions + [pair(prompts.format_question(question), answer) for question, answer in each.questions]


def _one(texts: Sequence[str], generator: torch.Generator) -> str:
    return texts[int(torch.randint(len(texts), (1,), generator=generator))]


def _some(pairs: Sequence[Pair], most: int, generator: torch.Generator) -> list[Pair]:
    return [pairs[place] for place in torch.randperm(len(pairs), generator=generator)[:most].tolist()]


def _lines(
    log: MetricsLogger,
    report: Callable[[Row], None],
    stage: int,
    settings: StageConfig,
    done: int,
    control: Callable[[], dict[str, float]] | None,
    look_every: int,
) -> Callable[[int, dict[str, float]], None]:
    """Writes losses every so often and, less often, those on the pictures kept back."""
    began = time.monotonic()

    def line(step: int, losses: dict[str, float]) -> None:
        last = step == settings.steps
        looking = control is not None and (last or step % look_every == 0)
        if not (looking or last or step % REPORT_EVERY == 0):
            return
        left = (time.monotonic() - began) / (step - done) * (settings.steps - step)
        row: Row = {"stage": stage, "step": step, "steps": settings.steps, "loss": sum(losses.values()), **losses}
        row["seconds_left"] = round(left)
        if looking and control is not None:
            row |= control()
        log.write(row)
        report(row)

    return line


def _keep_config(config: BridgeConfig, out: Path) -> None:
    """Refuses a folder in which another training has begun.

    Raises:
        InvalidSetting: it has.
    """
    parts: dict[str, Any] = {name: repr(value) for name, value in vars(config).items() if name != "about"}
    file = out / "config.json"
    if file.exists():
        before: dict[str, Any] = {}
        with suppress(ValueError):
            before = json.loads(file.read_text("utf-8"))
        changed = [name for name in parts if before.get(name) != parts[name]]
        if changed:
            raise InvalidSetting(
                f"{out}: holds a training with another {', '.join(changed)}; name another folder, or remove this one "
                "to begin anew"
            )
    file.write_text(json.dumps(parts, indent=2) + "\n", "utf-8")
