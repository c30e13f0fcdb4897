"""Licenses and versions of dependencies: read from metadata, listed in NOTICE and in the SBOM."""

import json
import tomllib
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dependencies
import sbom
from dependencies import Dependency, DependencyError, walk_dependencies

DATE = 1_750_000_000


def metadata(**fields: str | list[str]) -> Message:
    message = Message()
    for field, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            message[field.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    ("fields", "license_text"),
    [
        ({"License_Expression": "MIT AND Zlib", "License": "other"}, "MIT AND Zlib"),
        ({"License": "mpl-2.0"}, "MPL-2.0"),
        ({"License": "Apache 2.0 License"}, "Apache-2.0"),
        (
            {"License": "BSD 3-Clause\n\nCopyright", "Classifier": ["License :: OSI Approved :: BSD License"]},
            "BSD License",
        ),
        ({"Classifier": ["License :: OSI Approved", "License :: OSI Approved :: MIT License"]}, "MIT"),
        (
            {"Classifier": [f"License :: OSI Approved :: {name} License" for name in ("MIT", "Apache Software")]},
            "Apache-2.0 OR MIT",
        ),
        ({"License": "UNKNOWN", "Classifier": ["Programming Language :: Python"]}, None),
        ({}, None),
    ],
)
def test_a_license_is_an_spdx_expression_where_metadata_allow(
    fields: dict[str, str | list[str]], license_text: str | None
) -> None:
    assert dependencies.license_of(metadata(**fields)) == license_text


@pytest.fixture(name="installed")
def _installed(tmp_path: Path) -> list[Distribution]:
    """Packages: app needs library[fast] and, on Windows, console; library's extra "fast" needs compiled."""
    packages = {
        "App": ("License-Expression: MIT", "library[fast]>=1", "console; sys_platform == 'win32'"),
        "library": ("License: BSD-3-Clause", "compiled; extra == 'fast'", "no; extra == 'slow'"),
        "compiled": ("License-Expression: MIT", "backport; python_version < '3'"),
        "console": ("License-Expression: MIT",),
        "silent": ("Summary: names no license",),
    }
    for name, (field, *required) in packages.items():
        text = "\n".join([field, *(f"Requires-Dist: {line}" for line in required)])
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{text}\n", "utf-8")
    return list(distributions(path=[str(tmp_path)]))


PINNED = dict.fromkeys(("app", "library", "compiled", "console", "silent", "colorama"), "1.0")


def test_dependencies_are_followed_through_extras_and_systems(installed: list[Distribution]) -> None:
    found = walk_dependencies(["app>=1"], PINNED, installed)
    assert found == [
        Dependency("app", "1.0", "MIT", ("console", "library")),
        Dependency("compiled", "1.0", "MIT"),
        Dependency("console", "1.0", "MIT"),
        Dependency("library", "1.0", "BSD-3-Clause", ("compiled",)),
    ]
    assert [one.name for one in walk_dependencies(["library"], PINNED, installed)] == ["library"]


def test_a_package_of_another_system_needs_a_license_read_by_hand(installed: list[Distribution]) -> None:
    assert walk_dependencies(["colorama"], PINNED, installed)[0].license == "BSD-3-Clause"
    with pytest.raises(DependencyError, match=r"absent is not installed: .*BY_HAND"):
        walk_dependencies(["absent"], {"absent": "1.0"}, installed)


def test_a_package_without_a_license_is_refused(installed: list[Distribution]) -> None:
    with pytest.raises(DependencyError, match=r"silent does not say its license"):
        walk_dependencies(["silent"], PINNED, installed)


def test_a_package_outside_the_lock_is_refused(installed: list[Distribution]) -> None:
    with pytest.raises(DependencyError, match=r"compiled is not in requirements\.lock: run make lock"):
        walk_dependencies(["app"], {"app": "1.0", "library": "1.0"}, installed)


def test_the_lock_gives_the_version_for_the_oldest_python(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "One_Name==1.0 \\\n    --hash=sha256:00\n"
        "numpy==2.4 ; python_full_version < '3.12' \\\n    --hash=sha256:00\n"
        "numpy==2.5 ; python_full_version >= '3.12' \\\n    --hash=sha256:00\n"
        "console==3 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n",
        "utf-8",
    )
    versions = {"torch": "2.13.0", "one-name": "1.0", "numpy": "2.4", "console": "3"}
    assert dependencies.read_lock(lock, "2.13.0") == versions


def test_the_list_in_notice_can_be_replaced() -> None:
    found = [Dependency("b", "1", "MIT"), Dependency("a", "1", "MIT"), Dependency("c", "1", "BSD-3-Clause")]
    listed = dependencies.list_licenses(found)
    assert listed == "- BSD-3-Clause: c\n- MIT: b, a"
    notice = f"Before\n\n{dependencies.BEGIN}- MIT: old\n  and older\n\nAfter\n"
    written = dependencies.write_notice(notice, listed)
    assert written == f"Before\n\n{dependencies.BEGIN}{listed}\n\nAfter\n"
    assert dependencies.read_notice(written) == listed


def test_notice_names_what_everybody_installs() -> None:
    notice = dependencies.read_notice((dependencies.ROOT / "NOTICE").read_text("utf-8"))
    names = {name for line in notice.replace("\n  ", " ").splitlines() for name in line.partition(": ")[2].split(", ")}
    project = tomllib.loads((dependencies.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {canonicalize_name(Requirement(line).name) for line in project["dependencies"]} <= names


FOUND = [
    Dependency("library", "1.0", "BSD License", ("compiled",)),
    Dependency("compiled", "2.0", "MIT AND Zlib"),
    Dependency("plain", "3.0", "MIT"),
]


def test_the_sbom_is_valid_and_names_versions_licenses_and_edges() -> None:
    text = sbom.write_sbom("1.2.3", FOUND, DATE)
    assert sbom.validate_sbom(text) is None
    read = json.loads(text)
    assert read["metadata"]["component"]["purl"] == "pkg:pypi/beholder@1.2.3"
    assert read["metadata"]["timestamp"].startswith("2025-06-15T")
    components = {one["purl"]: one["licenses"] for one in read["components"]}
    assert components == {
        "pkg:pypi/library@1.0": [{"license": {"name": "BSD License"}}],
        "pkg:pypi/compiled@2.0": [{"expression": "MIT AND Zlib"}],
        "pkg:pypi/plain@3.0": [{"license": {"id": "MIT"}}],
    }
    edges = {one["ref"]: set(one.get("dependsOn", ())) for one in read["dependencies"]}
    assert edges["pkg:pypi/beholder@1.2.3"] == components.keys()
    assert edges["pkg:pypi/library@1.0"] == {"pkg:pypi/compiled@2.0"}


def test_the_sbom_is_reproducible() -> None:
    assert sbom.write_sbom("1.2.3", FOUND, DATE) == sbom.write_sbom("1.2.3", FOUND, DATE)
    assert sbom.write_sbom("1.2.3", FOUND, DATE) != sbom.write_sbom("1.2.3", FOUND[1:], DATE)


def test_an_invalid_sbom_is_refused() -> None:
    read = json.loads(sbom.write_sbom("1.2.3", FOUND, DATE))
    read["components"][0]["type"] = "thing"
    error = sbom.validate_sbom(json.dumps(read))
    assert error is not None and "thing" in error
