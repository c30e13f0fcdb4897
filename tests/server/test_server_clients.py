"""Clients of the OpenAI API that people use: each gets what the library gives.

They are programs in `clients/`, run by the Python of the environment that ``make clients`` makes, or else by this one;
one whose packages are not installed there is skipped.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder import DualEncoder, VisionLanguageModel
from examples import ROOT
from serving import Running, data_address, picture

pytestmark = [pytest.mark.clients, pytest.mark.slow]

PROGRAMS = Path(__file__).parent / "clients"
OWN_PYTHON = ROOT / ".clients" / "bin" / "python"
PYTHON = OWN_PYTHON if OWN_PYTHON.exists() else sys.executable
PACKAGES = {
    "openai_client.py": "openai",
    "langchain_client.py": "langchain_openai",
    "llama_index_client.py": "llama_index.llms.openai_like,llama_index.embeddings.openai_like",
    "litellm_client.py": "litellm",
    "llm_client.py": "llm",
}
JAVASCRIPT_CLIENT = "openai@6"


def run(command: list[str | Path], server: Running) -> dict[str, Any]:
    arguments = [f"{server.base}/v1", "tiny", data_address(picture())]
    environment = {**os.environ, "NO_PROXY": "*"}
    done = subprocess.run(
        [*map(str, command), *arguments], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any], encoder: DualEncoder, vision_language_model: VisionLanguageModel) -> None:
    vectors = encoder.embed_texts(["a dog", "a cat"])
    if "text" in found:
        np.testing.assert_allclose(found["text"], vectors[0], atol=1e-5)
        np.testing.assert_allclose(found["batch"], vectors, atol=1e-5)
    answer = vision_language_model.chat(picture(), max_new_tokens=8).ask("what is this ?")
    chat = vision_language_model.chat(picture(), max_new_tokens=8)
    chat.add_turn("what is this ?", answer)
    second = chat.ask("where ?")
    assert answer
    for name in ("answer", "streamed", "helper", "async"):
        assert found.get(name, answer) == answer, name
    assert found["second"] == second
    assert found.get("models", ["tiny"]) == ["tiny"]
    assert found.get("error", "model_not_found") == "model_not_found"
    assert 0 < found.get("usage", 8) <= 8


@pytest.mark.parametrize("program", PACKAGES)
def test_a_python_client_gets_what_the_library_gives(
    program: str, server: Running, encoder: DualEncoder, vision_language_model: VisionLanguageModel
) -> None:
    look = "import importlib.util as u,sys;sys.exit(any(u.find_spec(p.split('.')[0]) is None for p in sys.argv[1:]))"
    packages = PACKAGES[program].split(",")
    if subprocess.run([PYTHON, "-c", look, *packages], capture_output=True, check=False).returncode:
        pytest.skip(f"{', '.join(packages)}: not installed for {PYTHON}")
    check(run([PYTHON, PROGRAMS / program], server), encoder, vision_language_model)


def test_the_javascript_client_gets_what_the_library_gives(
    server: Running, encoder: DualEncoder, vision_language_model: VisionLanguageModel, tmp_path: Path
) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js is not installed")
    install = [
        npm,
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        str(tmp_path),
        JAVASCRIPT_CLIENT,
    ]
    try:
        if subprocess.run(install, capture_output=True, timeout=180, check=False).returncode:
            pytest.skip("npm can't install openai: is there a registry?")
    except subprocess.TimeoutExpired:
        pytest.skip("npm can't install openai within three minutes")
    program = tmp_path / "openai_client.mjs"
    program.write_bytes((PROGRAMS / program.name).read_bytes())
    check(run([node, program], server), encoder, vision_language_model)
