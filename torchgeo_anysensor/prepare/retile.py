# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Products written again as Cloud-Optimised GeoTIFFs with small blocks."""

import glob
import os
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from tqdm import tqdm

from ..datasets.files import list_files, on_disk, read_bytes, stamp
from ..datasets.handles import DRIVERS
from ..datasets.safe import product_name
from ..datasets.scan import check_whole

_RASTER = re.compile(r'\.(tiff?|jp2)$', re.IGNORECASE)
_ARCHIVE = re.compile(r'\.(zip|tar)$', re.IGNORECASE)
#: A source, as GDAL spells it, and where it goes.
Job = tuple[str, Path]


class Report(NamedTuple):
    """What :func:`retile` did."""

    written: int  #: rasters
    there: int  #: files that were there already
    copied: int  #: files that are no rasters
    problems: dict[str, str]  #: files that could not be written, and why


def retile(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    block: int = 128,
    workers: int = 1,
) -> Report:
    """Write the products of a folder again, with the same pixels, so that patches are read faster.

    Rasters become GeoTIFFs (GDAL's COG driver, zstd, no overviews) of the same name, JPEG 2000 with
    the extension ``.tif``; all other files are copied. Archives are unpacked. What is there and not
    older than its source is left as it is, and nothing is ever there in part.

    Args:
        source: Folder, product, archive or file.
        out: Folder to write.
        block: Width and height of a block in pixels, a multiple of 16.
        workers: Processes.

    Returns:
        What was done. A file that cannot be read is a problem, and hinders no other.

    Raises:
        FileNotFoundError: If there is no file in *source*.
        ValueError: If *out* lies in *source* or the other way round, or *block* is no such number.
    """
    if block < 16 or block % 16:
        raise ValueError(f'block={block} must be a multiple of 16')
    root, target = Path(on_disk(os.fspath(source))).resolve(), Path(out).resolve()
    if root == target or root in target.parents or target in root.parents:
        raise ValueError(f'{out}: must lie outside of {source}, which it would mix with')
    listing = list_files(source, _is_data, lambda name: bool(_ARCHIVE.search(name)))
    problems = dict(listing.broken)
    if not root.exists() or not (listing.files or problems):
        raise FileNotFoundError(f'{source}: there is no such file, or nothing in it')
    jobs = list(_targets(listing.files, os.fspath(source), Path(out)))
    todo = [job for job in jobs if not _is_written(*job)]
    names, blocks = [job[0] for job in todo], [block] * len(todo)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            reasons = list(_progress(pool.map(_write, todo, blocks), len(todo)))
    else:
        reasons = list(_progress(map(_write, todo, blocks), len(todo)))
    problems |= {name: reason for name, reason in zip(names, reasons) if reason}
    done = [name for name, reason in zip(names, reasons) if not reason]
    written = sum(bool(_RASTER.search(name)) for name in done)
    return Report(written, len(jobs) - len(todo), len(done) - written, problems)


def _is_data(name: str) -> bool:
    """Whether a file of a listing is to be written; archives are looked into instead."""
    return not (name.startswith('.') or _ARCHIVE.search(name))


def _progress(reasons: Iterable[str], total: int) -> Iterator[str]:
    """Draw a bar if it takes longer than two seconds."""
    return iter(tqdm(reasons, total=total, desc='Files', unit='file', delay=2, disable=None))


# -- names -----------------------------------------------------------------------------------


def _targets(files: Iterable[str], source: str, out: Path) -> Iterator[Job]:
    """Where files go: to the same folders, and those of an archive to the one that it lies in.

    Raises:
        ValueError: If two files would have one name.
    """
    base = source if os.path.isdir(source) else os.path.dirname(on_disk(source))
    if _is_product(os.path.basename(os.path.abspath(base))):
        # The name of the folder tells what its files do not
        base = os.path.dirname(os.path.abspath(base))
    members: dict[str, list[str]] = {}  # by archive, or by the file itself
    for file in files:
        members.setdefault(on_disk(file), []).append(file)
    known: dict[Path, str] = {}
    for holder, inside in members.items():
        place = Path(os.path.relpath(os.path.abspath(os.path.dirname(holder)), base or '.'))
        names = [Path(file.partition(holder)[2].strip('/') or Path(holder).name) for file in inside]
        if inside != [holder] and any(len(name.parts) == 1 for name in names):
            place /= _ARCHIVE.sub('', os.path.basename(holder))
        for file, name in zip(inside, names):
            own = name.with_suffix('.tif') if name.suffix.lower() == '.jp2' else name
            if any(part.startswith('.') and part != '.' for part in (place / own).parts):
                continue  # as .torchgeo_anysensor, where the datasets keep what they know of headers
            target = out / place / own
            if target in known:
                raise ValueError(f'{file} and {known[target]} would both become {target}')
            known[target] = file
            yield file, target


def _is_product(name: str) -> bool:
    """Whether a folder is a Sentinel-2 product by its name."""
    return name.upper().endswith('.SAFE') or product_name(name) is not None


# -- files -----------------------------------------------------------------------------------


def _is_written(source: str, target: Path) -> bool:
    """Whether a file is there, and not older than its source."""
    return target.exists() and target.stat().st_mtime_ns >= stamp(source)[1]


def _write(job: Job, block: int) -> str:
    """Write one file as a whole; return why it cannot be, or an empty text."""
    source, target = job
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left_over in target.parent.glob(f'.{glob.escape(target.name)}.*.part'):
            left_over.unlink()
        part = target.with_name(f'.{target.name}.{uuid.uuid4().hex}.part')
        try:
            if _RASTER.search(source):
                _write_raster(source, part, block)
            else:
                part.write_bytes(read_bytes(source))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
        return str(error).removeprefix(f'{source}: ')
    return ''


def _write_raster(source: str, target: Path, block: int) -> None:
    """Write a raster with other blocks.

    Raises:
        ValueError: If it was cut off.
        rasterio.errors.RasterioError: If it cannot be read.
    """
    options: dict[str, str | int] = {
        'COMPRESS': 'ZSTD',
        'PREDICTOR': 'YES',
        'BLOCKSIZE': block,
        'OVERVIEWS': 'NONE',
    }
    # PAM: no files beside the target. One thread: GDAL fills a truncated JPEG 2000 with zeros,
    # silently, if it decodes with several
    with rasterio.Env(GDAL_PAM_ENABLED='NO', GDAL_NUM_THREADS='1'), warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with DatasetReader(source, driver=list(DRIVERS)) as src:
            check_whole(source, src)
            if src.dtypes[0] in ('uint8', 'uint16'):
                # JPEG 2000 of 15 bits would be packed, which the predictor cannot read
                options['NBITS'] = 8 * np.dtype(src.dtypes[0]).itemsize
            rasterio.shutil.copy(src, target, driver='COG', BIGTIFF='IF_SAFER', **options)
