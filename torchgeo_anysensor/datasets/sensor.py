# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The base of all sensor datasets: calibrated views on native grids."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pyproj import CRS as PROJ_CRS
from torchgeo.datasets import RGBBandsMissingError
from torchgeo.datasets.utils import GeoSlice

from ..sensors import QA, Band, Sensor
from ..types import SensorSample
from .catalog import Catalog
from .collate import merge_views, stack_views
from .files import Paths, as_list
from .geometry import crs_text, lon_lat, project, raster_crs
from .grid import Grid
from .handles import look_again
from .index import Tile
from .plot import draw_panels, view_panels
from .quality import is_bad
from .read import read_bands

_CELSIUS_TO_KELVIN = 273.15
_LEVELS = {'top of atmosphere': 0.0, 'surface': 1.0, None: math.nan}


class SensorDataset(Catalog):
    """Acquisitions of one sensor, read on one of its native grids.

    An ordinary TorchGeo dataset: index it with ``ds[x, y, t]`` slices, join it with ``&`` and
    ``|``, sample it with TorchGeo's samplers. Its samples are :class:`~..types.SensorSample`.

    Where the query's pixels agree with the file's they come untouched; where they are finer and
    nest, each is repeated; otherwise they are resampled once (bilinear, area average towards
    coarser pixels; nearest for quality bands). Tiles that one pass saw are one acquisition, laid
    over each other: the first valid pixel wins. If several acquisitions answer a query, the
    earliest valid pixel wins and ``t`` and the facts of the bands are the earliest acquisition's.

    Its samples are in its :attr:`crs`: what lies in another UTM zone is warped once.
    (:class:`MultiSensorDataset` reads each patch in the zone of its acquisition instead.)

    Subclasses name their :attr:`sensor`.
    """

    def __init_subclass__(cls) -> None:
        """Take what TorchGeo's base asks for from the sensor's table."""
        super().__init_subclass__()
        if hasattr(cls, 'sensor'):
            cls.filename_regex = cls.sensor.filename_regex
            cls.date_format = cls.sensor.date_format

    def __init__(
        self,
        paths: Paths = 'data',
        *,
        bands: Sequence[str] | None = None,
        res: float | None = None,
        crs: PROJ_CRS | str | None = None,
        calibrate: bool = True,
        qa: QA | Sequence[QA] | bool = True,
        max_cloud: float | None = None,
        time_series: bool = False,
        strict: bool = False,
        cache: bool | str | Path = True,
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        """Find the acquisitions and read the headers that the cache does not know.

        Args:
            paths: Folders to search, files, patterns, or archives.
            bands: Names as in the sensor's table. By default the reflectance bands whose native
                grid is *res*, or, without *res*, the grid of the red band.
            res: Pixel size in units of *crs*; by default the finest native grid among *bands*.
            crs: Of the index and of what is read; by default the first acquisition's.
            calibrate: Deliver reflectance and kelvin; otherwise digital numbers.
            qa: Mask by the sensor's quality bands; one or more :class:`~..sensors.QA` to mask by
                other bits or classes; False for nodata and saturation alone.
            max_cloud: Leave out acquisitions of which a larger share (0-1) is not clear: 1 - their
                ``clear_fraction``, as the product's metadata tell it or, without them, a thinned
                read of the quality band.
            time_series: Deliver all acquisitions that answer a query, ``(T, C, H, W)``, instead of
                one mosaic; see :func:`~.collate.collate_series`.
            strict: Raise if a product cannot be used, instead of leaving it out with a warning.
            cache: Keep what headers and metadata tell: in a hidden folder beside the data (or, if
                that cannot be written, in the user's cache folder), in a folder of your own, or
                not at all (False). A file whose name, size or time changed is read anew.
            transforms: Called on each sample.

        Raises:
            DatasetNotFoundError: If no complete acquisition is found.
            ValueError: If a band is not in the sensor's table, a product is left out and *strict*,
                all are cloudier than *max_cloud*, or reflectance is asked for and neither metadata
                nor name tell the calibration.
        """
        self.paths = paths if isinstance(paths, str | os.PathLike) else as_list(paths)
        self.transforms = transforms
        self.calibrate = calibrate
        self.time_series = time_series
        self.nodata: float | None = self.sensor.nodata
        self.qa: tuple[QA, ...] = _quality(qa, self.sensor)
        self.all_bands = self.sensor.band_names
        self.rgb_bands = self.sensor.rgb
        self.bands = tuple(bands) if bands is not None else self._default_bands(res)
        self._bands = self.sensor.select(self.bands)
        # What was worked out once: facts by platform, calibration by tile, times by acquisition and tile
        self._facts: dict[str, list[float]] = {}
        self._scales: dict[str, NDArray[np.float32]] = {}
        self._clock: dict[tuple[str, str], tuple[float, float, float]] = {}
        look_again()
        needed = [*self.bands, *(qa.band for qa in self.qa)]
        self._find(
            self.bands, needed, res=res, crs=crs, max_cloud=max_cloud, cache=cache, strict=strict
        )

    def _default_bands(self, res: float | None) -> tuple[str, ...]:
        """Reflectance bands of the grid *res*, or of the grid that holds the red band."""
        optical = [band for band in self.sensor.bands if band.unit == 'reflectance']
        if res is None:
            res = next((b.gsd_m for b in optical if b.common_name == 'red'), optical[0].gsd_m)
        names = tuple(band.name for band in optical if band.gsd_m == res)
        if not names:
            grids = sorted({band.gsd_m for band in optical})
            raise ValueError(
                f'{self.sensor.name} has no reflectance band with a native grid of {res:g} m (it '
                f'has {", ".join(f"{g:g}" for g in grids)} m); name the bands to read there'
            )
        return names

    def _settle(self, tile: Tile) -> None:
        """Refuse reflectance that nothing tells how to calibrate.

        Raises:
            ValueError: If so.
        """
        if self.calibrate and tile.uncalibrated:
            raise ValueError(f'{tile.name}: {tile.uncalibrated}')

    # -- samples -------------------------------------------------------------------------------

    def __getitem__(self, index: GeoSlice) -> dict[str, Any]:
        """Read a patch.

        Args:
            index: ``[xmin:xmax:xres, ymin:ymax:yres, tmin:tmax]`` in units of :attr:`crs`.

        Returns:
            A :class:`~..types.SensorSample`.

        Raises:
            IndexError: If nothing lies there.
        """
        x, y, t = self._disambiguate_slice(index)
        rows, _ = self.lookup(x, y, t)
        paths = [self.lookup.paths[row] for row in rows]
        if not paths:
            raise IndexError(f'index: {index} not found in dataset with bounds: {self.bounds}')
        crs = raster_crs(self.lookup.crs_text)
        grid = Grid.over(crs, x.start, y.stop, x.stop - x.start, y.stop - y.start, x.step, y.step)
        if self.time_series:
            sample = stack_views([dict(self.view(path, grid)) for path in paths])
        else:
            sample = self._mosaic(paths, grid)
        sample['bounds'] = self._slice_to_tensor((x, y, t)).float()
        return self.transforms(sample) if self.transforms is not None else sample

    def _mosaic(self, paths: Sequence[str], grid: Grid) -> dict[str, Any]:
        """Acquisitions laid over each other, until all pixels are valid."""
        first, *rest = paths
        sample: dict[str, Any] = dict(self.view(first, grid))
        for path in rest:
            if sample['valid'].all():
                break
            more: dict[str, Any] = dict(self.view(path, grid))
            # Time and bands are those of the first that has a pixel
            if sample['valid'].any():
                sample = merge_views([sample, more])
            elif more['valid'].any():
                sample = more
        return sample

    def view(self, path: str, grid: Grid, *, dx: float = 0.0, dy: float = 0.0) -> SensorSample:
        """Read one acquisition on one grid.

        Args:
            path: The acquisition, by the name that the index has for it (``filepath``).
            grid: Any grid; see the class on what happens where it differs from the native one.
            dx: How many metres it lies east of the patch that was asked for.
            dy: How many metres it lies north of it.

        Returns:
            The view; pixels outside of the acquisition are not valid. ``t`` is the time of the
            first tile that has a valid pixel.
        """
        acquisition = self.acquisitions[path]
        tiles = acquisition.tiles
        if len(tiles) > 1:
            tiles = [tile for tile in tiles if _touches(tile, grid)] or tiles[:1]
        image, valid = self._read_tile(tiles[0], grid)
        source = tiles[0] if valid.any() else None
        for tile in tiles[1:]:
            if valid.all():
                break
            own, good = self._read_tile(tile, grid)
            fill = good & ~valid
            if fill.any():
                source = source or tile
                np.copyto(image, own, where=fill)
                valid |= good
        source = source or acquisition.tiles[0]
        left, bottom, right, top = grid.bounds
        lon, lat = lon_lat((left + right) / 2, (bottom + top) / 2, grid.crs)
        start, stop, t = self._times(path, source)
        # Few tensors, cut into many: to make one takes longer than to cut it
        numbers = [*self._band_facts(source.platform)]
        numbers += [left, right, grid.xres, bottom, top, grid.yres, start, stop, 1]
        numbers += [grid.xres, 0, left, 0, -grid.yres, top, 0, 0, 1]
        numbers += [grid.xres, dx, dy, _LEVELS[self.sensor.level]]
        wavelength, bandwidth, gsd, bounds, transform, facts = torch.from_numpy(
            np.array(numbers, dtype=np.float32)
        ).split_with_sizes([*[len(self.bands)] * 3, 9, 9, 4])
        res, east, north, level = facts.unbind()
        double = torch.from_numpy(np.array([t, lon, lat])).unbind()
        return {
            'image': torch.from_numpy(image),
            'valid': torch.from_numpy(valid),
            'wavelength': wavelength,
            'bandwidth': bandwidth,
            'gsd': gsd,
            'res': res,
            't': double[0],
            'dx': east,
            'dy': north,
            'lon': double[1],
            'lat': double[2],
            'level': level,
            'bounds': bounds,
            'transform': transform,
        }

    def native_grid(
        self, path: str, *, left: float, top: float, width: float, height: float
    ) -> tuple[Grid, float, float]:
        """The window of an acquisition's own pixels that lies nearest to a patch.

        Args:
            path: The acquisition, as in the index.
            left: West edge of the patch, in units of the acquisition's CRS.
            top: North edge.
            width: East-west extent.
            height: North-south extent.

        Returns:
            The window, and by how many metres it lies east and north of the patch.
        """
        acquisition = self.acquisitions[path]
        res, (x0, y0) = self.pixel, acquisition.corner
        snapped_left = x0 + math.floor((left - x0) / res + 0.5) * res
        snapped_top = y0 + math.floor((top - y0) / res + 0.5) * res
        grid = Grid.over(
            raster_crs(acquisition.crs), snapped_left, snapped_top, width, height, res, res
        )
        return grid, snapped_left - left, snapped_top - top

    # -- pixels --------------------------------------------------------------------------------

    def _read_tile(self, tile: Tile, grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """One tile in the units of its bands ``(C, H, W)``, 0 where it is not valid ``(H, W)``."""
        image, valid = read_bands(
            [self._locate(tile, band) for band in self.bands],
            grid,
            nodata=self.nodata,
            saturated=self.sensor.saturated,
        )
        for qa in self.qa:
            codes, inside = self._quality_codes(tile, qa, grid)
            valid &= inside
            valid &= ~is_bad(qa, codes, self.bands)
        image = self._to_units(image, tile) if self.calibrate else image.astype(np.float32)
        if not valid.all():
            np.copyto(image, 0, where=~valid)
        return image, valid

    def _to_units(self, dn: NDArray, tile: Tile) -> NDArray[np.float32]:
        """Digital numbers ``(C, H, W)`` to reflectance and kelvin."""
        if tile.name not in self._scales:
            each = [self._calibration(tile, band) for band in self._bands]
            self._scales[tile.name] = np.array(each, dtype=np.float32).T[..., None, None]
        scale, offset = self._scales[tile.name]
        image = dn.astype(np.float32)
        image *= scale
        image += offset
        return image

    def _calibration(self, tile: Tile, band: Band) -> tuple[float, float]:
        """Scale and offset of a band to reflectance or kelvin."""
        scale = tile.scale.get(band.name, band.scale)
        offset = tile.offset.get(band.name, band.offset)
        return scale, offset + (_CELSIUS_TO_KELVIN if band.unit == 'celsius' else 0)

    def _band_facts(self, platform: str) -> list[float]:
        """Wavelengths, then bandwidths, then ground sample distances."""
        if platform not in self._facts:
            known = {band.name: band for band in self.sensor.bands_of(platform)}
            bands = [known[band.name] for band in self._bands]
            self._facts[platform] = [
                *(band.center_wavelength_um for band in bands),
                *(band.fwhm_um for band in bands),
                *(band.gsd_m for band in bands),
            ]
        return self._facts[platform]

    def _times(self, path: str, tile: Tile) -> tuple[float, float, float]:
        """Start and stop of an acquisition and time of one of its tiles, seconds since 1970."""
        key = path, tile.name
        if key not in self._clock:
            acquisition = self.acquisitions[path]
            times = acquisition.start, acquisition.stop, tile.time
            start, stop, t = (time.timestamp() for time in times)
            self._clock[key] = start, stop, t
        return self._clock[key]

    # -- TorchGeo ------------------------------------------------------------------------------

    def plot(
        self, sample: dict[str, Any], show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Draw a sample in true colour; pixels that are not valid are hatched.

        Args:
            sample: A sample of this dataset, or a time series of it, of which twelve dates at most
                are drawn; ``mask`` and ``prediction`` are drawn beside it.
            show_titles: Whether to name the panels.
            suptitle: Title of the figure.

        Returns:
            The figure.

        Raises:
            RGBBandsMissingError: If red, green or blue is not among the bands.
        """
        if not self.rgb_bands or not set(self.rgb_bands) <= set(self.bands):
            raise RGBBandsMissingError()
        order = [self.bands.index(band) for band in self.rgb_bands]
        panels = list(view_panels(sample, order, self.sensor.title))
        panels += [(key, sample[key]) for key in ('mask', 'prediction') if key in sample]
        return draw_panels(panels, show_titles=show_titles, suptitle=suptitle)


def _quality(qa: QA | Sequence[QA] | bool, sensor: Sensor) -> tuple[QA, ...]:
    """Quality bands to mask by."""
    if isinstance(qa, bool):
        return sensor.qa if qa else ()
    return (qa,) if isinstance(qa, QA) else tuple(qa)


def _touches(tile: Tile, grid: Grid) -> bool:
    """Whether a tile may have pixels on a grid."""
    crs = crs_text(grid.crs.to_string())
    if crs == tile.crs:
        boxes = np.array([header.bounds for header in tile.headers.values()])
        west, south, east, north = boxes[np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).argmax()]
        left, bottom, right, top = grid.bounds
        return bool(west <= right and east >= left and south <= top and north >= bottom)
    patch = project(shapely.box(*grid.bounds), crs, tile.crs)
    return bool(tile.ground.intersects(patch))
