"""What Beholder depends on, and under which licenses: the list in NOTICE.

python packaging/dependencies.py          # print the list
python packaging/dependencies.py --write  # write it into NOTICE

Everything that the package or one of its extras for users requires, directly or indirectly, on Linux, macOS or Windows.
Licenses are read from the metadata of installed packages, as SPDX identifiers where these are known. Run it in the
environment of the lock (``make``), with the oldest Python that Beholder supports.
"""

import argparse
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.spdx import fixup_id, is_expression
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FOR_DEVELOPERS = {"docs", "test"}  # extras that no user installs
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0"}
SYSTEMS = (
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
)
# What metadata call licenses, and their SPDX identifiers. "BSD License" is left as it is: it does not say which.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "FreeBSD": "BSD-2-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Read by hand: packages for another system, and packages whose metadata name no license.
BY_HAND = {
    "colorama": "BSD-3-Clause",  # Windows
    "pycocoevalcap": "BSD-2-Clause",  # license.txt of tylin/coco-caption
}
BEGIN, END = "Packages that are installed with Beholder or with an extra:\n\n", "\n\n"


class DependencyError(Exception):
    """A dependency is missing from the environment or the lock, or its license is unknown."""


@dataclass(frozen=True)
class Dependency:
    """A package with its pinned version, its license, and the names of the packages that it requires."""

    name: str
    version: str
    license: str
    requires: tuple[str, ...] = ()


def license_of(metadata: Message) -> str | None:
    """Return the license that a package's metadata name, as an SPDX expression if possible.

    Args:
        metadata: the core metadata, in which the fields License-Expression (PEP 639), License, and the classifiers
            count in this order.
    """
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    stated = (metadata.get("License") or "").strip()
    if stated and is_expression(stated):
        return fixup_id(stated) or stated
    classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line[:7] == "License"]
    named = sorted({SPDX.get(name, name) for name in classifiers} - {"OSI Approved"})
    return SPDX.get(stated) or " OR ".join(named) or None


def needed(requirement: Requirement, extra: str = "") -> bool:
    """Return whether a requirement holds on any of the systems, for one of the package's extras or for none."""
    if requirement.marker is None:
        return True
    environment = {**default_environment(), **PYTHON, "extra": extra}
    return any(requirement.marker.evaluate({**environment, **system}) for system in SYSTEMS)


def read_lock(file: Path, torch: str) -> dict[str, str]:
    """Return the pinned versions of a lock, and torch's, which is pinned in the Makefile."""
    lines = re.findall(r"^([\w.-]+==[^\\\n]+)", file.read_text("utf-8"), re.M)
    pinned = [one for line in lines if needed(one := Requirement(line))]
    return {"torch": torch} | {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in pinned}


def walk_dependencies(
    required: Iterable[str], pinned: dict[str, str], installed: Iterable[Distribution] | None = None
) -> list[Dependency]:
    """Return the packages that requirements need, directly and indirectly, sorted by name.

    Args:
        required: requirements as in pyproject.toml.
        pinned: the version of each package, by its normalized name.
        installed: the packages to read metadata from; by default, those of this environment.

    Raises:
        DependencyError: a package is not pinned, or its license is unknown.
    """
    by_name = {
        canonicalize_name(one.metadata["Name"]): one for one in (distributions() if installed is None else installed)
    }
    edges: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    pending = [one for line in required if needed(one := Requirement(line))]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        edges.setdefault(name, set())
        for extra in ["", *requirement.extras]:
            if (name, extra) in seen or name not in by_name:
                continue
            seen.add((name, extra))
            below = [one for line in by_name[name].requires or () if needed(one := Requirement(line), extra)]
            edges[name] |= {canonicalize_name(one.name) for one in below}
            pending += below
    found = []
    for name, below in sorted(edges.items()):
        if name not in pinned:
            raise DependencyError(f"{name} is not in requirements.lock: run make lock")
        one = by_name.get(name)
        text = (license_of(one.metadata) if one is not None else None) or BY_HAND.get(name)
        if text is None:
            why = "is not installed" if one is None else "does not say its license"
            raise DependencyError(f"{name} {why}: read it and add it to BY_HAND in packaging/dependencies.py")
        found.append(Dependency(name, pinned[name], text, tuple(sorted(below))))
    return found


def read_dependencies(root: Path = ROOT) -> list[Dependency]:
    """Return what the package and its extras for users depend on, in the versions of the lock.

    Raises:
        DependencyError: as ``walk_dependencies``.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name not in FOR_DEVELOPERS}
    (torch,) = re.findall(r"^TORCH := (\S+)$", (root / "Makefile").read_text("utf-8"), re.M)
    lines = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    return walk_dependencies(lines, read_lock(root / "requirements.lock", torch))


def list_licenses(dependencies: Iterable[Dependency]) -> str:
    """Return the list of NOTICE: each license with the packages under it."""
    by_license: dict[str, list[str]] = {}
    for one in dependencies:
        by_license.setdefault(one.license, []).append(one.name)
    lines = [f"- {text}: {', '.join(names)}" for text, names in sorted(by_license.items())]
    return "\n".join(textwrap.fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def read_notice(notice: str) -> str:
    """Return the list that is in NOTICE."""
    return notice.partition(BEGIN)[2].partition(END)[0]


def write_notice(notice: str, listed: str) -> str:
    """Return NOTICE with another list."""
    return notice.replace(BEGIN + read_notice(notice), BEGIN + listed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the list into NOTICE")
    write = parser.parse_args().write
    try:
        listed = list_licenses(read_dependencies())
    except DependencyError as error:
        sys.exit(str(error))
    if write:
        file = ROOT / "NOTICE"
        file.write_text(write_notice(file.read_text("utf-8"), listed), "utf-8")
    else:
        print(listed)
