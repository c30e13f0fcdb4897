"""How Sphinx builds the guide: `make docs`. Nothing is fetched, neither here nor by a page that it writes."""

import json
import os
import re
from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

import beholder
from beholder.cli.main import app as command_line
from beholder.server.app import make_app
from beholder.server.service import Service
from beholder.server.settings import ServerSettings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ELSEWHERE = {  # texts of the project that are pages of the guide, too
    "src/beholder/weights/mini_heads/README.md": "models/mini.md",
    "src/beholder/weights/mini_bridge/README.md": "models/mini-bridge.md",
    "recipes/clip/README.md": "models/recipes.md",
    "CHANGELOG.md": "models/changelog.md",
    **{f"benchmarks/{result.name}": f"benchmarks/{result.name}" for result in ROOT.glob("benchmarks/*.md")},
}
HTTP_HEAD = """# The HTTP interface

Fields with a question mark may be left out. Every error has the form of OpenAI's interface: `error` with `message`,
`type`, `param` and `code`. Where the server was given a key, each request carries `Authorization: Bearer KEY`.

"""

project = "Beholder"
version = release = beholder.__version__
project_copyright = "the authors of Beholder"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["figures"]

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
smartquotes = False  # two hyphens are an option, not a dash
default_role = "any"  # `DualEncoder.match` in a docstring is a link
suppress_warnings = ["ref.any"]  # … and plain code where it names what has no place in the guide

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_attr_annotations = False  # the signature has them
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "Beholder"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}
copybutton_prompt_text = ""
copybutton_exclude = ".linenos, .gp, .go"


def write_command_line() -> str:
    """The commands' own help, their examples set apart from the prose."""
    group = typer.main.get_command(command_line)
    with typer.Context(group, info_name="beholder") as context:
        text = get_docs_for_click(obj=group, ctx=context, name="beholder", title="The command line")
    text = text.replace("\b\n", "")  # typer's mark for lines that stay as they are
    return re.sub(r"((?:^beholder .*\n)+)", r"```sh\n\1```\n", text, flags=re.M)


def write_http() -> str:
    """Every route with what it takes, from the description that the server gives of itself."""
    described = make_app(Service(ServerSettings(), lambda: ({}, {}))).app.openapi()
    parts = [HTTP_HEAD]
    for address, operations in described["paths"].items():
        for method, operation in operations.items():
            parts.append(f"## `{method.upper()} {address}`\n\n{operation.get('description', operation['summary'])}\n")
            rows = [
                (each["name"], each["schema"], each.get("description", "")) for each in operation.get("parameters", ())
            ]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            fields = described["components"]["schemas"].get(body.get("$ref", "").rsplit("/", 1)[-1], {})
            needed = fields.get("required", ())
            rows += [
                (name + ("" if name in needed else "?"), schema, schema.get("description", ""))
                for name, schema in fields.get("properties", {}).items()
            ]
            if rows:
                said_of_any = any(said for _, _, said in rows)
                parts.append("| field | type | |\n|---|---|---|\n" if said_of_any else "| field | type |\n|---|---|\n")
                for name, schema, said in rows:
                    last = f" {' '.join(said.split())} |" if said_of_any else ""
                    parts.append(f"| `{name}` | {kind_of(schema)} |{last}\n")
                parts.append("\n")
    return "".join(parts)


def kind_of(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind_of(each) for each in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def write_pages(_: object) -> None:
    """Writes the pages that the program and other texts tell; those that stay the same are left alone."""
    pages = {"reference/command-line.md": write_command_line(), "reference/http.md": write_http()}
    for source, name in ELSEWHERE.items():
        pages[name] = lead((ROOT / source).read_text("utf-8"), (ROOT / source).parent, (DOCS / name).parent)
    for name, text in pages.items():
        page = DOCS / name
        page.parent.mkdir(exist_ok=True)
        if not page.exists() or page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")


def lead_out(_: object, page: str, text: list[str]) -> None:
    """Links of a page to files of the project outside the guide lead to their pages, or download them."""
    text[0] = lead(text[0], (DOCS / page).parent, (DOCS / page).parent)


def lead(text: str, lies: Path, shown: Path) -> str:
    """The text with its links changed from the folder where it lies to the folder of the page that shows it."""

    def one(link: re.Match[str]) -> str:
        file = (lies / link[1]).resolve()
        if not file.is_file() or (lies == shown and file.is_relative_to(DOCS)):
            return link[0]
        target = ELSEWHERE.get(file.relative_to(ROOT).as_posix())
        if target:
            return f"]({os.path.relpath(DOCS / target, shown)}{link[2]})"
        return f"](path:{os.path.relpath(file, shown)})"

    return re.sub(r"\]\(([^)#:\s]+)(#[^)\s]*|)\)", one, text)


def colon_is_no_type(_: object, what: str, name: str, subject: object, options: object, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in a property's docstring for its type; ours hold prose."""
    if what in ("attribute", "data", "property"):
        lines[:1] = [line.replace(": ", "; ", 1) for line in lines[:1]]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", lead_out)
    app.connect("autodoc-process-docstring", colon_is_no_type, priority=400)  # before Napoleon
