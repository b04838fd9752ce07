# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Files that a process keeps open, and the bands of a view behind one handle."""

import atexit
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import NamedTuple
from xml.sax.saxutils import escape

import rasterio
from rasterio.io import DatasetReader

from .files import stamp
from .geometry import crs_text, raster_crs
from .grid import Grid

#: Formats that are read. A list, because GDAL would follow a VRT to other files and to URLs even if
#: its name ends with ``.tif``.
DRIVERS = ('GTiff', 'COG', 'JP2OpenJPEG', 'JP2KAK', 'JP2ECW', 'JP2MrSID')

# What a process keeps open, below the 1024 files that it may open by default: files that are read
# alone, and views, each of one file or of several that GDAL keeps in a pool. It takes the size of the
# pool from the environment alone, at the first read.
_ALONE, _VIEWS = 64, 256
os.environ.setdefault('GDAL_MAX_DATASET_POOL_SIZE', '384')

# What float32 holds without loss, and GDAL's names for it
_EXACT = {
    'uint8': 'Byte',
    'int8': 'Int8',
    'uint16': 'UInt16',
    'int16': 'Int16',
    'float32': 'Float32',
}

#: Path of a file, and number of a band in it, from 1.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """Bands behind one open handle, and what rasterio would work out anew when it is asked."""

    src: DatasetReader
    grid: Grid | None  #: its pixels, if they are north up
    dtype: str | None  #: of all bands, if float32 holds it without loss
    jpeg2000: bool

    def env(self) -> AbstractContextManager[object]:
        """What GDAL must be told while it reads."""
        # GDAL fills a truncated JPEG 2000 with zeros, silently, if it decodes with several threads.
        return rasterio.Env(GDAL_NUM_THREADS='1') if self.jpeg2000 else nullcontext()


class _Joined(DatasetReader):
    """Bands of several files, of which nobody wants masks: rasterio asks for them at each read."""

    mask_flag_enums = ()


class Layers(NamedTuple):
    """Bands of a view that lie on the same pixels, to be read at once."""

    raster: Raster
    indexes: list[int]  #: of its bands, from 1
    rows: list[int]  #: places in the view
    places: list[Place]  #: where they are on disk

    @property
    def grid(self) -> Grid | None:
        """Their pixels, if they are north up and float32 holds the numbers without loss."""
        return self.raster.grid if self.raster.dtype else None


def open_raster(path: str) -> DatasetReader:
    """Open a raster, or return the handle that this process already holds.

    A GDAL handle that a forked worker inherits shares its file position with the parent and reads
    wrong pixels without an error, and one that two threads use mixes them up, so handles are kept
    for each apart. A file that was written anew is opened anew.

    Raises:
        rasterio.errors.RasterioIOError: If the file cannot be read or is in no known format.
    """
    return raster(path).src


def raster(path: str) -> Raster:
    """The open file; to look whether it has changed takes 3 us, a hundredth of opening it."""
    return _open(path, *_reader(), stamp(path))


def layers(places: Sequence[Place]) -> list[Layers]:
    """Open the bands of a view.

    Bands of one type on one grid have one handle, in however many files they are: a read costs
    30 us before the first pixel. A file that was written anew is opened anew within a second.

    Args:
        places: Of each band of the view.

    Returns:
        The bands, those together that lie on the same pixels.

    Raises:
        rasterio.errors.RasterioIOError: If a file cannot be read or is in no known format.
    """
    places = tuple(places)
    return _layers(places, *_reader(), _versions(places, int(monotonic())))


def look_again() -> None:
    """Look at all files at the next read: a new dataset finds them as they are."""
    _versions.cache_clear()


@lru_cache(maxsize=_VIEWS)
def _versions(places: tuple[Place, ...], second: int) -> tuple[tuple[int, ...], ...]:
    """Versions of files, looked at once in a *second*: 34 files take 0.1 ms, a 20th of their patch."""
    return tuple([stamp(path) for path in dict.fromkeys([path for path, _ in places])])


