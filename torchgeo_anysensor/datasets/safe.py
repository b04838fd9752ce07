# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Metadata and cloud polygons of Sentinel-2 products, from the bytes of their files.

Every reader takes ``source``, the name of the file, for the text of its errors.

Source: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, Never
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

Level = Literal['L1C', 'L2A']

# In the order of band_id in the offsets, and of bandId in Spectral_Information.
BAND_IDS = (
    'B01',
    'B02',
    'B03',
    'B04',
    'B05',
    'B06',
    'B07',
    'B08',
    'B8A',
    'B09',
    'B10',
    'B11',
    'B12',
)

# Level-2Ap: the pilot production, baselines up to 02.06
_LEVELS: dict[str, Level] = {'Level-1C': 'L1C', 'Level-2A': 'L2A', 'Level-2Ap': 'L2A'}
# L2A_ and _2A: names of PSD 14.2, Level-2A up to baseline 02.06; IMAGE_ID: before December 2016
_QUANTIFICATION = (
    'QUANTIFICATION_VALUE',
    'BOA_QUANTIFICATION_VALUE',
    'L2A_BOA_QUANTIFICATION_VALUE',
)
_IMAGES = ('IMAGE_FILE', 'IMAGE_FILE_2A', 'IMAGE_ID', 'IMAGE_ID_2A')
_CONTENT = ('Image_Content_QI', 'L2A_Image_Content_QI')
_OFFSETS: dict[Level, str] = {'L1C': 'RADIO_ADD_OFFSET', 'L2A': 'BOA_ADD_OFFSET'}

_NOT_CLEAR: dict[Level, tuple[str, ...]] = {
    'L1C': ('CLOUD',),
    'L2A': (
        'SATURATED_DEFECTIVE_PIXEL',
        'CLOUD_SHADOW',
        'MEDIUM_PROBA_CLOUDS',
        'HIGH_PROBA_CLOUDS',
        'THIN_CIRRUS',
    ),
}

_GRID_CELL = r'[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V]'  # latitude band and 100 km square of MGRS
_TILE = re.compile(rf'(?<![A-Z0-9])T\d{{2}}{_GRID_CELL}(?![A-Z0-9])')
_NAMES = (
    # As ESA names products from December 2016 on
    re.compile(
        r'(?<![A-Z0-9])(?P<platform>S2[A-D])_MSI(?P<level>L1C|L2A)_(?P<start>\d{8}T\d{6})'
        rf'_N(?P<baseline>\d{{4}})_R(?P<orbit>\d{{3}})_T(?P<tile>\d{{2}}{_GRID_CELL})(?=_\d{{8}}T)'
    ),
    # As Element 84 does: S2A_32TPQ_20200614_0_L2A, and S2A_T32TPQ_20200614T101559_L2A
    re.compile(
        rf'(?<![A-Z0-9])(?P<platform>S2[A-D])_T?(?P<tile>\d{{1,2}}{_GRID_CELL})'
        r'_(?P<start>\d{8}(?:T\d{6})?)(?:_\d+)?_(?P<level>L1C|L2A)(?![A-Z0-9])'
    ),
)


@dataclass(frozen=True)
class SafeMetadata:
    """What ``MTD_MSIL1C.xml`` or ``MTD_MSIL2A.xml`` says.

    Args:
        level: Processing level.
        platform: As in STAC, ``'sentinel-2a'``.
        baseline: Processing baseline, ``'05.09'``.
        start: Start of the datatake, UTC without a zone, floored to the second.
        quantification: Divisor of the digital numbers, once the offset is added.
        offsets: Offset in DN by the name of the band, 0 where the product has none.
        tiles: Names such as ``'T32TPQ'``.
        cover: Percentage by class. Level-2A: all ``*_PERCENTAGE`` of the image content, without
            the suffix. Level-1C: ``CLOUD`` alone. What is no number is left out.
    """

    level: Level
    platform: str
    baseline: str
    start: pd.Timestamp
    quantification: float
    offsets: dict[str, float]
    tiles: tuple[str, ...]
    cover: dict[str, float]


@dataclass(frozen=True)
class ProductName:
    """What the name of a product says.

    Args:
        platform: ``'S2A'``.
        level: Processing level.
        start: Start of the datatake, UTC without a zone; midnight where the name has a date alone.
        baseline: Processing baseline, ``'05.09'``, if the name has one.
        orbit: Relative orbit, if the name has one.
        tile: Name such as ``'T32TPQ'``.
    """

    platform: str
    level: Level
    start: pd.Timestamp
    baseline: str | None
    orbit: int | None
    tile: str


class _NoDoctype(ElementTree.TreeBuilder):
    """Builder that refuses a document type, and with it every entity that is not built in."""

    def doctype(self, *_: Any) -> Never:
        """Called by the parser before it reads a declaration, whatever the encoding."""
        raise ValueError('a metadata file has no DOCTYPE, this one does')


