"""A bare Debian in a folder, made by debootstrap, in which commands are run with chroot; needs root and debootstrap."""

import functools
import http.server
import os
import shlex
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
OWN_CERTIFICATES = Path("usr/local/share/ca-certificates")
TORCH_HOST = "download.pytorch.org"
TRUST = dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"), f"/{CERTIFICATES}")


def make_root(folder: Path, packages: Sequence[str], suite: str = "bookworm") -> None:
    """Install a minimal Debian into a folder, which trusts the certificates that were added to this machine's.

    Args:
        folder: where; must not exist.
        packages: what to install beside Debian's required packages.
        suite: the release of Debian.

    Raises:
        subprocess.CalledProcessError: debootstrap failed.
    """
    include = ",".join(["ca-certificates", *packages])
    order = ["debootstrap", "--variant=minbase", f"--include={include}", suite, str(folder)]
    subprocess.run(order, check=True, stdout=subprocess.DEVNULL)
    for file in Path("/", OWN_CERTIFICATES).glob("*.crt"):
        shutil.copy(file, folder / OWN_CERTIFICATES)
    for name in ("hosts", "resolv.conf"):
        (folder / "etc" / name).write_text(Path("/etc", name).read_text("utf-8"), "utf-8")
    run_in(folder, ["update-ca-certificates"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def order_in(
    root: Path,
    command: Sequence[str],
    *,
    user: str = "0:0",
    environment: Mapping[str, str] | None = None,
    folder: str = "/",
    bound: Mapping[Path, str] | None = None,
    writable: Sequence[str] | None = None,
) -> list[str]:
    """Return the command line that runs a command inside a root, with mounts that end when it does.

    Args:
        root: the folder.
        command: the program and its arguments.
        user: numbers of user and group.
        environment: all variables but PATH, which may be among them.
        folder: the working directory.
        bound: folders of this machine, and where they appear inside, read-only.
        writable: None, or the only folders that can be written: as in a container with a read-only root.
    """
    variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    variables |= environment or {}
    base = shlex.quote(str(root))
    script = [f"mount --rbind {base} {base}", f"mount --rbind /dev {base}/dev", f"mount -t proc proc {base}/proc"]
    script.append(f"mount --rbind /sys {base}/sys")
    for source, target in (bound or {}).items():
        inside = shlex.quote(str(root / target.lstrip("/")))
        script += [f"mkdir -p {inside}", f"mount --bind {shlex.quote(str(source))} {inside}"]
        script.append(f"mount -o remount,bind,ro {inside}")
    if writable is not None:
        for name in writable:
            inside = shlex.quote(str(root / name.lstrip("/")))
            script.append(f"mount --bind {inside} {inside}")
        script.append(f"mount -o remount,bind,ro {base}")
    inner = ["env", "-i", f"--chdir={folder}", *(f"{name}={value}" for name, value in variables.items()), *command]
    chroot = ["chroot", f"--userspec={user}", "--groups=", str(root), *inner]
    script.append(f"exec {shlex.join(chroot)}")
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "\n".join(script)]


def run_in(
    root: Path, command: Sequence[str], check: bool = False, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a command inside a root, and wait for it; options as for `order_in` and ``subprocess.run``."""
    own = ("user", "environment", "folder", "bound", "writable")
    placed = {name: options.pop(name) for name in own if name in options}
    return subprocess.run(order_in(root, command, **placed), check=check, text=True, **options)  # type: ignore[arg-type, call-overload, no-any-return]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@contextmanager
def torch_index(wheels: Path, root: Path) -> Iterator[None]:
    """Let programs in a root find PyTorch's wheels at download.pytorch.org/whl/cpu where this machine can't reach it.

    A server on loopback, with a certificate that only this root trusts, stands in for the index and serves a folder.

    Args:
        wheels: a folder with wheels of torch.
        root: the root; its hosts and certificates are changed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        served = Path(scratch, "served")
        index = served / "whl" / "cpu" / "torch"
        index.mkdir(parents=True)
        for wheel in wheels.glob("torch-*.whl"):
            (index / wheel.name).symlink_to(wheel.resolve())
        links = "".join(f'<a href="{file.name.replace("+", "%2B")}">{file.name}</a>\n' for file in index.iterdir())
        (index / "index.html").write_text(links, "utf-8")
        key, certificate = Path(scratch, "key.pem"), Path(scratch, "certificate.pem")
        order = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={TORCH_HOST}"]
        order += ["-addext", f"subjectAltName=DNS:{TORCH_HOST}", "-addext", "basicConstraints=critical,CA:FALSE"]
        subprocess.run([*order, "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
        with (root / CERTIFICATES).open("a", encoding="utf-8") as trusted:
            trusted.write(certificate.read_text("utf-8"))
        with (root / "etc" / "hosts").open("a", encoding="utf-8") as hosts:
            hosts.write(f"\n127.0.0.1 {TORCH_HOST}\n")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), functools.partial(QuietHandler, directory=served))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


def require_root() -> None:
    """Exit with a message unless roots can be made and entered here."""
    if os.geteuid() != 0:
        raise SystemExit("run it as root: chroot and mounts need it")
    if shutil.which("debootstrap") is None:
        raise SystemExit("debootstrap is not installed: apt-get install debootstrap")
