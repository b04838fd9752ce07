# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Metadata of Landsat products, from the bytes of their ``*_MTL`` file.

Source: Landsat 8-9 Calibration and Validation Algorithm Description Document, LSDS-1747.
"""

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .safe import parse_xml

# LANDSAT_METADATA_FILE in Collection 2, L1_METADATA_FILE before
_ROOT = 'METADATA_FILE'


def read_mtl(content: bytes, *, source: str) -> dict[str, str]:
    """Read the metadata of a Landsat product.

    A Level-2 file repeats names of the Level-1 product that it comes from further down. The first
    counts, which is the product's own: ``PROCESSING_LEVEL`` is L2SP, and ``REFLECTANCE_MULT_BAND_1``
    to 7 are of surface reflectance. Bands 8 and 9, radiances and thermal constants stand there for
    Level-1 alone.

    Args:
        content: ``*_MTL.txt``, ``*_MTL.json`` or ``*_MTL.xml``; the content tells which.
        source: Its name, for errors.

    Returns:
        Value by name, as text, without the groups; the same from all three.

    Raises:
        ValueError: If the file is none of these.
    """
    content = content.removeprefix(codecs.BOM_UTF8).lstrip()
    read = {b'{': _from_json, b'<': _from_xml}.get(content[:1], _from_odl)
    values: dict[str, str] = {}
    for name, value in read(content, source):
        values.setdefault(name, value)
    if not values:
        raise _not_mtl(source, 'it has no values')
    return values


def acquired(values: Mapping[str, str]) -> pd.Timestamp:
    """Time of the scene's centre.

    Args:
        values: Of :func:`read_mtl`.

    Returns:
        UTC without a zone, floored to the second.

    Raises:
        ValueError: If the date or the time is missing, or is none.
    """
    names = ('DATE_ACQUIRED', 'SCENE_CENTER_TIME')
    missing = [name for name in names if not values.get(name)]
    if missing:
        raise ValueError(f'the metadata lack {" and ".join(missing)}')
    date, time = (values[name] for name in names)
    try:
        return pd.to_datetime(f'{date}T{time.rstrip("Z")}', format='ISO8601').floor('s')
    except ValueError:
        raise ValueError(
            f'DATE_ACQUIRED={date!r}, SCENE_CENTER_TIME={time!r}: not a time'
        ) from None


def _from_odl(content: bytes, source: str) -> Iterator[tuple[str, str]]:
    """Lines ``NAME = VALUE`` of the Object Description Language."""
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise _not_mtl(source, str(error)) from None
    groups: list[str] = []
    for line in lines:
        name, equals, value = (part.strip() for part in line.partition('='))
        if name == 'GROUP':
            groups.append(value)
        elif name == 'END_GROUP':
            groups[-1:] = []
        elif equals and groups and groups[0].endswith(_ROOT):
            yield name, value.strip('"')
    if groups:
        raise _not_mtl(source, f'GROUP = {groups[-1]} has no end')


def _from_json(content: bytes, source: str) -> Iterator[tuple[str, str]]:
    """Leaves of nested objects."""
    try:
        tree = json.loads(content.decode(), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise _not_mtl(source, str(error)) from None
    for name, value in tree:
        if name.endswith(_ROOT) and isinstance(value, _Pairs):
            yield from _leaves(value)


def _from_xml(content: bytes, source: str) -> Iterator[tuple[str, str]]:
    """Elements without children."""
    root = parse_xml(content, source=source)
    if not root.tag.endswith(_ROOT):
        raise _not_mtl(source, f'the root is <{root.tag}>')
    for element in root.iter():
        if len(element) == 0 and element is not root:
            yield element.tag, (element.text or '').strip()


class _Pairs(list[tuple[str, Any]]):
    """A JSON object; a dict would keep the last of two values with one name."""


def _leaves(pairs: _Pairs) -> Iterator[tuple[str, str]]:
    """Names and values in the order of the file, at any depth."""
    stack = pairs[::-1]
    while stack:
        name, value = stack.pop()
        if isinstance(value, _Pairs):
            stack += value[::-1]
        else:
            yield name, str(value)


def _not_mtl(source: str, reason: str) -> ValueError:
    """Error for a file that is something else, or broken."""
    return ValueError(
        f'{source}: not a Landsat metadata file ({reason}); expected *_MTL.txt with lines '
        'NAME = VALUE in GROUP = LANDSAT_METADATA_FILE, *_MTL.json or *_MTL.xml'
    )
