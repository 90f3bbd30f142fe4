"""What the members of an untrusted archive must be: checked before anything is written."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from pathlib import PurePosixPath, PureWindowsPath

MAX_RATIO = 200
"""How many times its packed size a member, or all of them together, may have. Images hardly shrink,
lists of paths shrink to a thirtieth; archives made to fill a disk begin at a thousand."""
MAX_SMALL = 2**20
"""Bytes that may be there whatever the ratio: a short list of equal lines shrinks further."""
MAX_NAME = 255
"""Bytes that file systems allow in the name of a file."""


class TooLarge(Exception):
    """What would fill a disk or the memory; the text says why."""


class Refused(Exception):
    """A member that must not be written; the text says why."""

    def __init__(self, member: str, why: str) -> None:
        super().__init__(f"its member {member!r:.200} {why}")


class MemberNames:
    """The names of an archive's members, each of them once."""

    def __init__(self) -> None:
        self._files: set[PurePosixPath] = set()
        self._folders: set[PurePosixPath] = {PurePosixPath()}

    def add(self, path: PurePosixPath, name: str, *, folder: bool) -> None:
        """`Refused` if no file of that name can be made beside those that were added."""
        if any(len(part.encode("utf-8", "surrogateescape")) > MAX_NAME for part in path.parts):
            raise Refused(name, f"has a name of more than {MAX_NAME} bytes")
        if not folder:
            if path in self._files:
                raise Refused(name, "is there twice")
            self._files.add(path)
        parents = [path, *path.parents] if folder else path.parents
        self._folders.update(parents)
        both = path if path in self._folders and not folder else None
        if both or not self._files.isdisjoint(parents):
            raise Refused(name, "is a file and a folder")


def inside(name: str) -> PurePosixPath | None:
    """The relative path that a member's name means; None if it leaves its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    leaves = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
    return None if leaves or "\0" in name else path


def zip_path(info: zipfile.ZipInfo) -> PurePosixPath:
    """Its path by the name that is stored in the archive: zipfile's own `filename` is cleaned."""
    path = inside(info.orig_filename)
    if path is None:
        raise Refused(info.orig_filename, "would land outside of the folder")
    return path


def check_zip_member(info: zipfile.ZipInfo) -> None:
    """`Refused` unless it is an unencrypted file or folder that stays inside."""
    zip_path(info)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused(info.filename, "is a link or a device; allowed in a zip: files and folders")
    if info.flag_bits & 1:
        raise Refused(info.filename, "is encrypted")
    check_expansion(f"its member '{info.filename}'", info.file_size, info.compress_size)


def check_tar_members(members: list[tarfile.TarInfo], updates: bool = False) -> None:
    """`Refused` for members that leave the folder, for devices, and for links that point outside.

    Stricter than tarfile's filter `data`, which makes absolute names relative and judges a link by
    what earlier members left on the disk. Here no member may lie behind a link, and no link may
    climb after it has descended, so that the text of a link alone decides. `updates`: see
    `unpack`.
    """
    links = {PurePosixPath(member.name) for member in members if member.issym()}
    files: set[PurePosixPath] = set()
    names = MemberNames()
    for member in members:
        path = PurePosixPath(member.name)
        if inside(member.name) is None:
            raise Refused(member.name, "would land outside of the folder")
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise Refused(member.name, "is a device or a pipe")
        if _crosses(links, path) or (path in links and not member.issym()):
            raise Refused(member.name, "would be written through a link")
        if member.issym() and not _stays(path.parent, PurePosixPath(member.linkname)):
            raise Refused(member.name, f"is a link that points outside ('{member.linkname}')")
        if member.islnk():
            _check_hard(member, links, files)
        if not (updates and member.isreg() and path in files):
            names.add(path, member.name, folder=member.isdir())
        if member.isreg() or member.islnk():
            files.add(path)


def _check_hard(
    member: tarfile.TarInfo, links: set[PurePosixPath], files: set[PurePosixPath]
) -> None:
    other = PurePosixPath(member.linkname)
    if inside(member.linkname) is None or other in links or _crosses(links, other):
        raise Refused(member.name, f"is a link that points outside ('{member.linkname}')")
    if other not in files:
        raise Refused(
            member.name, f"is a hard link to '{member.linkname}', which is no file before it"
        )


def _crosses(links: set[PurePosixPath], path: PurePosixPath) -> bool:
    return bool(links) and not links.isdisjoint(path.parents)


def _stays(folder: PurePosixPath, link: PurePosixPath) -> bool:
    climbs = [part == ".." for part in link.parts]
    up = climbs.index(False) if False in climbs else len(climbs)
    return not link.is_absolute() and not any(climbs[up:]) and up <= len(folder.parts)


def check_expansion(what: str, size: int, packed: int) -> None:
    """`TooLarge` if `what` has that many bytes and so few when it is packed."""
    if size > MAX_SMALL + MAX_RATIO * packed:
        raise TooLarge(
            f"{what} expands to {size:,} bytes or more from {packed:,}; allowed: {MAX_RATIO} times "
            "its packed size"
        )