def _reader() -> tuple[int, int]:
    """Process and thread: each has handles of its own."""
    return os.getpid(), threading.get_ident()


@lru_cache(maxsize=_ALONE)
def _open(path: str, pid: int, thread: int, version: tuple[int, ...]) -> Raster:
    """Open *path* once in a *thread* of the process *pid*, for each *version* of the file."""
    # rasterio.open takes one driver, and looking at the driver afterwards is too late: a warped VRT
    # opens its source, maybe a URL, as it is opened
    with rasterio.Env():
        src = DatasetReader(path, driver=list(DRIVERS))
    dtype = src.dtypes[0] if len(set(src.dtypes)) == 1 and src.dtypes[0] in _EXACT else None
    return Raster(src, _grid(src), dtype, jpeg2000=src.driver.startswith('JP2'))


def _grid(src: DatasetReader) -> Grid | None:
    """Its pixels, if they are north up."""
    t = src.transform
    if src.crs is None or t.b or t.d or t.e >= 0:
        return None
    # The object that datasets have for this CRS: to compare two of them is slow
    crs = raster_crs(crs_text(src.crs.to_wkt()))
    return Grid(crs, t.c, t.f, t.a, -t.e, src.width, src.height)


@lru_cache(maxsize=_VIEWS)
def _layers(
    places: tuple[Place, ...], pid: int, thread: int, versions: tuple[tuple[int, ...], ...]
) -> list[Layers]:
    """Open the bands of a view once in a *thread* of the process *pid*."""
    groups: dict[object, list[int]] = {}
    files = {path: raster(path) for path in dict.fromkeys(path for path, _ in places)}
    for row, (path, _) in enumerate(places):
        file = files[path]
        alike = file.dtype and (file.grid, file.dtype, file.jpeg2000)
        groups.setdefault(alike or path, []).append(row)
    found = []
    for rows in groups.values():
        own = [places[row] for row in rows]
        paths = {path for path, _ in own}
        whole = files[own[0][0]]
        indexes = [index for _, index in own]
        if len(paths) > 1:
            key = f'{pid} {thread} {versions}'
            whole = Raster(_join(own, whole, key), whole.grid, whole.dtype, whole.jpeg2000)
            indexes = list(range(1, len(own) + 1))
        found.append(Layers(whole, indexes, rows, own))
    return found


def _join(places: Sequence[Place], like: Raster, key: str) -> DatasetReader:
    """Bands of several files as those of one.

    GDAL opens the files when they are first read and keeps them in a pool, where it finds them by
    name and options alone. It would go on with a file that was since written anew, and with one that a
    forked process inherited: a *key* among the options tells these apart. (The driver is not told of
    an option that begins with ``@``.)
    """
    src = like.src
    t, size = src.transform, f'xSize="{src.width}" ySize="{src.height}"'
    bands = [
        f'<VRTRasterBand dataType="{_EXACT[str(like.dtype)]}" band="{band}"><SimpleSource>'
        f'<SourceFilename shared="0">{escape(path)}</SourceFilename>'
        f'<OpenOptions><OOI key="@reader">{escape(key)}</OOI></OpenOptions>'
        f'<SourceBand>{index}</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="0" yOff="0" {size}/>'
        '</SimpleSource></VRTRasterBand>'
        for band, (path, index) in enumerate(places, 1)
    ]
    text = (
        f'<VRTDataset rasterXSize="{src.width}" rasterYSize="{src.height}">'
        f'<GeoTransform>{t.c!r}, {t.a!r}, 0, {t.f!r}, 0, {t.e!r}</GeoTransform>{"".join(bands)}'
        '</VRTDataset>'
    )
    with rasterio.Env():
        return _Joined(text, driver=['VRT'])


# GDAL is gone before Python drops the handles: closing them then fails, noisily.
atexit.register(_open.cache_clear)
atexit.register(_layers.cache_clear)
