"""Recommended models by short names: where they are, what they are for, and what was published about them.

Every figure names its source. Sizes are those of the weights in single precision, four bytes a parameter.
"""

from dataclasses import dataclass

DATE = "2026-11"  # when the table was last checked


@dataclass(frozen=True)
class KnownModel:
    """A recommended model.

    Attributes:
        names: short names, the first of which is the usual one.
        repository: hub id.
        kind: what it is.
        purpose: what to choose it for.
        budget: the smallest machine on which it is a pleasure.
        parameters: in millions.
        licence: of the weights, as their card or their publisher states it.
        figure: a published result, or the size of the training data where there is none.
        source: where the figure is from.
    """

    names: tuple[str, ...]
    repository: str
    kind: str
    purpose: str
    budget: str
    parameters: int
    licence: str
    figure: str
    source: str

    @property
    def gigabytes(self) -> float:
        """Size of the weights in single precision."""
        return 4 * self.parameters / 1000


IMAGENET = "ImageNet zero-shot"
CLIP_PAPER, SIGLIP2_PAPER = "arXiv:2103.00020, table 11", "arXiv:2502.14786, table 1"
MODEL_CARD = "its model card"
KNOWN_MODELS = (
    KnownModel(
        ("clip", "clip-vit-base-patch32"),
        "openai/clip-vit-base-patch32",
        "dual encoder",
        "search and labels in English",
        "laptop",
        151,
        "MIT (of openai/CLIP)",
        f"{IMAGENET} 63.2 %",
        CLIP_PAPER,
    ),
    KnownModel(
        ("clip-large", "clip-vit-large-patch14"),
        "openai/clip-vit-large-patch14",
        "dual encoder",
        "search and labels in English",
        "8 GB GPU",
        428,
        "MIT (of openai/CLIP)",
        f"{IMAGENET} 75.3 %",
        CLIP_PAPER,
    ),
    KnownModel(
        ("clip-ViT-B-32",),
        "sentence-transformers/clip-ViT-B-32",
        "dual encoder",
        "vectors like those of sentence-transformers",
        "laptop",
        151,
        "not stated",
        f"{IMAGENET} 63.3 %",
        MODEL_CARD,
    ),
    KnownModel(
        ("clip-ViT-B-16",),
        "sentence-transformers/clip-ViT-B-16",
        "dual encoder",
        "vectors like those of sentence-transformers",
        "laptop",
        150,
        "not stated",
        f"{IMAGENET} 68.1 %",
        MODEL_CARD,
    ),
    KnownModel(
        ("clip-ViT-L-14",),
        "sentence-transformers/clip-ViT-L-14",
        "dual encoder",
        "vectors like those of sentence-transformers",
        "8 GB GPU",
        428,
        "not stated",
        f"{IMAGENET} 75.4 %",
        MODEL_CARD,
    ),
    KnownModel(
        ("siglip2", "siglip2-base"),
        "google/siglip2-base-patch16-224",
        "dual encoder",
        "search and labels in many languages",
        "laptop",
        375,
        "Apache-2.0",
        f"{IMAGENET} 78.2 %",
        SIGLIP2_PAPER,
    ),
    KnownModel(
        ("siglip2-naflex", "siglip2-base-naflex"),
        "google/siglip2-base-patch16-naflex",
        "dual encoder",
        "search and labels in many languages, wide and tall pictures",
        "laptop",
        375,
        "Apache-2.0",
        "trained on 10 billion pictures",
        "arXiv:2502.14786, section 2.1",
    ),
    KnownModel(
        ("siglip2-so400m",),
        "google/siglip2-so400m-patch16-256",
        "dual encoder",
        "search and labels in many languages, the best here",
        "8 GB GPU",
        1136,
        "Apache-2.0",
        f"{IMAGENET} 83.4 %",
        SIGLIP2_PAPER,
    ),
    KnownModel(
        ("chinese-clip", "chinese-clip-vit-base-patch16"),
        "OFA-Sys/chinese-clip-vit-base-patch16",
        "dual encoder",
        "search and labels in Chinese",
        "laptop",
        188,
        "Apache-2.0",
        "MUGE zero-shot recall@1 52.1 %",
        "Results.md of OFA-Sys/Chinese-CLIP",
    ),
    KnownModel(
        ("blip2", "blip2-opt-2.7b"),
        "Salesforce/blip2-opt-2.7b",
        "vision-language model",
        "captions, BLIP-2 as in the paper",
        "server",
        3745,
        "MIT",
        "COCO CIDEr 145.8 (fine-tuned)",
        "arXiv:2301.12597, table 3",
    ),
    KnownModel(
        ("blip2-flan-t5-xl",),
        "Salesforce/blip2-flan-t5-xl",
        "vision-language model",
        "answers and captions, BLIP-2 as in the paper",
        "server",
        3942,
        "MIT",
        "COCO CIDEr 144.5 (fine-tuned)",
        "arXiv:2301.12597, table 3",
    ),
    KnownModel(
        ("smolvlm", "smolvlm2"),
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "vision-language model",
        "captions, answers and conversations in English",
        "laptop",
        256,
        "Apache-2.0",
        "Video-MME 33.7 %",
        MODEL_CARD,
    ),
    KnownModel(
        ("smolvlm-2.2b",),
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "vision-language model",
        "captions, answers and conversations in English",
        "8 GB GPU",
        2246,
        "Apache-2.0",
        "TextVQA 73.2 %",
        MODEL_CARD,
    ),
)


def known_model(name: str) -> KnownModel | None:
    """Return the model of a short name, in any case of its letters; None if there is none."""
    return next((model for model in KNOWN_MODELS if name.lower() in map(str.lower, model.names)), None)
