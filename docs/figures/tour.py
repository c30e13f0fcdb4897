"""What the code of the tour prints and draws, for its page in the guide."""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import nbclient

from computed import ROOT, Computed

sys.path.insert(0, str(ROOT / "docs"))
from tour_notebooks import notebook


def draw(_: Computed, path: Path) -> None:
    """Run the notebook, draw its pictures beside ``path``, and write what follows each code block to a JSON file."""
    made = notebook(in_chinese=False)
    resources = {"metadata": {"path": str(ROOT / "examples")}}
    nbclient.NotebookClient(
        made, timeout=1200, coalesce_streams=True, kernel_name="python3", resources=resources
    ).execute()
    code = [cell for cell in made.cells if cell.cell_type == "code"][1:]  # the first only changes the folder
    shown = [
        "".join(markdown(output, path.with_name(f"{path.stem}-{number}.png")) for output in cell.outputs)
        for number, cell in enumerate(code)
    ]
    text = json.dumps(shown, ensure_ascii=False, indent=1).replace(f"{ROOT}{os.sep}", "")  # in the titles of pictures
    path.with_suffix(".json").write_text(text, "utf-8")


def markdown(output: Any, picture: Path) -> str:
    """Return an output of a cell as Markdown; a picture is written to a file."""
    if output.output_type == "stream":
        return f"```text\n{output.text}```\n\n" if output.name == "stdout" else ""
    data = output.data
    if "application/vnd.jupyter.widget-view+json" in data:
        return ""
    if "image/png" in data:
        picture.write_bytes(base64.b64decode(data["image/png"]))
        return f"```{{image}} drawn/{picture.name}\n```\n\n"
    if "text/html" in data:
        return f"```{{raw}} html\n{data['text/html']}\n```\n\n"
    return f"```text\n{data['text/plain']}\n```\n\n"
