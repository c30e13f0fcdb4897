"""The picture files below some folders, each once, however many links lead to it.

A path is kept with its links resolved. A link to a file outside of the folders is kept as it is, as the only way to it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from beholder.album.file_stamp import FileStamp, stamp_of
from beholder.album.raw_pairs import find_pairs
from beholder.album.store import files
from beholder.album.store.connection import Store
from beholder.pictures.walk import walk


class FileScan:
    """One pass over some folders.

    Args:
        store: the album.
        roots: folders or files, their links resolved.
        exclude: patterns as in a ``.gitignore``, relative to each folder.
        on_failure: called with paths that can't be used, and the reason.
        videos: find videos, too.

    Attributes:
        found: all pictures with their stamps.
        passed_over: sentences about files and folders that were left out.
        companions: the RAW files that are left out, each with the JPEG of the same shot.
        kept: folders whose pictures stay in the album for now: those that can't be listed or are not mounted.
        mounts: mount points below the roots.
    """

    def __init__(
        self,
        store: Store,
        roots: Sequence[bytes],
        exclude: Sequence[str],
        on_failure: Callable[[bytes, str], None],
        videos: bool = False,
    ):
        self.store = store
        self.on_failure = on_failure
        self.found: dict[bytes, FileStamp] = {}
        self.kept = files.unmounted(store, roots)
        self.mounts: set[bytes] = set()
        self.passed_over: list[str] = []
        self._links: dict[bytes, dict[bytes, FileStamp]] = {}  # by the path that they lead to
        self._hard_links: dict[tuple[int, int], list[bytes]] = {}
        self._folders: dict[Path, tuple[Path, bytes | None]] = {}  # real path, and mount point if it is in one
        for point in self.kept:
            on_failure(point, "is not mounted; its pictures stay in the album")
        tops = [Path(os.fsdecode(root)) for root in roots]
        self._skip = {top: exclude_filter(top, exclude) for top in tops}
        for top in tops:
            for path in walk(top, skip=self._skip[top], videos=videos, on_passed_over=self.passed_over.append):
                self._add(path, top)
        for target, links in self._links.items():
            link = min(links)
            if target not in self.found and self._includes(target):  # its folder was entered through the link
                self.found[target] = links[link]
            elif target not in self.found and not files.has_file(store, target):
                self.found[link] = links[link]
        for names in self._hard_links.values():
            self._keep_one(names)
        self.companions = find_pairs(store, self.found)
        for raw in self.companions:
            del self.found[raw]

    def _add(self, path: Path, top: Path) -> None:
        raw = os.fsencode(path)
        try:
            status = path.stat()
        except OSError as error:
            self.on_failure(raw, "broken link" if path.is_symlink() else f"can't be read: {error.strerror}")
            return
        if stat.S_ISDIR(status.st_mode):
            self.kept.append(raw)
            self.on_failure(raw, "this folder can't be listed; its pictures stay in the album")
            return
        if path.parent not in self._folders:
            self._folders[path.parent] = path.parent.resolve(), _mount_point(path.parent, top)
        folder, mount = self._folders[path.parent]
        if mount is not None:
            self.mounts.add(mount)
        target = os.fsencode(path.resolve() if path.is_symlink() else folder / path.name)
        stamp = stamp_of(path, status)
        if target != raw:
            self._links.setdefault(target, {})[raw] = stamp
            return
        self.found[raw] = stamp
        if status.st_nlink > 1:
            self._hard_links.setdefault((status.st_dev, status.st_ino), []).append(raw)

    def _includes(self, target: bytes) -> bool:
        """Return whether a path is below a root, neither hidden nor excluded."""
        path = Path(os.fsdecode(target))
        for top, skip in self._skip.items():
            if top in path.parents:
                inside = [path, *path.parents][: len(path.parts) - len(top.parts)]
                if not any(one.name.startswith(".") or (skip and skip(one, one != path)) for one in inside):
                    return True
        return False

    def _keep_one(self, names: list[bytes]) -> None:
        """Of the hard links to one file, keep the one that is in the album already, or else the first."""
        indexed = files.paths_by_inode(self.store, self.found[names[0]].inode)
        known = [path for path in indexed if _same_file(path, names[0])]
        inside = [path for path in sorted(names) if path in known]
        keep = inside[0] if inside else None if known else min(names)
        for path in names:
            if path != keep:
                del self.found[path]


def exclude_filter(root: Path, patterns: Sequence[str]) -> Callable[[Path, bool], bool] | None:
    """Return the ``skip`` of `walk` for patterns as in a ``.gitignore``, or None without patterns."""
    if not patterns:
        return None
    from pathspec import GitIgnoreSpec

    spec = GitIgnoreSpec.from_lines(patterns)

    def skip(path: Path, is_folder: bool) -> bool:
        return spec.match_file(f"{path.relative_to(root).as_posix()}{'/' if is_folder else ''}")

    return skip


def _mount_point(folder: Path, top: Path) -> bytes | None:
    """Return the mount point below the root that a folder is in, or None."""
    while folder != top and top in folder.parents:
        if folder.is_mount():
            return os.fsencode(folder)
        folder = folder.parent
    return None


def _same_file(path: bytes, other: bytes) -> bool:
    try:
        return Path(os.fsdecode(path)).samefile(os.fsdecode(other))
    except OSError:
        return False
