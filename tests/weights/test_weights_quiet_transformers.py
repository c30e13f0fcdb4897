import threading
from pathlib import Path

import pytest
import tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from beholder.weights.language_models import read_language_model
from beholder.weights.quiet_transformers import quiet_transformers


@pytest.fixture
def language(tmp_path: Path) -> Path:
    words = {"a": 0, "dog": 1, "<unk>": 2, "</s>": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(tmp_path)
    with quiet_transformers():
        config = GPT2Config(vocab_size=4, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=3, eos_token_id=3)
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_loading_a_language_model_prints_nothing(language: Path, capfd: pytest.CaptureFixture) -> None:
    capfd.readouterr()
    read_language_model(language)
    assert capfd.readouterr() == ("", "")


def test_only_the_current_thread_is_silenced_and_only_within_the_context(capfd: pytest.CaptureFixture) -> None:
    def bar_in(name: str) -> None:
        for _ in transformers_logging.tqdm([1], desc=name, mininterval=0):
            pass
        transformers_logging.get_logger("transformers").warning("note of %s", name)

    with quiet_transformers():
        bar_in("inside")
        with quiet_transformers():
            bar_in("deeper")
        bar_in("still inside")
        other = threading.Thread(target=bar_in, args=("another thread",))
        other.start()
        other.join()
    bar_in("afterwards")
    printed = capfd.readouterr().err
    assert "another thread" in printed and "afterwards" in printed
    assert "inside" not in printed and "deeper" not in printed


def test_the_callers_hook_is_restored() -> None:
    calls: list[str] = []

    def hook(factory, args, kwargs):
        calls.append(kwargs["desc"])
        return transformers_logging.EmptyTqdm(*args, **kwargs)

    before = transformers_logging.set_tqdm_hook(hook)
    try:
        with quiet_transformers():
            transformers_logging.tqdm([1], desc="inside")
        transformers_logging.tqdm([1], desc="afterwards")
    finally:
        assert transformers_logging.set_tqdm_hook(before) is hook
    assert calls == ["afterwards"]
