# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The base of all sensor datasets: calibrated views on native grids."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import shapely
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pyproj import CRS as PROJ_CRS
from rasterio.crs import CRS
from rasterio.enums import Resampling
from torch import Tensor
from torchgeo.datasets import DatasetNotFoundError, RasterDataset, RGBBandsMissingError
from torchgeo.datasets.utils import GeoSlice, Path

from ..sensors import QA, Band, Sensor
from ..types import SensorSample
from .collate import merge_views
from .index import Acquisition, build_index, complete, find_acquisitions
from .join import JoinableDataset
from .plot import draw_panels, true_color
from .read import Grid, Lattice, read

_CELSIUS_TO_KELVIN = 273.15


class SensorDataset(JoinableDataset, RasterDataset):
    """Acquisitions of one sensor, read on one of its native grids.

    An ordinary TorchGeo dataset: index it with ``ds[x, y, t]`` slices, join it with ``&`` and
    ``|``, sample it with TorchGeo's samplers. Its samples are :class:`~..types.SensorSample`.

    Where the query's pixels agree with the file's they come untouched; where they are finer and
    nest, each is repeated; otherwise they are resampled once (bilinear, area average towards
    coarser pixels; nearest for quality bands). If several acquisitions answer a query, the earliest
    valid pixel wins and ``t`` is the earliest acquisition's.

    Subclasses name their :attr:`sensor`.
    """

    sensor: Sensor

    def __init_subclass__(cls) -> None:
        """Take what TorchGeo's base asks for from the sensor's table."""
        super().__init_subclass__()
        if hasattr(cls, 'sensor'):
            cls.filename_glob = cls.sensor.filename_glob
            cls.filename_regex = cls.sensor.filename_regex
            cls.date_format = cls.sensor.date_format

    def __init__(
        self,
        paths: Path | Iterable[Path] = 'data',
        *,
        bands: Sequence[str] | None = None,
        res: float | None = None,
        crs: PROJ_CRS | None = None,
        calibrate: bool = True,
        qa: QA | bool = True,
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        """Find the acquisitions and read one header of each.

        Args:
            paths: Folders to search, or files.
            bands: Names as in the sensor's table. By default the reflectance bands whose native
                grid is *res*, or, without *res*, the grid of the red band.
            res: Pixel size in units of *crs*; by default the finest native grid among *bands*.
            crs: Of the index and of what is read; by default the first file's.
            calibrate: Deliver reflectance and kelvin; otherwise digital numbers.
            qa: Mask by the sensor's quality band; a :class:`~..sensors.QA` to mask by other bits or
                classes; False for nodata alone.
            transforms: Called on each sample.

        Raises:
            DatasetNotFoundError: If no complete acquisition is found.
            ValueError: If a band is not in the sensor's table.
        """
        self.paths = paths
        self.transforms = transforms
        self.calibrate = calibrate
        self.nodata: float | None = self.sensor.nodata
        self.qa: QA | None = self.sensor.qa if qa is True else (qa or None)
        self.all_bands = self.sensor.band_names
        self.rgb_bands = self.sensor.rgb
        self.bands = tuple(bands) if bands is not None else self._default_bands(res)
        self._bands = self.sensor.select(self.bands)
        self._find(res=res, crs=crs)

    # -- index ---------------------------------------------------------------------------------

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

    def _find(self, *, res: float | None, crs: PROJ_CRS | None) -> None:
        """Fill the index.

        Raises:
            DatasetNotFoundError: If no complete acquisition is found.
        """
        needed = [*self.bands, *([self.qa.band] if self.qa else [])]
        acquisitions = self._scan(self.files, needed)
        finest = min(self._bands, key=lambda band: band.gsd_m)
        wanted = res or finest.gsd_m
        self.acquisitions = {a.file(finest.name, wanted): a for a in acquisitions}
        for acquisition in acquisitions:
            self._describe(acquisition)
        if not self.acquisitions:
            raise DatasetNotFoundError(self)
        self.index, file_res = build_index(self.acquisitions, crs=crs)
        if self.index.empty:
            raise DatasetNotFoundError(self)
        size = float(res or file_res)
        self._res = (size, size)

    def _scan(self, files: Iterable[str], needed: Sequence[str]) -> list[Acquisition]:
        """Group files into acquisitions that have all the bands needed."""
        found = find_acquisitions(
            files,
            filename_regex=self.filename_regex,
            date_format=self.date_format,
            group=self._product,
        )
        return complete(found, needed)

    def _product(self, path: str, match: re.Match[str]) -> str:
        """Name that all files of one acquisition share."""
        return match['product']

    def _describe(self, acquisition: Acquisition) -> None:
        """Take time and calibration from the product's metadata, where it has any."""

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
        rows = self.index.iloc[self.index.index.overlaps(pd.Interval(t.start, t.stop, 'both'))]
        patch = shapely.box(x.start, y.start, x.stop, y.stop)
        rows = rows[rows.intersection(patch).area > 0]  # a common edge alone is no answer
        rows = rows.sort_index(key=lambda i: i.left, kind='stable')
        if rows.empty:
            raise IndexError(f'index: {index} not found in dataset with bounds: {self.bounds}')
        grid = Grid(
            CRS.from_user_input(self.crs),
            x.start,
            y.stop,
            x.step,
            y.step,
            max(1, round((x.stop - x.start) / x.step)),
            max(1, round((y.stop - y.start) / y.step)),
        )
        paths = iter(rows.filepath)
        sample: dict[str, Any] = dict(self.view(next(paths), grid))
        for path in paths:
            if sample['valid'].all():
                break
            sample = merge_views([sample, dict(self.view(path, grid))])
        sample['bounds'] = self._slice_to_tensor((x, y, t)).float()
        return self.transforms(sample) if self.transforms is not None else sample

    def view(self, path: str, grid: Grid) -> SensorSample:
        """Read one acquisition on one grid.

        Args:
            path: The acquisition, by the name that the index has for it (``filepath``).
            grid: Any grid; see the class on what happens where it differs from the native one.

        Returns:
            The view; pixels outside of the acquisition are not valid.
        """
        acquisition = self.acquisitions[path]
        dn, valid = self._read_bands(acquisition, grid)
        if self.qa is not None:
            valid &= self._read_quality(acquisition, grid)
        image = self._to_units(dn, acquisition) if self.calibrate else dn
        image = np.where(valid, image, np.float32(0))
        facts = self._band_facts(acquisition)
        left, bottom, right, top = grid.bounds
        start, stop = acquisition.start.timestamp(), acquisition.stop.timestamp()
        patch = [left, right, grid.xres, bottom, top, grid.yres, start, stop, 1]
        return {
            'image': torch.from_numpy(image),
            'valid': torch.from_numpy(valid),
            'wavelength': facts['wavelength'],
            'bandwidth': facts['bandwidth'],
            'gsd': facts['gsd'],
            'res': torch.tensor(grid.xres, dtype=torch.float32),
            't': torch.tensor(acquisition.time.timestamp(), dtype=torch.float64),
            'dx': torch.tensor(0.0),
            'dy': torch.tensor(0.0),
            'bounds': torch.tensor(patch, dtype=torch.float32),
            'transform': torch.tensor(tuple(grid.transform), dtype=torch.float32),
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
        assert acquisition.crs is not None, 'filled in by build_index'
        (xres, yres), (x0, y0) = self.res, acquisition.corner
        snapped_left = x0 + math.floor((left - x0) / xres + 0.5) * xres
        snapped_top = y0 + math.floor((top - y0) / yres + 0.5) * yres
        grid = Grid(
            acquisition.crs,
            snapped_left,
            snapped_top,
            xres,
            yres,
            round(width / xres),
            round(height / yres),
        )
        return grid, snapped_left - left, snapped_top - top

    def lattice(self, position: int) -> Lattice:
        """Pixel corners of one acquisition: patches that snap to them are read untouched.

        Args:
            position: Row of the index.
        """
        acquisition = self.acquisitions[self.index.filepath.iloc[position]]
        if CRS.from_user_input(self.crs) == acquisition.crs:
            return Lattice(*acquisition.corner, self.res[0])
        return Lattice(0.0, 0.0, self.res[0])

    # -- pixels --------------------------------------------------------------------------------

    def _locate(self, acquisition: Acquisition, band: str) -> tuple[str, int]:
        """File of a band, and its place in the file."""
        return acquisition.file(band, self.res[0]), 1

    def _read_bands(
        self, acquisition: Acquisition, grid: Grid
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Digital numbers ``(C, H, W)`` and where all bands have data ``(H, W)``."""
        shape = (grid.height, grid.width)
        dn = np.zeros((len(self.bands), *shape), dtype=np.float32)
        valid = np.ones(shape, dtype=bool)
        places: dict[str, list[tuple[int, int]]] = {}
        for position, band in enumerate(self.bands):
            path, number = self._locate(acquisition, band)
            places.setdefault(path, []).append((position, number))
        for path, bands in places.items():
            data, inside = read(
                path,
                grid,
                indexes=[number for _, number in bands],
                nodata=self.nodata,
                resampling=Resampling.bilinear,
            )
            valid &= inside & self._has_data(data)
            dn[[position for position, _ in bands]] = data
        return dn, valid

    def _has_data(self, data: NDArray) -> NDArray[np.bool_]:
        """Where all bands of ``(C, H, W)`` differ from nodata and are numbers."""
        good = np.ones(data.shape[1:], dtype=bool)
        if self.nodata is not None:
            good &= (data != self.nodata).all(axis=0)
        if np.issubdtype(data.dtype, np.floating):
            good &= np.isfinite(data).all(axis=0)
        return good

    def _read_quality(self, acquisition: Acquisition, grid: Grid) -> NDArray[np.bool_]:
        """Where the quality band calls the pixel good; never interpolated."""
        assert self.qa is not None, 'the caller checks'
        path, number = self._locate(acquisition, self.qa.band)
        data, inside = read(
            path, grid, indexes=[number], nodata=None, resampling=Resampling.nearest
        )
        codes = data[0].astype(np.int64)
        bad = np.isin(codes, self.qa.bad_values)
        for bit in self.qa.bad_bits:
            bad |= (codes >> bit) & 1 == 1
        return inside & ~bad

    def _to_units(self, dn: NDArray[np.float32], acquisition: Acquisition) -> NDArray[np.float32]:
        """Digital numbers ``(C, H, W)`` to reflectance and kelvin."""
        scale, offset = np.array(
            [self._calibration(acquisition, band) for band in self._bands], dtype=np.float32
        ).T
        return dn * scale[:, None, None] + offset[:, None, None]

    def _calibration(self, acquisition: Acquisition, band: Band) -> tuple[float, float]:
        """Scale and offset of a band to reflectance or kelvin."""
        scale = acquisition.scale.get(band.name, band.scale)
        offset = acquisition.offset.get(band.name, band.offset)
        return scale, offset + (_CELSIUS_TO_KELVIN if band.unit == 'celsius' else 0)

    def _band_facts(self, acquisition: Acquisition) -> dict[str, Tensor]:
        """Wavelength, bandwidth and ground sample distance, ``(C,)`` each."""
        facts = {
            'wavelength': [band.center_wavelength_um for band in self._bands],
            'bandwidth': [band.fwhm_um for band in self._bands],
            'gsd': [band.gsd_m for band in self._bands],
        }
        return {key: torch.tensor(value, dtype=torch.float32) for key, value in facts.items()}

    # -- TorchGeo ------------------------------------------------------------------------------

    def plot(
        self, sample: dict[str, Any], show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Draw a sample in true colour; pixels that are not valid are grey.

        Args:
            sample: A sample of this dataset; ``mask`` and ``prediction`` are drawn beside it.
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
        panels = [(self.sensor.title, true_color(sample['image'][order], sample['valid']))]
        panels += [(key, sample[key]) for key in ('mask', 'prediction') if key in sample]
        return draw_panels(panels, show_titles=show_titles, suptitle=suptitle)
