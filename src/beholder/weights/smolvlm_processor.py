"""SmolVLM's processor: pictures to tiles, conversations to prompts, prompts to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import ModelError
from beholder.pictures.tiles import Tiling
from beholder.weights.huggingface import read_json
from beholder.weights.preprocessing import INTERPOLATIONS, PREPROCESSOR_CONFIG
from beholder.weights.quiet_transformers import quiet_transformers

if TYPE_CHECKING:
    import tokenizers

PROCESSOR_CONFIG = "processor_config.json"
TOKENIZER = "tokenizer.json"
NO_TEMPLATE = (
    "this smolvlm has no chat template (chat_template.jinja), so it can't be asked anything; take the "
    "instruction-tuned checkpoint of the family, or copy its chat template into the folder"
)
# Defaults of transformers 5.24.
IMAGE_DEFAULTS = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_image_splitting": True,
    "size": {"longest_edge": 4 * 364},
    "max_image_size": {"longest_edge": 364},
    "resample": 1,
    "rescale_factor": 1 / 255,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}
IMAGE_SEQ_LEN = 169
IMAGE_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
}


@dataclass(frozen=True)
class SmolVLMProcessor:
    """What makes pictures and texts ready for a SmolVLM.

    Attributes:
        tokenizer: reads control tokens in a text as such (`beholder.tasks` breaks those that a user spells).
        tiling: how pictures are cut.
        chat_template: of the checkpoint, in Jinja.
        special_tokens: those that the template may name, such as ``bos_token``.
        control_tokens: all tokens that a user's text must not spell.
        image_token: stands for one soft prompt.
        fake_image_token: stands before each tile, and at the end.
        global_image_token: marks the whole picture.
        image_seq_len: soft prompts of a tile.
    """

    tokenizer: tokenizers.Tokenizer
    tiling: Tiling
    chat_template: str
    special_tokens: dict[str, str]
    control_tokens: tuple[str, ...]
    image_token: str
    fake_image_token: str
    global_image_token: str
    image_seq_len: int

    @property
    def image_token_id(self) -> int:
        """The id of ``image_token``."""
        found: int | None = self.tokenizer.token_to_id(self.image_token)
        if found is None:
            raise ModelError(f"the tokenizer has no token {self.image_token}, which stands for a picture")
        return found

    @quiet_transformers()
    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """Return a conversation as the chat template writes it, up to the answer; raises what the template raises."""
        from transformers.utils.chat_template_utils import render_jinja_template

        named: dict[str, Any] = dict(self.special_tokens)
        rendered: Any = render_jinja_template(
            conversations=[list(messages)],
            chat_template=self.chat_template,
            add_generation_prompt=True,
            enable_thinking=False,
            **named,
        )
        return str(rendered[0][0])  # the second part says which tokens are the assistant's

    def encode(self, prompt: str, grids: Sequence[tuple[int, int]]) -> list[int]:
        """Return the token ids of a rendered prompt.

        Args:
            prompt: has one ``image_token`` for each picture.
            grids: rows and columns of each picture's tiles.

        Raises:
            ModelError: the prompt has more or fewer places for pictures.
        """
        texts = prompt.split(self.image_token)
        if len(texts) != len(grids) + 1:
            raise ModelError(f"the chat template has {len(texts) - 1} places for {len(grids)} pictures")
        spelled = [text + self.spell(*grid) for text, grid in zip(texts, grids, strict=False)]
        begins = prompt.startswith(self.special_tokens.get("bos_token") or "\0")
        return self.tokenizer.encode("".join([*spelled, texts[-1]]), add_special_tokens=not begins).ids

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of a part of a prompt that holds no picture."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def spell(self, rows: int, columns: int) -> str:
        """Return the tokens that stand for a picture: its tiles row by row, then the whole picture."""
        places = self.image_token * self.image_seq_len
        whole = f"{self.fake_image_token}{self.global_image_token}{places}{self.fake_image_token}"
        if not rows:
            return whole
        lines = [
            "".join(f"{self.fake_image_token}<row_{row}_col_{column}>{places}" for column in range(1, columns + 1))
            for row in range(1, rows + 1)
        ]
        return "\n".join([*lines, "", whole])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens, without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer into a folder, from which `restore` reads it."""
        self.tokenizer.save(str(folder / TOKENIZER))

    def settings(self) -> dict[str, Any]:
        """Return everything but the tokenizer as JSON values, for `restore`."""
        names = [field.name for field in fields(self) if field.name not in ("tokenizer", "tiling")]
        return {"tiling": asdict(self.tiling), **{name: getattr(self, name) for name in names}}

    @classmethod
    def restore(cls, folder: Path, values: dict[str, Any]) -> SmolVLMProcessor:
        """Return the processor of a folder with its tokenizer, and of the values of `settings`."""
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        tiling, control_tokens = Tiling(**values["tiling"]), tuple(values["control_tokens"])
        return cls(**{**values, "tokenizer": tokenizer, "tiling": tiling, "control_tokens": control_tokens})


