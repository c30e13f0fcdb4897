"""A frozen language model behind soft prompts: any causal or encoder-decoder model of transformers.

Shapes: B rows, T tokens or soft prompts, L all that a row holds, D the model's width, V its vocabulary.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting


class KVCache:
    """What a model remembers of rows it has read: keys and values, and which of their places are no padding (B, L)."""

    def __init__(self, cache: Any, mask: Tensor, encoded: Tensor | None = None):
        self.cache = cache
        self.mask = mask
        self.encoded = encoded

    def select(self, rows: Tensor) -> None:
        """Keeps these rows (n,), in this order; a row may come several times."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        if self.encoded is not None:
            self.encoded = self.encoded[rows]


class LanguageModel(nn.Module):
    """Reads vectors in place of words. Its weights are frozen; gradients pass through it to what comes before.

    Args:
        module: a model of transformers, such as ``OPTForCausalLM`` or ``T5ForConditionalGeneration``.
    """

    encoder_decoder = False

    def __init__(self, module: Any):
        super().__init__()
        self.module = module.requires_grad_(False).eval()
        self.forward_parameters = inspect.signature(module.forward).parameters
        self.cache_name = (
            "cache" if "cache" in self.forward_parameters else "past_key_values"
        )  # renamed by transformers 5.24

    @property
    def width(self) -> int:
        """D."""
        return int(self.module.get_input_embeddings().weight.shape[1])

    @property
    def context_length(self) -> int:
        """The most tokens and soft prompts that it was made to read together; 0 where its positions have no end."""
        return int(getattr(self.module.config, "max_position_embeddings", 0))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end what it writes."""
        eos_token_ids = self.module.generation_config.eos_token_id
        if eos_token_ids is None:
            eos_token_ids = self.module.config.eos_token_id
        return (
            tuple(eos_token_ids)
            if isinstance(eos_token_ids, list | tuple)
            else ()
            if eos_token_ids is None
            else (int(eos_token_ids),)
        )

    @property
    def decoder_start_token_ids(self) -> tuple[int, ...]:
        """The tokens that stand before what it writes, beside the prompt."""
        return ()

    def train(self, mode: bool = True) -> "LanguageModel":
        """Stays as in use: a frozen model has no training mode."""
        return super().train(False)

    def embed(self, ids: Tensor) -> Tensor:
        """Words (B, T) in the model's own space: (B, T, D)."""
        return self.module.get_input_embeddings()(ids)

    def prefill(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, KVCache]:
        """Reads rows for the first time.

        Args:
            embeddings: words and soft prompts (B, T, D).
            mask: (B, T), false at padding, which stands in front.

        Returns:
            The logits of the first word to write (B, V), and the memory.
        """
        raise NotImplementedError

    def decode(self, ids: Tensor, kv_cache: KVCache, *, all_positions: bool = False) -> Tensor:
        """Reads on from what the memory holds, and adds to it.

        Args:
            ids: (B, T).
            memory: of the same rows.
            every: logits behind every token rather than the last.

        Returns:
            Logits (B, V), or (B, T, V).
        """
        raise NotImplementedError

    def prompt_attention(self, embeddings: Tensor, ids: list[int]) -> Tensor:
        """How much each of these words, when it was written behind a row, attended to each place of it.

        Args:
            embeddings: one row (1, T, D).
            ids: n words.

        Returns:
            (n, T), means over layers and heads.
        """
        raise NotImplementedError

    def _with_attentions(self, **options: Any) -> Any:
        """The module's output with its attention weights, which its fast kernels do not give."""
        kind = self.module.config._attn_implementation
        self.module.set_attn_implementation("eager")
        try:
            return self.module(**options, output_attentions=True, use_cache=False)
        finally:
            self.module.set_attn_implementation(kind)