def parse_xml(content: bytes, *, source: str) -> ElementTree.Element:
    """Parse a file that may come from anywhere.

    Args:
        content: The file.
        source: Its name, for errors.

    Returns:
        The root.

    Raises:
        ValueError: If the file has a DOCTYPE (entities could expand without end, or read other
            files), or is no XML.
    """
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(content)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: unknown encoding
        raise ValueError(f'{source}: not a readable XML file ({error})') from None
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from None
    return root


def read_metadata(content: bytes, *, source: str) -> SafeMetadata:
    """Read the metadata of a product, of any baseline.

    Args:
        content: ``MTD_MSIL1C.xml`` or ``MTD_MSIL2A.xml``.
        source: Its name, for errors.

    Returns:
        Calibration, time and content.

    Raises:
        ValueError: If the file is no such metadata, or says nothing about the calibration.
    """
    root = parse_xml(content, source=source)
    quantification = _number(
        _text(root, *_QUANTIFICATION, source=source), _QUANTIFICATION[0], source
    )
    if not quantification > 0:
        raise ValueError(f'{source}: {_QUANTIFICATION[0]}={quantification} is not positive')
    named = _text(root, 'PROCESSING_LEVEL', source=source)
    if named not in _LEVELS:
        raise ValueError(f'{source}: PROCESSING_LEVEL={named!r} is none of {", ".join(_LEVELS)}')
    level = _LEVELS[named]
    baseline = _text(root, 'PROCESSING_BASELINE', source=source)
    if re.fullmatch(r'\d{2}\.\d{2}', baseline) is None:
        raise ValueError(f'{source}: PROCESSING_BASELINE={baseline!r} is not like 05.09')
    paths = [element.text or '' for name in _IMAGES for element in root.iterfind(f'.//{{*}}{name}')]
    return SafeMetadata(
        level=level,
        platform=_text(root, 'SPACECRAFT_NAME', source=source).lower(),
        baseline=baseline,
        start=_start(root, source),
        quantification=quantification,
        offsets=_offsets(root, level, source),
        tiles=tuple(dict.fromkeys(tile for path in paths for tile in _TILE.findall(path)[:1])),
        cover=_cover(root, level),
    )


def clear_fraction(metadata: SafeMetadata) -> float:
    """Share of the observed pixels, 0 to 1, that are neither cloud, nor shadow, nor defective.

    Args:
        metadata: Of a product. Level-1C knows no shadow.

    Returns:
        The share, NaN where the metadata do not tell it.
    """
    cover, names = metadata.cover, _NOT_CLEAR[metadata.level]
    # The classes are percentages of the observed pixels, and NODATA_PIXEL is one of the tile:
    # without it they add up to 100, in products of baselines 02.05, 02.14, 04.00 and 05.10.
    if not cover.keys() >= set(names) or cover.get('NODATA_PIXEL', 0.0) >= 100:
        return math.nan
    return min(max(1 - sum(cover[name] for name in names) / 100, 0.0), 1.0)


def baseline_offset(baseline: str) -> float:
    """Offset in DN that a baseline implies, for a product whose metadata are missing.

    Args:
        baseline: ``'05.09'``, or as in names of products, ``'N0509'``.

    Returns:
        0 before 04.00, -1000 from then on.

    Raises:
        ValueError: If the baseline is not known (N9999 is a product of one's own Sen2Cor).
    """
    match = re.fullmatch(r'N?(\d{2})\.?(\d{2})', baseline)
    if match is None:
        raise ValueError(f'baseline={baseline!r} is not like 05.09 or N0509')
    major = int(match[1])
    if major > 5:
        raise ValueError(
            f'baseline={baseline!r}: offsets are known up to 05.99; this product needs its '
            'MTD_MSIL1C.xml or MTD_MSIL2A.xml'
        )
    return 0.0 if major < 4 else -1000.0


def product_name(path: str) -> ProductName | None:
    """Find the name of a product in a path.

    Args:
        path: Of a product, or of a file in it. The name may stand in any component, with or
            without an extension; the innermost counts. The names of ESA and of Element 84 are
            known.

    Returns:
        What the name says, or None if there is none.
    """
    for pattern in _NAMES:
        for match in reversed(list(pattern.finditer(path))):
            parts = match.groupdict()
            try:
                start = pd.Timestamp(parts['start'])
            except ValueError:  # the 40th of a month
                continue
            baseline, orbit = parts.get('baseline'), parts.get('orbit')
            return ProductName(
                platform=parts['platform'],
                level='L1C' if parts['level'] == 'L1C' else 'L2A',
                start=start,
                baseline=f'{baseline[:2]}.{baseline[2:]}' if baseline else None,
                orbit=int(orbit) if orbit else None,
                tile=f'T{parts["tile"]:0>5}',
            )
    return None


