"""Captions, keywords and places in the metadata of image files, where photo programs read and write them.

Written is XMP: into JPEG and PNG, every other byte of which stays as it is, and into a sidecar of all other formats.
"""

import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from beholder.errors import PictureBroken, PictureError, PictureUnreadable
from beholder.files import atomic_file
from beholder.pictures.containers import JPEG_START, PNG_START, ContainerError, main_packets, with_packets
from beholder.pictures.photo_metadata import photo_metadata, sidecar_caption
from beholder.pictures.sidecar import find_sidecars, sidecar_path
from beholder.pictures.xmp import DESCRIPTION, SUBJECT, XmpError, add_properties, parse_xmp, set_description


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


def read_keywords(path: Path) -> list[str]:
    """Return the keywords of a picture, in whatever form a program or a person wrote them, without names of persons."""
    try:
        tags = photo_metadata(path.read_bytes(), path).tags
    except (OSError, ValueError, PictureError):
        return []
    return [tag for tag in tags if not tag.startswith("person:")]


@dataclass(frozen=True)
class MetadataChanges:
    """What to write into the metadata of a picture.

    Attributes:
        caption: replaces the description in the default language; None leaves it.
        keywords: added to those that there are.
        hierarchy: keywords as paths from the top, such as ``("animals", "dogs")``, added likewise.
        city: written if there is none.
        country: written if there is none.
    """

    caption: str | None = None
    keywords: tuple[str, ...] = ()
    hierarchy: tuple[tuple[str, ...], ...] = ()
    city: str | None = None
    country: str | None = None

    def added(self, packet: bytes) -> bytes:
        """Return an XMP packet with all but the caption."""
        places = {"photoshop:City": self.city, "photoshop:Country": self.country}
        paths = ["|".join(path) for path in self.hierarchy if len(path) > 1]
        items = {"dc:subject": self.keywords, "lr:hierarchicalSubject": paths}
        texts = {name: text for name, text in places.items() if text}
        return add_properties(packet, texts, items) if texts or self.keywords or paths else packet

    def applied(self, packet: bytes) -> bytes:
        """Return an XMP packet with all of it; empty packets are replaced by a new one."""
        return self.added(packet if self.caption is None else set_description(packet, self.caption))


def write_caption(path: Path, caption: str) -> Path:
    """Write a caption as `write_metadata` does."""
    return write_metadata(path, MetadataChanges(caption))


def write_metadata(path: Path, changes: MetadataChanges) -> Path:
    """Write into the XMP of a JPEG or PNG, or into the sidecar of any other file or of one that has a sidecar already.

    All other properties, segments, pictures and bytes stay, as do the file's owner, permissions, times and extended
    attributes. A link is followed. A picture with other hard links gets a sidecar, with a `CaptionFileWarning`, because
    replacing the file would part it from them.

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
                _replace_picture(target, _with_changes(data, changes))
                return path
            warnings.warn(
                f"{path}: has other hard links, so the caption is in {beside.name}", CaptionFileWarning, stacklevel=2
            )
        if beside.exists():
            beside = beside.resolve(strict=True)
            _check_writable(beside)
        _replace_sidecar(beside, changes.applied(beside.read_bytes() if beside.exists() else b""))
        return beside
    except (ContainerError, XmpError) as error:
        raise PictureBroken(str(path), f"its XMP can't be edited: {error}; it was left alone") from error
    except OSError as error:
        reason = f"its caption can't be written: {error.strerror or error}; the file is as it was"
        raise PictureUnreadable(str(path), reason) from error
    except RuntimeError as error:  # a link to itself
        raise PictureUnreadable(str(path), "is a link that leads nowhere") from error


def _with_changes(data: bytes, changes: MetadataChanges) -> bytes:
    """Return a JPEG or PNG with the caption in every packet that has one, and the rest in the one with keywords.

    If there is none, they are in the first packet, or in a new one.
    """
    packets = main_packets(data)
    if not packets:
        new = changes.applied(b"")
        return with_packets(data, [(None, new)]) if new else data
    parsed = [parse_xmp(packet) for _, packet in packets]
    edited = {}
    if changes.caption is not None:
        for index in [index for index, found in enumerate(parsed) if DESCRIPTION in found] or [0]:
            edited[index] = set_description(packets[index][1], changes.caption)
    tagged = next((index for index, found in enumerate(parsed) if SUBJECT in found), 0)
    before = edited.get(tagged, packets[tagged][1])
    if (after := changes.added(before)) != before:
        edited[tagged] = after
    return with_packets(data, [(packets[index][0], packet) for index, packet in edited.items()]) if edited else data


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