@quiet_transformers()
def read_processor(folder: Path) -> SmolVLMProcessor:
    """Read the processor of a checkpoint.

    Raises:
        ModelError: a file is missing or broken, or there is no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be read ({error})") from error
    backend.no_padding()
    backend.no_truncation()
    path = folder / PROCESSOR_CONFIG
    config = read_json(path) if path.is_file() else {}
    tokens = {name: str(getattr(tokenizer, name, default)) for name, default in IMAGE_TOKENS.items()}
    for token in tokens.values():
        if backend.token_to_id(token) is None:
            raise ModelError(f"{folder}: the tokenizer has no token {token}, which stands for a picture")
    added = {str(token) for token in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), *tokens.values())}
    return SmolVLMProcessor(
        backend,
        read_tiling(folder, config),
        _chat_template(folder, config, tokenizer),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        tuple(sorted(added | {"<video>"}, key=len, reverse=True)),
        image_seq_len=int(config.get("image_seq_len", IMAGE_SEQ_LEN)),
        **tokens,
    )


def read_tiling(folder: Path, processor: dict[str, Any]) -> Tiling:
    """Return how a checkpoint cuts pictures.

    Args:
        folder: of the checkpoint.
        processor: its ``processor_config.json``.

    Raises:
        ModelError: ``preprocessor_config.json`` is missing, or describes something that is not covered.
    """
    path = folder / PREPROCESSOR_CONFIG
    config = {**IMAGE_DEFAULTS, **(processor.get("image_processor") or read_json(path))}
    size, tile = config["size"], config["max_image_size"]
    if not isinstance(size, dict) or (config["do_resize"] and set(size) != {"longest_edge"}):
        raise ModelError(f"{path}: pictures are resized to {size}; only a longest_edge is known")
    if config["resample"] not in range(len(INTERPOLATIONS)):
        raise ModelError(f"{path}: resample is {config['resample']}, which is not one of Pillow's filters")
    scale = 255 * config["rescale_factor"] if config["do_rescale"] else 255.0
    mean = config["image_mean"] if config["do_normalize"] else (0.0, 0.0, 0.0)
    std = config["image_std"] if config["do_normalize"] else (1.0, 1.0, 1.0)
    return Tiling(
        tile["longest_edge"],
        size["longest_edge"] if config["do_resize"] else None,
        bool(config["do_image_splitting"]),
        INTERPOLATIONS[config["resample"]],
        _scaled(mean, scale),
        _scaled(std, scale),
    )


def _scaled(values: Sequence[float], scale: float) -> tuple[float, float, float]:
    first, second, third = (value / scale for value in values)
    return first, second, third


def _chat_template(folder: Path, processor: dict[str, Any], tokenizer: Any) -> str:
    path = folder / "chat_template.json"  # of older checkpoints
    older = read_json(path).get("chat_template") if path.is_file() else None
    found = older or processor.get("chat_template") or tokenizer.chat_template
    if isinstance(found, dict):
        found = found.get("default")
    if not isinstance(found, str) or not found.strip():
        raise ModelError(NO_TEMPLATE)
    return found
