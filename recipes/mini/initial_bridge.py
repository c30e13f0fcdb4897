"""mini's bridge before training, and the prompts and texts that it is trained on."""

import torch

from beholder.models.bridge import Bridge, BridgeSettings
from beholder.weights import mini, mini_bridge
from beholder.weights.mini_bridge import PROMPTS


def initial_bridge(settings: BridgeSettings) -> Bridge:
    """Return an untrained bridge, initialized from ``mini``'s text tower."""
    torch.manual_seed(0)
    bridge = Bridge(settings)
    mini_bridge.initialize_from_bert(bridge, mini.text_tower())
    return bridge


def caption_pair(caption: str) -> tuple[str, str]:
    """Return the prompt and the text of a caption."""
    words = " ".join(caption.split()).rstrip(" .").lower()
    return PROMPTS.caption, f" {words}."


def question_pair(question: str, answer: str) -> tuple[str, str]:
    """Return the prompt and the text of a question and its answer."""
    return PROMPTS.format_question(question), f" {answer}"
