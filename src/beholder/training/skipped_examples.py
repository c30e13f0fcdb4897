"""What a training could not use, named in a file."""

import json
from pathlib import Path
from threading import Lock


class SkippedExamples:
    """Names each example that can't be used, with the reason, as a line of JSON; each one once, resumed or not."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = Lock()
        self.names: set[str] = set()
        if path.exists():
            for line in path.read_text("utf-8").splitlines():
                try:
                    self.names.add(json.loads(line)["name"])
                except (ValueError, KeyError, TypeError):
                    continue  # a line that was cut short; its example is named again when it is met again

    def __call__(self, name: str, reason: str) -> None:
        """Called from the threads that decode."""
        with self.lock:
            if name not in self.names:
                self.names.add(name)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"name": name, "reason": reason}, ensure_ascii=False) + "\n")
