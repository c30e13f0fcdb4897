"""Install Beholder in a bare Debian as an ordinary user, use it, and remove it; needs root and debootstrap.

python packaging/try_debian.py                         # a checkout, with uv, as the README says
python packaging/try_debian.py dist/*.whl --with pipx  # a wheel, with pipx

A root of Debian's required packages, python3-venv and certificates is made, and packaging/try_install.sh run in it.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from debian_root import TRUST, make_root, require_root, run_in, torch_index

ROOT = Path(__file__).parent.parent
USER, HOME = "1000:1000", "/home/person"


def main() -> int:
    """Make the root, run the script in it, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=Path, help="a wheel or an sdist; otherwise, the checkout")
    parser.add_argument("--with", dest="installer", choices=("uv", "pipx"), default="uv")
    parser.add_argument("--suite", default="bookworm", help="release of Debian")
    parser.add_argument("--torch", type=Path, help="folder with PyTorch's wheel, where its index can't be reached")
    arguments = parser.parse_args()
    require_root()
    scratch = Path(tempfile.mkdtemp(prefix="debian-", dir="/var/tmp"))
    root = scratch / "root"
    try:
        start = time.monotonic()
        make_root(root, ["python3-venv"], arguments.suite)
        run_in(root, ["useradd", "--create-home", "--uid=1000", "person"], check=True)
        print(f"Debian {arguments.suite} made in {time.monotonic() - start:.0f} s", flush=True)
        home = root / HOME.lstrip("/")
        checkout = home / "checkout"
        checkout.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", str(checkout)], input=archive.stdout, check=True)
        package = "checkout"
        if arguments.package is not None:
            package = shutil.copy(arguments.package, home).removeprefix(f"{home}/")
        run_in(root, ["chown", "--recursive", USER, HOME], check=True)
        with torch_index(arguments.torch, root) if arguments.torch else contextlib.nullcontext():
            command = ["bash", "checkout/packaging/try_install.sh", arguments.installer, package]
            environment = {**TRUST, "HOME": HOME, "LANG": "C.UTF-8"}
            return run_in(root, command, user=USER, environment=environment, folder=HOME).returncode
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    sys.exit(main())
