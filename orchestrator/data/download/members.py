"""Members of archives from strangers: which of them must not be written, and why."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from pathlib import PurePosixPath, PureWindowsPath


class Refused(Exception):
    """A member that must not be written, and why."""

    def __init__(self, member: str, why: str) -> None:
        super().__init__(f"its member '{member}' {why}")


def inside(name: str) -> PurePosixPath | None:
    """The path below its folder that a member's name means; None if it leaves that folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    leaves = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
    return None if leaves or "\0" in name else path


def zipped_path(info: zipfile.ZipInfo) -> PurePosixPath:
    """Where it goes, by the name that is written in the archive: zipfile's own is tidied up."""
    path = inside(info.orig_filename)
    if path is None:
        raise Refused(info.orig_filename, "would land outside of the folder")
    return path


def check_zipped(info: zipfile.ZipInfo) -> None:
    """`Refused` unless it is a readable file or folder that stays inside."""
    zipped_path(info)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused(info.filename, "is a link or a device; allowed in a zip: files and folders")
    if info.flag_bits & 1:
        raise Refused(info.filename, "is encrypted")


def check_tarred(members: list[tarfile.TarInfo]) -> None:
    """`Refused` for members that leave the folder, for devices, and for links that point outside.

    Stricter than the filter `data`, which tidies up absolute names and follows chains of links.

    No member lies beyond a link, and no link climbs after it has descended: so each link can be
    judged by its text alone.
    """
    links = {PurePosixPath(member.name) for member in members if member.issym()}
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
            _check_hard(member, links)


def _check_hard(member: tarfile.TarInfo, links: set[PurePosixPath]) -> None:
    other = PurePosixPath(member.linkname)
    if inside(member.linkname) is None or other in links or _crosses(links, other):
        raise Refused(member.name, f"is a link that points outside ('{member.linkname}')")


def _crosses(links: set[PurePosixPath], path: PurePosixPath) -> bool:
    return bool(links) and not links.isdisjoint(path.parents)


def _stays(folder: PurePosixPath, link: PurePosixPath) -> bool:
    climbs = [part == ".." for part in link.parts]
    up = climbs.index(False) if False in climbs else len(climbs)
    return not link.is_absolute() and not any(climbs[up:]) and up <= len(folder.parts)
