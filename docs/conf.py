"""Sphinx configuration of the guide (`make docs`). Neither the build nor its pages fetch anything."""

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
from beholder.server.app import create_app
from beholder.server.service import LoadedModels, Service
from beholder.server.settings import ServerSettings
from beholder.weights.known_models import DATE, KNOWN_MODELS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ELSEWHERE = {  # documents of the project that are also pages of the guide
    "src/beholder/weights/mini_heads/README.md": "models/mini.md",
    "src/beholder/weights/mini_bridge/README.md": "models/mini-bridge.md",
    "src/beholder/weights/mini_generator/README.md": "models/mini-generator.md",
    "recipes/clip/README.md": "models/recipes.md",
    "CHANGELOG.md": "models/changelog.md",
    **{f"benchmarks/{result.name}": f"benchmarks/{result.name}" for result in ROOT.glob("benchmarks/*.md")},
}
HTTP_HEAD = """# The HTTP interface

Fields with a question mark are optional. Errors have the form of OpenAI's API: `error` with `message`, `type`, `param`
and `code`. If the server has a key, every request must carry `Authorization: Bearer KEY`.

"""
WHICH_MODEL = """# Which model?

`mini` is there from the start and small; for better results, choose by purpose and machine. The short names work
wherever a model is named: `--model siglip2`, `DualEncoder.from_pretrained("clip")`. `beholder models --known` prints
this table, and `beholder pull NAME` prints size and licence, downloads, and checks what it downloaded. As of {date}:

| name | for | from | weights | licence | published result | source |
|---|---|---|---|---|---|---|
{rows}

The results are those that the publishers state, on their data; measure on your own with `beholder evaluate`. "Weights"
is their size in single precision.
"""

project = "Beholder"
version = release = beholder.__version__
project_copyright = "the authors of Beholder"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["figures", "locale", "templates"]

# `make docs` builds the guide twice, the second time with -D language=zh_CN. The reference stays English.
locale_dirs = ["locale"]
gettext_compact = False
gettext_location = False

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
smartquotes = False  # two hyphens are an option, not a dash
default_role = "any"  # `DualEncoder.match` in a docstring is a link
suppress_warnings = ["ref.any"]  # … and plain code where the target is not in the guide

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
templates_path = ["templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/language.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_css_files = ["style.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}
copybutton_prompt_text = ""
copybutton_exclude = ".linenos, .gp, .go"


def write_command_line() -> str:
    """Return the help of all commands as Markdown, with their examples as code blocks."""
    group = typer.main.get_command(command_line)
    with typer.Context(group, info_name="beholder") as context:
        text = get_docs_for_click(obj=group, ctx=context, name="beholder", title="The command line")
    text = text.replace("\b\n", "")  # Click's marker for preformatted paragraphs
    return re.sub(r"((?:^beholder .*\n)+)", r"```sh\n\1```\n", text, flags=re.M)


def write_http() -> str:
    """Return every route with its parameters as Markdown, from the server's OpenAPI document."""
    described = create_app(Service(ServerSettings(), LoadedModels)).app.openapi()
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
                documented = any(description for _, _, description in rows)
                parts.append("| field | type | |\n|---|---|---|\n" if documented else "| field | type |\n|---|---|\n")
                for name, schema, description in rows:
                    last = f" {' '.join(description.split())} |" if documented else ""
                    parts.append(f"| `{name}` | {kind_of(schema)} |{last}\n")
                parts.append("\n")
    return "".join(parts)


def kind_of(schema: dict[str, Any]) -> str:
    """Summarize a JSON schema in a few words."""
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind_of(each) for each in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def write_known_models() -> str:
    """Return the page "Which model?" with the table of recommended models."""
    rows = [
        f"| {', '.join(f'`{name}`' for name in model.names)} | {model.purpose} | {model.budget} "
        f"| {model.gigabytes:.1f} GB | {model.licence} | {model.figure} | {model.source} |"
        for model in KNOWN_MODELS
    ]
    return WHICH_MODEL.format(date=DATE, rows="\n".join(rows))


def write_pages(_: object) -> None:
    """Write the generated pages; unchanged files are left alone, so that Sphinx does not rebuild them."""
    pages = {
        "reference/command-line.md": write_command_line(),
        "reference/http.md": write_http(),
        "how-to/which-model.md": write_known_models(),
    }
    for source, name in ELSEWHERE.items():
        pages[name] = relocate_links((ROOT / source).read_text("utf-8"), (ROOT / source).parent, (DOCS / name).parent)
    for name, text in pages.items():
        page = DOCS / name
        page.parent.mkdir(exist_ok=True)
        if not page.exists() or page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")


def rewrite_links(_: object, page: str, text: list[str]) -> None:
    """Rewrite links to files outside the guide: to their page if they have one, otherwise to a download."""
    text[0] = relocate_links(text[0], (DOCS / page).parent, (DOCS / page).parent)


def show_outputs(app: Sphinx, page: str, text: list[str]) -> None:
    """Let what each block of the tour prints and draws follow it (`docs/figures/tour.py`)."""
    if page == "tour" and app.builder.format == "html":
        outputs = iter(json.loads((DOCS / "drawn" / "tour.json").read_text("utf-8")))
        text[0] = re.sub(r"```python\n.*?```\n", lambda block: f"{block[0]}\n{next(outputs)}", text[0], flags=re.S)


def relocate_links(text: str, source: Path, page: Path) -> str:
    """Rewrite relative links from the folder of the source to the folder of the page."""

    def one(link: re.Match[str]) -> str:
        file = (source / link[1]).resolve()
        if not file.is_file() or (source == page and file.is_relative_to(DOCS)):
            return link[0]
        target = ELSEWHERE.get(file.relative_to(ROOT).as_posix())
        if target:
            return f"]({os.path.relpath(DOCS / target, page)}{link[2]})"
        return f"](path:{os.path.relpath(file, page)})"

    return re.sub(r"\]\(([^)#:\s]+)(#[^)\s]*|)\)", one, text)


def keep_colons(_: object, what: str, name: str, subject: object, options: object, lines: list[str]) -> None:
    """Keep Napoleon from parsing the text before a colon in a property's docstring as its type."""
    if what in ("attribute", "data", "property"):
        lines[:1] = [line.replace(": ", "; ", 1) for line in lines[:1]]


def setup(app: Sphinx) -> None:
    """Register the extension hooks."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", rewrite_links)
    app.connect("source-read", show_outputs)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before Napoleon
