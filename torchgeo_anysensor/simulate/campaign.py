# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Simulate places, satellites and dates, and write them all."""

import csv
import logging
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .classes import LAND_COVER
from .clouds import make_clouds
from .fields import generator, majority
from .hls import write_hls
from .landcover import CELL_M, Landscape, make_landscape
from .landsat import write_landsat
from .place import (
    MAX_PLACES,
    Place,
    landsat_passes,
    make_place,
    sentinel2_passes,
    spectrometer_passes,
)
from .raster import write_tif
from .safe import write_safe
from .scene import Acquisition, Ground, Scene, make_ground, make_haze, sunlight
from .spectrometer import write_band_table, write_spectrometer

_log = logging.getLogger(__name__)

_README = """\
Simulated scenes with known truth, made by torchgeo_anysensor {version}.

These are no satellite images. Landscapes, spectra, clouds and noise come from formulas, so that
the land cover of every pixel is known. Files, names, scales, no-data values and quality bands are
those of the real products, and a reader of the real products reads them.

seed {seed}, {places} place(s) of {size_m} m x {size_m} m, EPSG:32631

sentinel2/  Sentinel-2 Level-2A, SAFE folders, processing baseline 05.09
landsat/    Landsat 8 and 9 Collection 2 Level-2
hls/        HLS v2.0 S30 and L30
landcover/  land cover at 10 m on the Sentinel-2 grid; classes.csv has names and colours

{more}To make the same files again: torchgeo-anysensor simulate DIR, or simulate_scenes(DIR), with the
same seed, places and size.
"""

_SPECTROMETER = """\
spectrometer/  An imaging spectrometer: all bands in a GeoTIFF for each pass, bands.csv says what they are

"""


def simulate_scenes(
    root: str | Path,
    *,
    seed: int = 0,
    places: int = 3,
    size_m: int = 6000,
    workers: int = 2,
    spectrometer: bool = False,
) -> Path:
    """Write simulated scenes with known land cover as real product trees.

    Each place has two dates, in spring and summer, seen by Sentinel-2 and Landsat and once more by
    HLS from either. The same arguments give the same bytes, on one machine and with one version of
    the package and of GDAL. The folder appears when all is written.

    Args:
        root: Folder to make. It may exist if it is empty.
        seed: Of landscapes, states, clouds and noise.
        places: Number of places, 1 to 6, each in a tile of its own.
        size_m: Side of a place in metres, a multiple of 60 from 600 on.
        workers: Threads that write at the same time; without effect on the files.
        spectrometer: Write what an imaging spectrometer sees of the places as well; it takes longer
            than all the others together.

    Returns:
        *root*

    Raises:
        ValueError: If an argument is out of range, or *root* has something in it.
    """
    root = Path(root).absolute()
    _check(root, places=places, size_m=size_m, workers=workers)
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
    try:
        (draft / 'landcover').mkdir()
        if spectrometer:
            (draft / 'spectrometer').mkdir()
            write_band_table(draft / 'spectrometer')
        for number in range(places):
            place = make_place(number, size_m=size_m)
            _write_place(draft, place, seed=seed, workers=workers, spectrometer=spectrometer)
        _write_classes(draft / 'landcover' / 'classes.csv')
        more = _SPECTROMETER if spectrometer else ''
        text = _README.format(
            version=_version(), seed=seed, places=places, size_m=size_m, more=more
        )
        (draft / 'README.txt').write_text(text)
        draft.chmod(0o755)
        if root.exists():
            root.rmdir()
        draft.rename(root)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _log.info('wrote %d simulated place(s) to %s', places, root)
    return root


def _check(root: Path, *, places: int, size_m: int, workers: int) -> None:
    """Check the arguments before anything is written.

    Raises:
        ValueError: If one is out of range.
    """
    if not 1 <= places <= MAX_PLACES:
        raise ValueError(f'places={places} is not in 1 to {MAX_PLACES}')
    if size_m < 600 or size_m % 60:
        raise ValueError(
            f'size_m={size_m} is not a multiple of 60 from 600 on; all pixel grids meet every 60 m'
        )
    if workers < 1:
        raise ValueError(f'workers={workers} is below 1')
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f'{root} exists and is not an empty folder; give a new one or empty it')


