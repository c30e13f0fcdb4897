"""Write the software bill of materials of Beholder in CycloneDX: every package it depends on, pinned and licensed.

python packaging/sbom.py dist/beholder.cdx.json
"""

import argparse
import os
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from dependencies import ROOT, Dependency, DependencyError, read_dependencies
from distributions import read_version


def component(name: str, version: str, license_text: str, kind: ComponentType) -> Component:
    """Return a Python package as a component of an SBOM."""
    url = PackageURL("pypi", None, name, version)
    licenses = [LicenseFactory().make_from_string(license_text)]
    return Component(type=kind, name=name, version=version, purl=url, bom_ref=str(url), licenses=licenses)


def write_sbom(version: str, dependencies: Iterable[Dependency], date: int) -> str:
    """Return an SBOM as JSON (CycloneDX 1.6); the same arguments give the same text.

    Args:
        version: Beholder's.
        dependencies: the packages, with the edges between them.
        date: seconds since 1970, as in SOURCE_DATE_EPOCH.
    """
    found = list(dependencies)
    components = {one.name: component(one.name, one.version, one.license, ComponentType.LIBRARY) for one in found}
    root = component("beholder", version, "Apache-2.0", ComponentType.APPLICATION)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{root.purl} {date} {found}")
    bom = Bom(components=components.values(), serial_number=serial)
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(date, UTC)
    bom.register_dependency(root, components.values())
    for one in found:
        bom.register_dependency(components[one.name], [components[name] for name in one.requires])
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def validate_sbom(text: str) -> str | None:
    """Return what CycloneDX's schema says against an SBOM, or None if it is valid."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return None if error is None else str(error)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    try:
        text = write_sbom(read_version(ROOT), read_dependencies(), int(os.environ.get("SOURCE_DATE_EPOCH", 0)))
    except DependencyError as error:
        sys.exit(str(error))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
