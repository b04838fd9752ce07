# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Files in folders and inside of the archives that products are delivered in."""

import glob
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

_ARCHIVE = re.compile(
    r'/vsi(?P<kind>zip|tar)/(?P<path>.*?\.(?P=kind))(?:/(?P<member>.*))?$', re.IGNORECASE
)


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
        archive: Whether a ``.zip`` or ``.tar`` is to be looked into, by its name.

    Returns:
        Sorted paths; those inside of an archive as GDAL spells them, ``/vsizip/a.zip/b.tif``.
    """
    found: set[str] = set()
    broken: dict[str, str] = {}
    for root in as_list(paths):
        for path in _walk(root):
            name = os.path.basename(path)
            if wanted(name):
                found.add(path)
            elif archive(name):
                try:
                    found.update(m for m in _members(path) if wanted(os.path.basename(m)))
                except (zipfile.BadZipFile, tarfile.ReadError, OSError) as error:
                    broken[path] = f'not a readable archive ({error})'
    return Listing(sorted(found), broken)


def _walk(root: str) -> Iterable[str]:
    """All files under a folder, or the one file, or what a pattern matches."""
    match = _ARCHIVE.match(root)
    if match:
        inside = (match['member'] or '').rstrip('/')
        files = _members(match['path'])
        prefix = f'{root.rstrip("/")}/' if inside else root
        return [file for file in files if file == root or file.startswith(prefix)]
    if os.path.isdir(root):
        return (
            os.path.join(folder, name)
            for folder, _, names in os.walk(root, followlinks=True)
            for name in names
        )
    if os.path.exists(root) or root.startswith('/vsi'):
        return [root]
    return sorted(glob.iglob(root, recursive=True))


def _members(archive: str) -> list[str]:
    """GDAL paths of the files in an archive."""
    if archive.lower().endswith('.zip'):
        with zipfile.ZipFile(archive) as zipped:
            return [f'/vsizip/{archive}/{name}' for name in zipped.namelist() if name[-1] != '/']
    with tarfile.open(archive, 'r:') as tarred:  # uncompressed, else GDAL could not seek in it
        return [f'/vsitar/{archive}/{member.name}' for member in tarred if member.isfile()]


def on_disk(path: str) -> str:
    """The file on disk that holds a path: itself, or the archive that it is in."""
    match = _ARCHIVE.match(path)
    return match['path'] if match else path


def stamp(path: str) -> tuple[int, int]:
    """Size and time of change (ns) of what holds a path; zeros if the disk does not have it."""
    try:
        status = os.stat(on_disk(path))
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
    try:
        if match['kind'].lower() == 'zip':
            with zipfile.ZipFile(match['path']) as zipped:
                return zipped.read(match['member'])
        with tarfile.open(match['path'], 'r:') as tarred:
            member = tarred.extractfile(match['member'])
            return member.read() if member else b''
    except (KeyError, zipfile.BadZipFile, tarfile.ReadError) as error:
        raise OSError(f'{path}: {error}') from None
