"""A frozen language model that reads soft prompts: any causal or encoder-decoder model of transformers.

Shapes: B batch, T tokens or soft prompts, L length of a cached sequence, D the model's width, V its vocabulary.
"""

import inspect
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from beholder.errors import InvalidSetting

ATTENTION_LOCK = Lock()  # one thread at a time changes the attention implementation


class KVCache:
    """Keys and values of a batch, its padding mask (B, L) and, for an encoder-decoder model, the encoder's output."""

    def __init__(self, cache: Any, mask: Tensor, encoder_hidden_states: Tensor | None = None):
        self.cache = cache
        self.mask = mask
        self.encoder_hidden_states = encoder_hidden_states

    def select(self, rows: Tensor) -> None:
        """Select and reorder rows (n,) of the batch; a row may be repeated."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        if self.encoder_hidden_states is not None:
            self.encoder_hidden_states = self.encoder_hidden_states[rows]

    @property
    def joinable(self) -> bool:
        """Whether rows of other caches can be appended: every layer holds all keys and values of a decoder."""
        from transformers.cache_utils import DynamicLayer

        layers = getattr(self.cache, "layers", [])  # an encoder-decoder cache has none
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    def join(self, others: "list[KVCache]") -> None:
        """Append the rows of other caches to this one. Shorter rows are padded on the left."""
        caches = [self, *others]
        length = max(each.mask.shape[1] for each in caches)
        padding = [length - each.mask.shape[1] for each in caches]
        for number, layer in enumerate(self.cache.layers):
            for name in ("keys", "values"):
                parts = [getattr(each.cache.layers[number], name) for each in caches]
                parts = [pad(part, (0, 0, count, 0)) for part, count in zip(parts, padding, strict=True)]
                setattr(layer, name, torch.cat(parts))
        self.mask = torch.cat([pad(each.mask, (count, 0)) for each, count in zip(caches, padding, strict=True)])

    def trim(self) -> None:
        """Drop the leading positions that are padding in every row."""
        start = leading_padding(self.mask)
        if start:
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, start:], layer.values[:, :, start:]
            self.mask = self.mask[:, start:]

    def crop(self, length: int) -> None:
        """Keep the first ``length`` positions of a cache that holds all keys and values."""
        if length < self.mask.shape[1]:
            self.cache.crop(length - self.mask.shape[1])  # how many are removed, since transformers 5.24 only that
            self.mask = self.mask[:, :length]


def leading_padding(mask: Tensor) -> int:
    """Return how many leading columns of a mask (B, L) are padding in every row."""
    return int(mask.any(0).long().argmax())


def copy_head_inputs(module: Any) -> None:
    """Let the head of a frozen model of transformers read a copy of the hidden states that it is given.

    Those of the last position alone have strides for which torch 2.13 copies the whole weight once for each row, in
    bfloat16 (``should_fold`` in ``aten/src/ATen/native/LinearAlgebra.cpp``).
    """
    head = module.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_copied)


def _copied(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(states.clone(memory_format=torch.contiguous_format) for states in inputs)


class LanguageModel(nn.Module):
    """A model that reads embeddings in place of token ids. Its weights are frozen; gradients flow to its inputs.

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
        copy_head_inputs(module)

    @property
    def width(self) -> int:
        """D."""
        return int(self.module.get_input_embeddings().weight.shape[1])

    @property
    def context_length(self) -> int:
        """Maximum number of tokens and soft prompts together; 0 if unlimited."""
        return int(getattr(self.module.config, "max_position_embeddings", 0))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a text."""
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
        """Tokens that start the decoder's output; none for a causal model."""
        return ()

    def train(self, mode: bool = True) -> "LanguageModel":
        """Stay in evaluation mode: the model is frozen."""
        return super().train(False)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids: (B, T) → (B, T, D)."""
        return self.module.get_input_embeddings()(ids)

    def prefill(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, KVCache]:
        """Read prompts into a new cache.

        Args:
            embeddings: of tokens and soft prompts (B, T, D).
            mask: (B, T), false at padding, which is on the left.

        Returns:
            Logits of the first new token (B, V), and the cache.
        """
        raise NotImplementedError

    def decode(self, ids: Tensor, kv_cache: KVCache, *, all_positions: bool = False) -> Tensor:
        """Read tokens after the cached ones, and add them to the cache.

        Args:
            ids: (B, T).
            kv_cache: cache of the same rows; it is modified.
            all_positions: return logits for every position rather than the last.

        Returns:
            Logits (B, V), or (B, T, V) with ``all_positions``.
        """
        raise NotImplementedError

    def prompt_attention(self, embeddings: Tensor, ids: list[int]) -> Tensor:
        """Return the attention of generated tokens to each position of their prompt.

        Args:
            embeddings: a single prompt (1, T, D).
            ids: n tokens generated after it.

        Returns:
            Attention weights (n, T), averaged over layers and heads.
        """
        raise NotImplementedError

    def _with_attentions(self, **options: Any) -> Any:
        """Run the module with eager attention, which returns the attention weights; the fast kernels do not."""
        with ATTENTION_LOCK:
            kind = self.module.config._attn_implementation
            self.module.set_attn_implementation("eager")
            try:
                return self.module(**options, output_attentions=True, use_cache=False)
            finally:
                self.module.set_attn_implementation(kind)


class CausalLanguageModel(LanguageModel):
    """A decoder-only model, such as OPT and Llama."""

    def hidden_states(self, embeddings: Tensor, allowed: Tensor, positions: Tensor, cache: Any = None) -> Tensor:
        """Return the last hidden states for embeddings: (B, T, D) → (B, T, D).

        Args:
            embeddings: of tokens and soft prompts.
            allowed: attention mask (B, 1, T, L), true where a row may attend to a column.
            positions: position ids (B, T).
            cache: cache of transformers, if earlier tokens were read.
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
        """Hidden states (…, D) → logits (…, V)."""
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
    """A model whose encoder reads the prompt and whose decoder generates the text, such as Flan-T5."""

    encoder_decoder = True

    @property
    def decoder_start_token_ids(self) -> tuple[int, ...]:
        """The decoder's start token."""
        return (int(self.module.config.decoder_start_token_id),)

    def prefill(self, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, KVCache]:  # noqa: D102
        from transformers import DynamicCache, EncoderDecoderCache

        output = self.module.get_encoder()(inputs_embeds=embeddings, attention_mask=mask.long())
        config = self.module.config
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        kv_cache = KVCache(cache, mask, output.last_hidden_state)
        start = torch.full((len(mask), 1), self.decoder_start_token_ids[0], device=mask.device)
        return self.decode(start, kv_cache), kv_cache

    def decode(self, ids: Tensor, kv_cache: KVCache, *, all_positions: bool = False) -> Tensor:  # noqa: D102
        logits = self.module(
            encoder_outputs=(kv_cache.encoder_hidden_states,),
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
        """Return teacher-forced logits (B, T, V) of target texts (B, T), for training."""
        start = torch.full_like(targets[:, :1], self.decoder_start_token_ids[0])
        before = torch.cat([start, targets[:, :-1]], 1).clamp(min=0)
        return self.module(inputs_embeds=embeddings, attention_mask=mask.long(), decoder_input_ids=before).logits


def language_model(module: Any) -> CausalLanguageModel | EncoderDecoderLanguageModel:
    """Wrap a model of transformers.

    Raises:
        InvalidSetting: the model can't generate text.
    """
    if not module.can_generate():
        raise InvalidSetting(
            f"{type(module).__name__} can't generate text; a causal or encoder-decoder model is needed"
        )
    if module.config.is_encoder_decoder:
        return EncoderDecoderLanguageModel(module)
    return CausalLanguageModel(module)
