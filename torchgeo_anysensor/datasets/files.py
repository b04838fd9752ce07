# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Files in folders and inside of the archives that products are delivered in."""

import glob
import operator
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_ARCHIVE = re.compile(
    r'/vsi(?P<kind>zip|tar)/(?P<path>.*?\.(?P=kind))(?:/(?P<member>.*))?$', re.IGNORECASE
)


# RuntimeError: encrypted, or compressed in a way that Python does not know
_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, OSError, EOFError, RuntimeError)

#: Where data lie: a folder, file, pattern or archive, or several of them.
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class Listing(NamedTuple):
    """What was found: files, and the archives that could not be opened, with the reason."""

    files: list[str]
    broken: dict[str, str]


def as_list(paths: Paths) -> list[str]:
    """Each path as text."""
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    return [os.fspath(path) for path in several]


def list_files(
    paths: Paths, wanted: Callable[[str], bool], archive: Callable[[str], bool] = lambda name: False
) -> Listing:
    """List files by name, in folders at any depth and in archives.

    Args:
        paths: Folders, files, patterns (``*``), archives, or GDAL paths (``/vsizip/...``).
        wanted: Whether a file name (without folders) belongs.
        archive: Whether a ``.zip`` or ``.tar`` holds such files, by its name. One that is given
            itself may have any name.

    Returns:
        Sorted paths; those inside of an archive as GDAL spells them, ``/vsizip/a.zip/b.tif``.
    """
    found: set[str] = set()
    broken: dict[str, str] = {}
    for root in as_list(paths):
        try:
            candidates = _walk(root, broken)
        except _UNREADABLE as error:  # a GDAL path into an archive
            broken[root] = f'not a readable archive ({error})'
            continue
        for path in candidates:
            name = base_name(path)
            if wanted(name):
                found.add(path)
            elif archive(name) or (path == root and path.lower().endswith(('.zip', '.tar'))):
                try:
                    members = [m for m in _members(path) if wanted(base_name(m))]
                except _UNREADABLE as error:
                    broken[path] = f'not a readable archive ({error})'
                    continue
                found.update(members)
                if archive(name) and not members:
                    broken[path] = 'has none of the files that its name promises'
    return Listing(sorted(found), broken)


def _walk(root: str, broken: dict[str, str]) -> Iterable[str]:
    """All files under a folder, or the one file, or what a pattern matches; tells what is not there."""
    match = _ARCHIVE.match(root)
    if match:
        inside = (match['member'] or '').rstrip('/')
        files = _members(match['path'])
        prefix = f'{root.rstrip("/")}/' if inside else root
        return [file for file in files if file == root or file.startswith(prefix)]
    if os.path.isdir(root):
        return _walk_folder(root, broken)
    if os.path.exists(root) or root.startswith('/vsi'):
        return [root]
    found = sorted(glob.iglob(root, recursive=True))
    if not found:
        broken[root] = 'no such file or folder'
    return [
        file
        for path in found
        for file in (_walk_folder(path, broken) if os.path.isdir(path) else [path])
    ]


def _walk_folder(root: str, broken: dict[str, str]) -> Iterator[str]:
    """All files under a folder; where links make a circle, each once. Tells what cannot be read."""
    seen: set[tuple[int, int]] = set()
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(folder)
            with os.scandir(folder) as found:
                entries = sorted(found, key=operator.attrgetter('name'), reverse=True)
        except OSError as error:
            broken[folder] = f'cannot be read ({error.strerror})'
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.is_dir():
                folders.append(entry.path)
            else:
                yield entry.path


def _members(archive: str) -> list[str]:
    """GDAL paths of the files in an archive."""
    if archive.lower().endswith('.zip'):
        with zipfile.ZipFile(archive) as zipped:
            names = [name for name in zipped.namelist() if name[-1] != '/']
            return [f'/vsizip/{archive}/{_as_gdal(name)}' for name in names]
    with tarfile.open(archive, 'r:') as tarred:  # uncompressed, else GDAL could not seek in it
        names = [member.name for member in tarred if member.isfile()]
        return [f'/vsitar/{archive}/{_as_gdal(name)}' for name in names]


def _as_gdal(name: str) -> str:
    """Name of a member without what ``tar cf x.tar .`` puts in front, and GDAL leaves out."""
    return name.removeprefix('./')


def base_name(path: str) -> str:
    """Last component of a path, in a quarter of the time of ``os.path.basename``."""
    return path[path.rfind('/') + 1 :] if os.sep == '/' else os.path.basename(path)


def folder_name(path: str) -> str:
    """What is before the last component, in half the time of ``os.path.dirname``."""
    end = path.rfind('/')
    return (
        path[:end] if os.sep == '/' and end > 0 and path[end - 1] != '/' else os.path.dirname(path)
    )


def on_disk(path: str) -> str:
    """The file on disk that holds a path: itself, or the archive that it is in."""
    if path[:4].lower() != '/vsi':
        return path
    match = _ARCHIVE.match(path)
    return match['path'] if match else path


def stamp(path: str) -> tuple[int, int]:
    """Size and time of change (ns) of what holds a path; zeros if the disk does not have it."""
    return stamp_on_disk(on_disk(path))


def stamp_on_disk(path: str) -> tuple[int, int]:
    """:func:`stamp` of a path that is none of GDAL's."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def read_bytes(path: str) -> bytes:
    """Content of a small file, in a folder or in an archive.

    Raises:
        OSError: If it cannot be read.
    """
    match = _ARCHIVE.match(path)
    if match is None:
        return Path(path).read_bytes()
    member = match['member'] or ''
    try:
        if match['kind'].lower() == 'zip':
            with zipfile.ZipFile(match['path']) as zipped:
                names = {_as_gdal(name): name for name in zipped.namelist()}
                return zipped.read(names[member])
        with tarfile.open(match['path'], 'r:') as tarred:
            found = {_as_gdal(info.name): info for info in tarred}
            file = tarred.extractfile(found[member])
            return file.read() if file else b''
    except KeyError:
        raise OSError(f'{path}: is not in the archive') from None
    except _UNREADABLE as error:
        raise OSError(f'{path}: {error}') from None
