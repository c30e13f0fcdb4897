"""Check the lock for known vulnerabilities; report if the advisory database cannot be reached.

python .ci/audit.py requirements.lock
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

OPTIONS = ("--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json")
ACCEPTED: dict[str, str] = {}  # vulnerabilities that do not affect us, with the reason


def audit(lock: Path) -> list[dict[str, Any]]:
    """Return pip-audit's result for each package: its name, and its ``vulns`` or a ``skip_reason``."""
    command = [sys.executable, "-m", "pip_audit", *OPTIONS, "--requirement", str(lock)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(run.stdout)["dependencies"]
    except ValueError:
        return [{"name": "pip-audit", "skip_reason": run.stderr.strip()[-300:]}]


def main(lock: Path) -> int:
    """Ask about one package first, so that an unreachable service is not asked two hundred times."""
    text = lock.read_text("utf-8")
    first = re.search(r"^pip==(?:.*\\\n)*.*\n", text, re.M)
    if first is None:
        print(f"{lock}: does not contain pip")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "one.lock"
        alone.write_text(first[0], "utf-8")
        answers = audit(alone)
    if all("skip_reason" in answer for answer in answers):
        print(f"not audited: the advisory database cannot be reached ({answers[0]['skip_reason']})")
        return 0
    answers = audit(lock)
    skipped = [answer["name"] for answer in answers if "skip_reason" in answer]
    found = [
        (answer["name"], answer["version"], vulnerability["id"], ", ".join(vulnerability["fix_versions"]) or "none yet")
        for answer in answers
        for vulnerability in answer.get("vulns", ())
        if not {vulnerability["id"], *vulnerability.get("aliases", ())} & ACCEPTED.keys()
    ]
    for name, version, identity, fixed in found:
        print(f"{name} {version}: {identity}; fixed in: {fixed}")
    print(f"audited {len(answers) - len(skipped)} packages, {len(skipped)} unknown; {len(found)} vulnerabilities")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