def _version() -> str:
    """Version of the package."""
    try:
        return version('torchgeo-anysensor')
    except PackageNotFoundError:
        return '(not installed)'


def _write_place(root: Path, place: Place, *, seed: int, workers: int, spectrometer: bool) -> None:
    """Write the truth and all products of one place."""
    _log.info('simulating place %d, tile %s', place.number, place.tile)
    landscape = make_landscape(generator(seed, 'map', place.number), size=place.cells)
    _write_truth(root / 'landcover', landscape, place=place)
    seasons = {a.season for a in (*sentinel2_passes(), *landsat_passes())}
    grounds = {
        season: make_ground(landscape, seed=seed, place=place.number, season=season)
        for season in sorted(seasons)
    }

    def observe(acquisition: Acquisition, *, date: int) -> None:
        ground = grounds[acquisition.season]
        scene = _observe(
            landscape, ground, acquisition=acquisition, place=place, seed=seed, date=date
        )
        if acquisition.platform.code == 'SPEC':
            write_spectrometer(root / 'spectrometer', scene, place=place, seed=seed)
            return
        if acquisition.platform.code.startswith('S2'):
            write_safe(root / 'sentinel2', scene, place=place, seed=seed)
        else:
            write_landsat(root / 'landsat', scene, place=place, seed=seed)
        write_hls(root / 'hls', scene, place=place, seed=seed)

    with ThreadPoolExecutor(workers) as pool:
        passes = [sentinel2_passes(), landsat_passes()]
        if spectrometer:
            passes.append(spectrometer_passes())
        jobs = [
            pool.submit(observe, acquisition, date=date)
            for of_satellite in passes
            for date, acquisition in enumerate(of_satellite)
        ]
        for job in jobs:
            job.result()


def _observe(
    landscape: Landscape,
    ground: Ground,
    *,
    acquisition: Acquisition,
    place: Place,
    seed: int,
    date: int,
) -> Scene:
    """What a satellite could see of a place at a time.

    Every second acquisition of a place has clouds, and those of one date in two sensors have other
    clouds, as they pass on other days. The first Sentinel-2 pass of the second place and the last
    Landsat pass of the first end at the edge of the swath.
    """
    size = place.cells
    rng = generator(seed, 'air', place.number, acquisition.platform.code)
    cover = rng.uniform(0.06, 0.16) if (place.number + date) % 2 else 0.0
    clouds = make_clouds(rng, size=size, cover=cover, sun=acquisition.sun, cell_m=CELL_M)
    missing = np.zeros((size, size), dtype=np.bool_)
    if (place.number, acquisition.platform.code) in ((1, 'S2A'), (0, 'LC09')):
        missing = _swath_edge(size, share=rng.uniform(0.18, 0.26))
    light = sunlight(landscape, acquisition.sun)
    return Scene(ground, clouds, light, make_haze(rng, size=size), missing, acquisition)


def _swath_edge(size: int, *, share: float) -> NDArray[np.bool_]:
    """Cells beyond a slanted edge that cuts *share* off the upper side."""
    axis = np.arange(size)
    # The orbit leans 12 degrees from north
    return axis[None, :] + 0.21 * axis[:, None] < share * size


def _write_truth(folder: Path, landscape: Landscape, *, place: Place) -> None:
    """Write the land cover of a place at 10 m."""
    res = 10
    codes = majority(
        landscape.classes[place.inner, place.inner], factor=res // CELL_M, count=max(LAND_COVER) + 1
    )
    write_tif(
        folder / f'landcover_{place.tile}.tif',
        codes,
        grid=place.grid(res),
        nodata=0,
        tags={f'class_{code}': cover.name for code, cover in LAND_COVER.items()},
        colormap={0: (0, 0, 0), **{code: cover.color for code, cover in LAND_COVER.items()}},
        description='land cover',
    )


def _write_classes(path: Path) -> None:
    """Write code, name and colour of the classes."""
    with path.open('w', newline='') as file:
        rows = csv.writer(file, lineterminator='\n')
        rows.writerow(('code', 'name', 'color'))
        for code, cover in LAND_COVER.items():
            rows.writerow((code, cover.name, '#{:02x}{:02x}{:02x}'.format(*cover.color)))
