"""requirements.lock pins every dependency by hash and is consistent with pyproject.toml."""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LEFT_OUT = {"torch", "torchvision", "timm"}
BLOCKS = re.findall(r"^\S.*(?:\n .*)*", (ROOT / "requirements.lock").read_text("utf-8"), re.M)
LOCKED = [Requirement(re.split(r"\s*\\?\n|\s+--hash", block)[0].rstrip(" \\")) for block in BLOCKS]
HERE = {canonicalize_name(one.name): one for one in LOCKED if one.marker is None or one.marker.evaluate()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def project_requirements() -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    return [one for line in lines if (one := Requirement(line)).name != "beholder"]


def test_each_package_has_a_version_and_hashes() -> None:
    assert len(BLOCKS) > 100
    for block, one in zip(BLOCKS, LOCKED, strict=True):
        assert re.fullmatch(r"==[\w.+]+", str(one.specifier)), block
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block


@pytest.mark.parametrize("one", project_requirements(), ids=str)
def test_each_requirement_is_locked_to_a_compatible_version(one: Requirement) -> None:
    name = canonicalize_name(one.name)
    if name in LEFT_OUT:
        return
    assert name in HERE, "run: make lock"
    (version,) = (specifier.version for specifier in HERE[name].specifier)
    assert one.specifier.contains(version, prereleases=True), "run: make lock"


def test_the_requirements_of_locked_packages_are_locked() -> None:
    missing = set()
    for name in HERE:
        try:
            needed = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        for one in needed:
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                missing |= {canonicalize_name(one.name)} - HERE.keys() - LEFT_OUT
    assert not missing, f"Python {sys.version}"


def test_torch_and_its_gpu_dependencies_are_not_locked() -> None:
    names = {canonicalize_name(one.name) for one in LOCKED}
    assert not {name for name in names if name in LEFT_OUT or name.startswith(("nvidia-", "cuda-", "triton"))}
    (torch,) = re.findall(r"^TORCH := (\S+)", (ROOT / "Makefile").read_text("utf-8"), re.M)
    (required,) = (one for one in project_requirements() if one.name == "torch")
    assert required.specifier.contains(torch)


def test_the_requirements_of_torch_are_locked() -> None:
    needed = [Requirement(line) for line in requires("torch") or ()]
    names = {canonicalize_name(one.name) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})}
    of_gpus = {name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert names - of_gpus <= HERE.keys()
