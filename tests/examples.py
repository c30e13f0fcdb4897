"""The examples in the README and in the guide: what can be typed, and what is Python."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
GUIDE = sorted(
    page
    for folder in ("docs", "docs/how-to", "docs/how-it-works")
    for page in (ROOT / folder).glob("*.md")
    if page.name != "measured.md"  # which tells what was typed when it was measured
)


def code(text: str) -> list[str]:
    """The lines of all code blocks and indented commands, without their remarks."""
    lines = [line for block in re.findall(r"```\w+\n(.*?)```", text, re.S) for line in block.splitlines()]
    lines += re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return [stripped for line in lines if (stripped := re.sub(r"\s+#.*$", "", line).rstrip())]


def commands(page: Path) -> list[str]:
    """What a page types for Beholder, up to where another program takes over."""
    lines = code(page.read_text("utf-8"))
    return [line.split(" | ")[0] for line in lines if line.startswith("beholder ")]


def run_commands(page: Path) -> list[str]:
    """Those of them that stand in a block of their own, which run as they are."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.S)
    lines = [re.sub(r"\s+#.*$", "", line).rstrip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def python(page: Path) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
