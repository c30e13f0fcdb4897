import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from beholder.errors import WeightsMismatch
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.weights.table import Row, build_empty, load_foreign
from foreign_network import load_foreign_network

Tensors = dict[str, Tensor]


class Small(nn.Module):
    def __init__(self, settings: object):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.layers = nn.ModuleList(nn.Linear(4, 6) for _ in range(2))
        self.out = nn.Linear(4, 3, bias=False)


ROWS = (
    Row("token", "cls"),
    Row("layers.*.*", ("block_*.q_*", "block_*.k_*")),
    Row("out.weight", "proj", transposed=True),
)


def foreign() -> Tensors:
    tensors = {"cls": torch.randn(1, 1, 4), "proj": torch.randn(4, 3)}
    for layer in range(2):
        for part in "qk":
            tensors[f"block_{layer}.{part}_weight"] = torch.randn(3, 4)
            tensors[f"block_{layer}.{part}_bias"] = torch.randn(3, dtype=torch.float16)
    return tensors


def test_rows_concatenate_transpose_and_squeeze_tensors() -> None:
    tensors = foreign()
    network = load_foreign(build_empty(Small, None), tensors, ROWS)
    assert torch.equal(network.token, tensors["cls"][0, 0])
    assert torch.equal(network.out.weight, tensors["proj"].T)
    expected = torch.cat([tensors["block_1.q_weight"], tensors["block_1.k_weight"]])
    assert torch.equal(network.layers[1].weight, expected)
    assert network.layers[1].bias.dtype == torch.float32


def test_parts_are_concatenated_in_the_order_of_the_row() -> None:
    tensors = foreign()
    turned = (ROWS[0], Row("layers.*.*", ("block_*.k_*", "block_*.q_*")), ROWS[2])
    network = load_foreign(build_empty(Small, None), tensors, turned)
    assert torch.equal(network.layers[0].weight[:3], tensors["block_0.k_weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("block_1.k_bias"), r"missing: block_1\.k_bias$"),
        (lambda t: t.update(extra=torch.zeros(1)), r"unexpected: extra$"),
        (
            lambda t: t.update({"block_0.q_weight": torch.zeros(2, 4)}),
            r"block_0\.q_weight \(2, 4\), .* instead of \(6, 4\) together$",
        ),
        (lambda t: t.update({"block_0.q_weight": torch.zeros(3, 5)}), r"another shape: block_0\.q_weight \(3, 5\)"),
        (lambda t: t.update(proj=t["proj"].T), r"another shape: proj \(3, 4\) instead of \(4, 3\)"),
        (lambda t: t.update(cls=torch.zeros(2, 4)), r"another shape: cls \(2, 4\) instead of \(4\)"),
    ],
)
def test_missing_unexpected_and_misshapen_tensors_are_refused(
    change: Callable[[Tensors], object], message: str
) -> None:
    tensors = foreign()
    change(tensors)
    with pytest.raises(WeightsMismatch, match=message):
        load_foreign(build_empty(Small, None), tensors, ROWS)


def test_only_tensors_listed_in_the_table_are_ignored() -> None:
    tensors = {**foreign(), "block_0.position_ids": torch.arange(3)}
    load_foreign(build_empty(Small, None), tensors, ROWS, ignored=("block_0.position_ids",))
    with pytest.raises(WeightsMismatch, match="position_ids"):
        load_foreign(build_empty(Small, None), tensors, ROWS, ignored=("block_1.position_ids",))


def test_a_message_lists_a_few_tensors_and_counts_the_rest() -> None:
    with pytest.raises(WeightsMismatch, match=r"missing: cls, .* and 5 more$"):
        load_foreign(build_empty(Small, None), {}, ROWS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    blocks = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "hidden_size": 16}
    text = {**blocks, "vocab_size": 60, "max_position_embeddings": 8, "eos_token_id": 2}
    vision = {**blocks, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 32, "crop_size": 32}))
    return folder


def changed(checkpoint: Path, folder: Path, change: Callable[[Tensors], object]) -> Path:
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


LAYER = "vision_model.encoder.layers.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{LAYER}.self_attn.v_proj.bias"), f"missing: {LAYER}.self_attn.v_proj.bias"),
        (lambda t: t.pop("logit_scale"), "missing: logit_scale"),
        (
            lambda t: t.update({f"{LAYER}.mlp.fc9.bias": t.pop(f"{LAYER}.mlp.fc1.bias")}),
            f"missing: {LAYER}.mlp.fc1.bias; unexpected: {LAYER}.mlp.fc9.bias",
        ),
        (
            lambda t: t.update({f"{LAYER}.mlp.fc1.weight": t[f"{LAYER}.mlp.fc1.weight"].T.contiguous()}),
            rf"another shape: {LAYER}.mlp.fc1.weight \(16, 8\) instead of \(8, 16\)",
        ),
        (
            lambda t: t.update({"vision_model.encoder.layers.1.mlp.fc1.bias": torch.zeros(8)}),
            "unexpected: vision_model.encoder.layers.1.mlp.fc1.bias",
        ),
    ],
)
def test_a_checkpoint_that_does_not_match_its_config_is_refused_with_the_tensor_name(
    checkpoint: Path, tmp_path: Path, change: Callable[[Tensors], object], message: str
) -> None:
    with pytest.raises(WeightsMismatch, match=message):
        load_foreign_network(changed(checkpoint, tmp_path, change))


def test_position_ids_of_old_checkpoints_are_ignored(checkpoint: Path, tmp_path: Path) -> None:
    counters = {"text_model.embeddings.position_ids": torch.arange(8)[None]}
    load_foreign_network(changed(checkpoint, tmp_path, lambda tensors: tensors.update(counters)))


def test_an_empty_network_has_the_right_shapes_and_uses_no_random_numbers() -> None:
    settings = TwoTowersSettings(
        VisionSettings(image_height=32, image_width=32, patch_size=8, width=16, layers=1, heads=2, mlp_width=24),
        TextTransformerSettings(60, 12, 16, 1, 2, 24),
        8,
    )
    state = torch.random.get_rng_state()
    empty = build_empty(TwoTowers, settings).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    drawn = TwoTowers(settings).state_dict()
    assert {name: (t.shape, t.dtype) for name, t in empty.items()} == {
        name: (t.shape, t.dtype) for name, t in drawn.items()
    }


@pytest.mark.slow
def test_loading_a_model_does_not_import_the_torch_compiler(tiny_model: Path) -> None:
    code = (
        f"import sys; from beholder import DualEncoder; DualEncoder.from_pretrained({str(tiny_model)!r}, device='cpu')"
    )
    code += "; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" in run.stdout.split() and not {"torch._dynamo", "sympy"} & set(run.stdout.split())