class CausalLanguageModel(LanguageModel):
    """A decoder alone: OPT, Llama and its kin."""

    def hidden_states(self, embeddings: Tensor, allowed: Tensor, positions: Tensor, cache: Any = None) -> Tensor:
        """What the model makes of vectors (B, T, D), before its vocabulary: (B, T, D).

        Args:
            embeddings: words and soft prompts.
            allowed: (B, 1, T, L), true where a row may look at a column.
            positions: (B, T).
            cache: of transformers, where something was read before.
        """
        output = self.module.base_model(
            inputs_embeds=embeddings,
            attention_mask=allowed,
            position_ids=positions,
            use_cache=cache is not None,
            **{self.cache_name: cache},
        )
        return output.last_hidden_state

    def lm_head(self, hidden_states: Tensor) -> Tensor:
        """Hidden vectors (…, D) to logits (…, V)."""
        return self.module.get_output_embeddings()(hidden_states)

    def prefill(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, KVCache]:  # noqa: D102
        from transformers import DynamicCache

        kv_cache = KVCache(DynamicCache(config=self.module.config), mask.new_zeros(len(mask), 0))
        return self._read({"inputs_embeds": embeddings}, mask, kv_cache, all_positions=False), kv_cache

    def decode(self, ids: Tensor, kv_cache: KVCache, *, all_positions: bool = False) -> Tensor:  # noqa: D102
        return self._read(
            {"input_ids": ids}, torch.ones_like(ids, dtype=torch.bool), kv_cache, all_positions=all_positions
        )

    def prompt_attention(self, embeddings: Tensor, ids: list[int]) -> Tensor:  # noqa: D102
        before = embeddings.shape[1]
        words = self.embed(torch.tensor([ids[:-1]], dtype=torch.long, device=embeddings.device))
        output = self._with_attentions(inputs_embeds=torch.cat([embeddings, words], 1))
        return torch.stack(output.attentions).mean((0, 2))[0, before - 1 :, :before]

    def _read(self, tokens: dict[str, Tensor], mask: Tensor, kv_cache: KVCache, *, all_positions: bool) -> Tensor:
        known = kv_cache.mask.shape[1]
        kv_cache.mask = torch.cat([kv_cache.mask, mask], 1)
        options: dict[str, Any] = dict(tokens)
        if not kv_cache.mask.all():
            options["attention_mask"] = kv_cache.mask.long()
            positions = kv_cache.mask.long().cumsum(1).sub(1).clamp(min=0)[:, known:]
        else:
            positions = torch.arange(known, kv_cache.mask.shape[1], device=mask.device).expand(len(mask), -1)
        if "position_ids" in self.forward_parameters:
            options["position_ids"] = positions
        if "logits_to_keep" in self.forward_parameters:
            options["logits_to_keep"] = 0 if all_positions else 1
        logits = self.module(**options, **{self.cache_name: kv_cache.cache}, use_cache=True).logits
        return logits if all_positions else logits[:, -1]


class EncoderDecoderLanguageModel(LanguageModel):
    """An encoder that reads the soft prompts and the words behind them, and a decoder that answers: Flan-T5."""

    encoder_decoder = True

    @property
    def decoder_start_token_ids(self) -> tuple[int, ...]:
        """The decoder's first token."""
        return (int(self.module.config.decoder_start_token_id),)

    def prefill(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, KVCache]:  # noqa: D102
        from transformers import DynamicCache, EncoderDecoderCache

        encoded = self.module.get_encoder()(inputs_embeds=embeddings, attention_mask=mask.long()).last_hidden_state
        config = self.module.config
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        kv_cache = KVCache(cache, mask, encoded)
        start = torch.full((len(mask), 1), self.decoder_start_token_ids[0], device=mask.device)
        return self.decode(start, kv_cache), kv_cache

    def decode(self, ids: Tensor, kv_cache: KVCache, *, all_positions: bool = False) -> Tensor:  # noqa: D102
        logits = self.module(
            encoder_outputs=(kv_cache.encoded,),
            attention_mask=kv_cache.mask.long(),
            decoder_input_ids=ids,
            use_cache=True,
            **{self.cache_name: kv_cache.cache},
        ).logits
        return logits if all_positions else logits[:, -1]

    def prompt_attention(self, embeddings: Tensor, ids: list[int]) -> Tensor:  # noqa: D102
        before = torch.tensor([[self.decoder_start_token_ids[0], *ids[:-1]]], device=embeddings.device)
        output = self._with_attentions(inputs_embeds=embeddings, decoder_input_ids=before)
        return torch.stack(output.cross_attentions).mean((0, 2))[0]

    def loss_logits(self, embeddings: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, T, V) of answers (B, T), read behind the start token, for training."""
        start = torch.full_like(targets[:, :1], self.decoder_start_token_ids[0])
        before = torch.cat([start, targets[:, :-1]], 1).clamp(min=0)
        return self.module(inputs_embeds=embeddings, attention_mask=mask.long(), decoder_input_ids=before).logits


def language_model(module: Any) -> CausalLanguageModel | EncoderDecoderLanguageModel:
    """A model of transformers behind the protocol.

    Raises:
        InvalidSetting: it writes no text.
    """
    if not module.can_generate():
        raise InvalidSetting(f"{type(module).__name__} writes no text; a causal or encoder-decoder model is needed")
    if module.config.is_encoder_decoder:
        return EncoderDecoderLanguageModel(module)
    return CausalLanguageModel(module)
