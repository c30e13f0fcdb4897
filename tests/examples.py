"""The shell and Python examples in the READMEs and the guide."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
GUIDE = sorted(
    page
    for folder in ("docs", "docs/how-to", "docs/how-it-works")
    for page in (ROOT / folder).glob("*.md")
    if page.name != "measured.md"  # it records the commands of past measurements
)


def code(text: str) -> list[str]:
    """Return the lines of all code blocks and indented commands, without comments."""
    lines = [line for block in re.findall(r"```\w+\n(.*?)```", text, re.S) for line in block.splitlines()]
    lines += re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return [stripped for line in lines if (stripped := re.sub(r"\s+#.*$", "", line).rstrip())]


def commands(page: Path) -> list[str]:
    """Return the Beholder commands of a page, each up to its first pipe."""
    lines = code(page.read_text("utf-8"))
    return [line.split(" | ")[0] for line in lines if line.startswith("beholder ")]


def run_commands(page: Path) -> list[str]:
    """Return the lines of the ``sh`` blocks of a page, which can be run as they are."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.S)
    lines = [re.sub(r"\s+#.*$", "", line).rstrip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def python(page: Path) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
