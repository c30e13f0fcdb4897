"""Two processes with gloo and a single process give the same losses, gradients and weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_pairs
from beholder.errors import InvalidSetting
from beholder.training.distributed import ProcessGroup, shard
from beholder.training.train_clip import train_clip

TESTS = Path(__file__).parent.parent
WORLD = 2

LOSSES = """
import json, sys
import torch
import torch.nn.functional as F
from torch import nn
from beholder.training.losses import contrastive_loss, duplicate_pairs, sigmoid_loss
from beholder.training.distributed import ProcessGroup, exit_worker, shard

group = ProcessGroup.initialize("cpu")
generator = torch.Generator().manual_seed(0)
batch = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
same = duplicate_pairs(torch.tensor([1, 2, 3, 4, 5, 6, 1, 7]), torch.arange(8))
there = torch.tensor([True] * 3 + [False] + [True] * 4)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.image, self.text = nn.Linear(5, 4).double(), nn.Linear(5, 4).double()
        self.scale, self.bias = nn.Parameter(torch.tensor(7.0).double()), nn.Parameter(torch.tensor(-3.0).double())

    def forward(self, image, text):
        image, text = F.normalize(self.image(image), dim=-1), F.normalize(self.text(text), dim=-1)
        return image, text, self.scale * 1, self.bias * 1


def step(model, part, local, name):
    image, text, scale, bias = model(*part)
    rows = group.local_rows(len(image)) if local else None
    image, text = group.all_gather(image), group.all_gather(text)
    if name == "contrastive":
        loss = contrastive_loss(image, text, scale, 0.1, same, there, rows) + 0 * bias
    else:
        loss = sigmoid_loss(image, text, scale, bias, same, there, rows)
    loss.backward()
    return group.mean(loss.detach())


found = {}
for name in ("contrastive", "sigmoid"):
    for local in (False, True):
        whole = Both()
        model = shard(whole, [], group, "ddp")
        part = batch[:, list(group.local_rows(8 // group.world_size))]
        loss = step(model, part, local, name)
        gradients = {which: weight.grad.tolist() for which, weight in whole.named_parameters()}
        found[f"{name} {'local' if local else 'global'}"] = {"loss": float(loss), **gradients}
if group.is_main_process:
    print(json.dumps(found))
group.destroy()
exit_worker()
"""


def run_processes(*program: str) -> str:
    order = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={WORLD}", "--master-port=0"]
    order += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *program]
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(order, capture_output=True, text=True, timeout=180, check=False, env=environment)
    assert run.returncode == 0, run.stderr[-4000:]
    return run.stdout


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the results of one process and of two."""
    program = tmp_path_factory.mktemp("program") / "losses.py"
    program.write_text(LOSSES)
    alone = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=100, check=True)
    return json.loads(alone.stdout), json.loads(run_processes(str(program)).splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["contrastive global", "contrastive local", "sigmoid global", "sigmoid local"])
def test_two_processes_have_the_loss_and_gradients_of_one_with_the_combined_batch(
    losses: tuple[dict[str, Any], dict[str, Any]], kind: str
) -> None:
    alone, twice = losses[0][kind], losses[1][kind]
    assert alone["loss"] > 0.1 and any(abs(value) > 1e-3 for row in alone["image.weight"] for value in row)
    for name, value in alone.items():
        torch.testing.assert_close(torch.tensor(twice[name]), torch.tensor(value), atol=1e-7, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_the_same_weights_as_one(parallel: str, tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, broken=(3,))
    options: dict[str, Any] = {"steps": 4, "chunk": 4, "save_every": 2, "ema_decay": 0.5, "learning_rate": 1e-3}
    config = tiny_pairs.config(tmp_path, train=options, data={"evaluate": "pairs.jsonl"})
    train_clip(config, tmp_path / "alone", device="cpu")
    path = tiny_pairs.write_config(tmp_path, train={**options, "parallel": parallel}, data={"evaluate": "pairs.jsonl"})
    command = ("-m", "beholder", "train", "clip", str(path), "--out", str(tmp_path / "twice"), "--device", "cpu")
    assert "trained; DualEncoder.from_pretrained opens it" in run_processes(*command)
    one, two = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("alone", "twice"))
    assert set(one) == set(two)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")

    whole = (tmp_path / "twice" / "model" / "model.safetensors").read_bytes()
    (tmp_path / "twice" / "checkpoints" / "step-00000004.pt").unlink()
    run_processes(*command)
    assert (tmp_path / "twice" / "model" / "model.safetensors").read_bytes() == whole, "resumed is as never stopped"


def test_a_single_process_needs_no_process_group() -> None:
    group = ProcessGroup.initialize("cpu")
    assert group.world_size == 1 and not torch.distributed.is_initialized()
    value = torch.ones(3)
    assert group.all_gather(value) is value and not group.any(False) and group.all_gather_object(1) == [1]


def test_fsdp_with_a_single_process_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="torchrun"):
        shard(torch.nn.Linear(2, 2), [], ProcessGroup(torch.device("cpu")), "fsdp")