def read_cloud_polygons(content: bytes, *, source: str) -> list[tuple[shapely.Polygon, str]]:
    """Read the cloud mask that products have before baseline 04.00.

    From 04.00 on, ``MSK_CLASSI_B00.jp2`` takes its place: 60 m, three bands of 0 and 1, opaque
    cloud, cirrus, and snow or ice, in this order (``S2MaskBandNames`` of eoreader; Earth Engine
    names them MSK_CLASSI_OPAQUE, _CIRRUS and _SNOW_ICE).

    Args:
        content: ``QI_DATA/MSK_CLOUDS_B00.gml``.
        source: Its name, for errors.

    Returns:
        Polygons along the pixels of 60 m, in the CRS of the tile, with their kind, ``'OPAQUE'``
        or ``'CIRRUS'``. They may touch themselves, which shapely calls invalid.

    Raises:
        ValueError: If the file is no such mask.
    """
    root = parse_xml(content, source=source)
    if root.tag.rpartition('}')[2] != 'Mask':
        raise ValueError(f'{source}: not a mask; expected <eop:Mask>, the root is <{root.tag}>')
    polygons = []
    for feature in root.iterfind('.//{*}MaskFeature'):
        kind = (feature.findtext('{*}maskType') or '').strip()
        if not kind:
            raise ValueError(f'{source}: a MaskFeature has no maskType (OPAQUE or CIRRUS)')
        for polygon in feature.iterfind('.//{*}Polygon'):
            exterior = [_ring(ring, source) for ring in polygon.iterfind('{*}exterior//{*}posList')]
            interior = [_ring(ring, source) for ring in polygon.iterfind('{*}interior//{*}posList')]
            if len(exterior) != 1:
                raise ValueError(f'{source}: a polygon has {len(exterior)} exterior rings, not one')
            polygons.append((shapely.Polygon(exterior[0], interior), kind))
    return polygons


def _text(root: ElementTree.Element, *names: str, source: str) -> str:
    """Text of the first element with one of the names, in any namespace."""
    for name in names:
        text = (root.findtext(f'.//{{*}}{name}') or '').strip()
        if text:
            return text
    raise ValueError(
        f'{source}: has no {names[0]}; is it the metadata of a product '
        '(MTD_MSIL1C.xml, MTD_MSIL2A.xml)?'
    )


def _number(text: str | None, name: str, source: str) -> float:
    """Finite number."""
    try:
        value = float(text or '')
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f'{source}: {name}={text!r} is not a number')
    return value


def _start(root: ElementTree.Element, source: str) -> pd.Timestamp:
    """Start of the datatake."""
    text = _text(root, 'DATATAKE_SENSING_START', source=source)
    try:
        return pd.to_datetime(text, format='ISO8601', utc=True).tz_localize(None).floor('s')
    except ValueError:
        raise ValueError(f'{source}: DATATAKE_SENSING_START={text!r} is not a time') from None


def _offsets(root: ElementTree.Element, level: Level, source: str) -> dict[str, float]:
    """Offset in DN by band."""
    offsets = dict.fromkeys(BAND_IDS, 0.0)
    name = _OFFSETS[level]
    for element in root.iterfind(f'.//{{*}}{name}'):
        number = element.get('band_id', '')
        # Not int(): it takes -1, which would be B12
        if not re.fullmatch(r'[0-9]{1,2}', number) or int(number) >= len(BAND_IDS):
            raise ValueError(
                f'{source}: {name} has band_id={number!r}, not 0 to {len(BAND_IDS) - 1}'
            )
        offsets[BAND_IDS[int(number)]] = _number(element.text, f'{name} {number}', source)
    return offsets


def _cover(root: ElementTree.Element, level: Level) -> dict[str, float]:
    """Percentages that are numbers; other processors than ESA's write N/A."""
    texts: dict[str, str | None]
    if level == 'L1C':
        texts = {'CLOUD': root.findtext('.//{*}Cloud_Coverage_Assessment')}
    else:
        texts = {
            element.tag.rpartition('}')[2].removesuffix('_PERCENTAGE'): element.text
            for name in _CONTENT
            for element in root.iterfind(f'.//{{*}}{name}/*')
            if element.tag.endswith('_PERCENTAGE')
        }
    cover = {}
    for name, text in texts.items():
        try:
            value = float(text or '')
        except ValueError:
            continue
        if math.isfinite(value):
            cover[name] = value
    return cover


def _ring(element: ElementTree.Element, source: str) -> NDArray[np.float64]:
    """Corners ``(N, 2)`` of a ring; a third coordinate is left out."""
    try:
        size = int(element.get('srsDimension', '2'))
        values = np.array((element.text or '').split(), dtype=np.float64)
        ring = values.reshape(-1, size)[:, :2]
    except ValueError as error:
        raise ValueError(f'{source}: not a list of points ({error})') from None
    if size < 2 or len(ring) < 4 or not np.isfinite(ring).all():
        raise ValueError(f'{source}: a ring needs 4 finite points of 2 or 3 coordinates')
    return ring
