"""The examples that a training skipped, listed in a file."""

import json
from pathlib import Path
from threading import Lock

from beholder.text.json_lines import json_line


class SkippedExamples:
    """Appends each skipped example with the reason to a JSON-lines file; each one once, even in a resumed training."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = Lock()
        self.names: set[str] = set()
        if path.exists():
            for line in path.read_text("utf-8", "replace").splitlines():
                try:
                    self.names.add(json.loads(line)["name"])
                except (ValueError, KeyError, TypeError):
                    continue  # a truncated line; its example is listed again when it is met again

    def __call__(self, name: str, reason: str) -> None:
        """List an example. Called from the decoding threads."""
        with self.lock:
            if name not in self.names:
                self.names.add(name)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json_line({"name": name, "reason": reason}) + "\n")
