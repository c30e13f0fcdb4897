"""Captions in the metadata of image files, where photo programs read and write them.

Written is XMP's ``dc:description``: into JPEG and PNG, every other byte of which stays as it is, and beside all other
formats into a sidecar.
"""

import os
import shutil
import warnings
from pathlib import Path

from beholder.errors import PictureBroken, PictureError, PictureUnreadable
from beholder.files import atomic_file
from beholder.pictures.containers import JPEG_START, PNG_START, ContainerError, main_packets, with_packets
from beholder.pictures.photo_metadata import photo_metadata, sidecar_caption
from beholder.pictures.sidecar import find_sidecars, sidecar_path
from beholder.pictures.xmp import DESCRIPTION, XmpError, parse_xmp, set_description


class CaptionFileWarning(UserWarning):
    """A caption was written elsewhere than expected, or a file attribute could not be kept."""


def read_caption(path: Path) -> str | None:
    """Return the caption of a picture, in whatever form a program or a person wrote it; None if there is none.

    Sidecars come before XMP in the file, then IPTC and EXIF.
    """
    try:
        caption = sidecar_caption(path)
        return caption if caption is not None else photo_metadata(path.read_bytes(), path).caption
    except (OSError, ValueError, PictureError):
        return None


def write_caption(path: Path, caption: str) -> Path:
    """Write a caption into a JPEG or PNG, or into the sidecar of any other file or of one that has a sidecar already.

    It replaces the description in the default language. All other properties, segments, pictures and bytes stay, as do
    the file's owner, permissions, times and extended attributes. A link is followed. A picture with other hard links
    gets a sidecar, with a `CaptionFileWarning`, because replacing the file would part it from them.

    Returns:
        The file that was written: the picture or its sidecar.

    Raises:
        PictureBroken: The structure of the file or its XMP is damaged; it was left alone.
        PictureUnreadable: The file is write-protected, or can't be read or written; it was left alone.
    """
    try:
        target = path.resolve(strict=True) if path.is_symlink() else path
        data = target.read_bytes()
        beside = next((found for found in find_sidecars(path) if found == sidecar_path(path)), sidecar_path(target))
        is_shadowed = sidecar_caption(path) is not None  # by a sidecar of the RAW file or of another picture, perhaps
        if not (beside.exists() or is_shadowed or not data.startswith((JPEG_START, PNG_START))):
            _check_writable(target)
            if target.stat().st_nlink == 1:
                _replace_picture(target, _with_caption(data, caption))
                return path
            warnings.warn(
                f"{path}: has other hard links, so the caption is in {beside.name}", CaptionFileWarning, stacklevel=2
            )
        if beside.exists():
            beside = beside.resolve(strict=True)
            _check_writable(beside)
        _replace_sidecar(beside, set_description(beside.read_bytes() if beside.exists() else b"", caption))
        return beside
    except (ContainerError, XmpError) as error:
        raise PictureBroken(str(path), f"its XMP can't be edited: {error}; it was left alone") from error
    except OSError as error:
        reason = f"its caption can't be written: {error.strerror or error}; the file is as it was"
        raise PictureUnreadable(str(path), reason) from error
    except RuntimeError as error:  # a link to itself
        raise PictureUnreadable(str(path), "is a link that leads nowhere") from error


def _with_caption(data: bytes, caption: str) -> bytes:
    """Return a JPEG or PNG with the caption in every packet that has one, or else in the first, or in a new one."""
    packets = main_packets(data)
    described = [pair for pair in packets if parse_xmp(pair[1]).get(DESCRIPTION) is not None] or packets[:1]
    edited = [(segment, set_description(packet, caption)) for segment, packet in described]
    return with_packets(data, edited or [(None, set_description(b"", caption))])


def _check_writable(file: Path) -> None:
    if not file.stat().st_mode & 0o222:  # also for root, who could: archives protect their files in this way
        raise PermissionError(13, "the file is write-protected")


def _replace_picture(file: Path, content: bytes) -> None:
    with atomic_file(file) as scratch:
        scratch.write_bytes(content)
        _keep_owner(file, scratch)
        shutil.copystat(file, scratch)  # mode, times, flags and extended attributes


def _replace_sidecar(file: Path, content: bytes) -> None:
    """Replace a sidecar. Its time changes: photo programs compare it to notice edits."""
    with atomic_file(file) as scratch:
        scratch.write_bytes(content)
        if file.exists():
            times = scratch.stat()
            _keep_owner(file, scratch)
            shutil.copystat(file, scratch)
            os.utime(scratch, ns=(times.st_atime_ns, times.st_mtime_ns))


def _keep_owner(file: Path, scratch: Path) -> None:
    old, new = file.stat(), scratch.stat()
    if (old.st_uid, old.st_gid) == (new.st_uid, new.st_gid):
        return
    try:
        os.chown(scratch, old.st_uid, old.st_gid)
    except OSError:
        warnings.warn(
            f"{file}: its owner {old.st_uid}:{old.st_gid} could not be kept; it is now {new.st_uid}:{new.st_gid}",
            CaptionFileWarning,
            stacklevel=4,
        )
