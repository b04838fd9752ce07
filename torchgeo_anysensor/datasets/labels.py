# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Label rasters and label vectors, on any grid that is asked for."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fiona
import numpy as np
import pandas as pd
import shapely
import torch
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyproj import CRS as PROJ_CRS
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.features import rasterize
from torch import Tensor
from torchgeo.datasets import DatasetNotFoundError, GeoDataset, IntersectionDataset
from torchgeo.datasets.utils import GeoSlice, Path

from ..types import IGNORE_INDEX
from .collate import concat_views
from .geometry import crs_text, project
from .grid import Grid
from .handles import open_raster
from .index import Acquisition, Tile, build_index, complain
from .join import ViewIntersection
from .read import read
from .scan import scan


class LabelDataset(GeoDataset):
    """Labels that can be laid on any grid.

    Attributes:
        ignore_index: Class of pixels without a label.
        grid_res: Pixel size that the user asked for, if any; a multi-sensor dataset then delivers
            the mask on it instead of on its reference grid.
    """

    ignore_index: int = IGNORE_INDEX
    grid_res: float | None = None

    @abstractmethod
    def mask(self, grid: Grid) -> Tensor:
        """Labels on a grid: ``(H, W)`` int64, :attr:`ignore_index` where there are none."""

    def __and__(self, other: GeoDataset) -> IntersectionDataset:
        """Intersection on the grid of the labels (see :func:`concat_views`)."""
        return ViewIntersection(self, other, collate_fn=concat_views)

    def __getitem__(self, index: GeoSlice) -> dict[str, Any]:
        """Read a patch of labels.

        Args:
            index: ``[xmin:xmax:xres, ymin:ymax:yres, tmin:tmax]`` in units of :attr:`crs`.

        Returns:
            ``mask`` ``(H, W)`` int64, ``bounds`` and ``transform``.

        Raises:
            IndexError: If nothing lies there.
        """
        x, y, t = self._disambiguate_slice(index)
        rows = self.index.iloc[self.index.index.overlaps(pd.Interval(t.start, t.stop, 'both'))]
        if rows.cx[x.start : x.stop, y.start : y.stop].empty:
            raise IndexError(f'index: {index} not found in dataset with bounds: {self.bounds}')
        width = max(1, round((x.stop - x.start) / x.step))
        height = max(1, round((y.stop - y.start) / y.step))
        grid = Grid(CRS.from_user_input(self.crs), x.start, y.stop, x.step, y.step, width, height)
        return {
            'mask': self.mask(grid),
            'bounds': self._slice_to_tensor((x, y, t)).float(),
            'transform': torch.tensor(tuple(grid.transform), dtype=torch.float32),
        }


class LabelRaster(LabelDataset):
    """Class codes in raster files, of any CRS and pixel size; nearest neighbour."""

    def __init__(
        self,
        paths: Path | Iterable[Path] = 'data',
        *,
        classes: Mapping[int, int] | None = None,
        band: int = 1,
        nodata: int | None = None,
        ignore_index: int = IGNORE_INDEX,
        res: float | None = None,
        crs: PROJ_CRS | None = None,
        filename_glob: str = '*.tif',
    ) -> None:
        """Find the files.

        Args:
            paths: Folders to search, or files.
            classes: From the code in the file to the class 0, 1, ...; codes that are not listed are
                ignored. By default codes are classes.
            band: Band of the files that holds the labels, from 1.
            nodata: Code without a label; by default the tag of the file.
            ignore_index: Class of pixels without a label.
            res: Pixel size in units of *crs*; by default the first file's.
            crs: Of the index; by default the first file's.
            filename_glob: Which files to look at.

        Raises:
            DatasetNotFoundError: If no file can be read.
        """
        self.paths = paths
        self.filename_glob = filename_glob
        self.classes = dict(classes) if classes is not None else None
        self.band = band
        self.nodata = nodata
        self.ignore_index = ignore_index
        self.grid_res = res
        tiles = [Tile(path, '', {'': {0.0: path}}) for path in self.files]
        scan(tiles, _always, title='Labels')
        left_out = {tile.name: why for tile in tiles if (why := tile.why_not([''], 0))}
        if left_out:
            complain(left_out, len(tiles), 'label files', strict=False)
        usable = [tile for tile in tiles if tile.name not in left_out]
        if not usable:
            raise DatasetNotFoundError(self)
        target = crs_text(PROJ_CRS.from_user_input(crs).srs) if crs is not None else usable[0].crs
        self.index = build_index({t.name: Acquisition(t.name, [t]) for t in usable}, crs=target)
        size = float(res or usable[0].header('', 0).xres)
        self._res = (size, size)

    def mask(self, grid: Grid) -> Tensor:
        """Labels on a grid: ``(H, W)`` int64; where files overlap, the first label wins."""
        mask = np.full((grid.height, grid.width), self.ignore_index, dtype=np.int64)
        for path in self.index.filepath:
            nodata = self.nodata if self.nodata is not None else open_raster(path).nodata
            data, inside = read(
                path, grid, indexes=[self.band], nodata=nodata, resampling=Resampling.nearest
            )
            labelled = inside & np.isfinite(data[0])
            if nodata is not None:
                labelled &= data[0] != nodata
            wanted = labelled & (mask == self.ignore_index)
            mask[wanted] = self._to_class(data[0][wanted])
        return torch.from_numpy(mask)

    def _to_class(self, codes: NDArray) -> NDArray[np.int64]:
        """Codes of the file to classes."""
        if self.classes is None:
            return codes.astype(np.int64)
        out = np.full(codes.shape, self.ignore_index, dtype=np.int64)
        for code, label in self.classes.items():
            out[codes == code] = label
        return out


class LabelVector(LabelDataset):
    """Class polygons in vector files (GeoPackage, Shapefile, GeoJSON, ...), of any CRS."""

    def __init__(
        self,
        paths: Path | Iterable[Path] = 'data',
        *,
        classes: Mapping[str, int],
        attribute: str | None = None,
        background: int | None = None,
        ignore_index: int = IGNORE_INDEX,
        res: float | None = None,
        crs: PROJ_CRS | None = None,
        filename_glob: str = '*.gpkg',
    ) -> None:
        """Read the polygons.

        Args:
            paths: Folders to search, or files.
            classes: From the value of *attribute*, or from the name of the layer, to the class 0,
                1, ...; what is not listed is left out.
            attribute: Field that holds the class; by default each layer is a class.
            background: Class outside of all polygons; by default *ignore_index*.
            ignore_index: Class of pixels without a label.
            res: Pixel size in units of *crs* for direct indexing; by default 10.
            crs: Of the index; by default the first layer's.
            filename_glob: Which files to look at.

        Raises:
            DatasetNotFoundError: If there is no file.
            ValueError: If no polygon has one of the classes, or a layer has no CRS.
        """
        self.paths = paths
        self.filename_glob = filename_glob
        self.classes = {str(key): value for key, value in classes.items()}
        self.attribute = attribute
        self.ignore_index = ignore_index
        self.background = ignore_index if background is None else background
        self.grid_res = res
        if not self.files:
            raise DatasetNotFoundError(self)
        shapes = [shape for path in self.files for shape in self._read_file(path)]
        if not shapes:
            raise ValueError(
                f'{", ".join(self.files)}: nothing has one of the classes '
                f'{sorted(self.classes)} in {attribute or "the layer names"}'
            )
        crs = crs or PROJ_CRS.from_user_input(shapes[0][1])
        self._shapes: dict[str, list[tuple[shapely.Geometry, int]]] = {}
        self._sources = shapes
        outline = [shapely.box(*g.bounds) for g, _ in self._in_crs(CRS.from_user_input(crs))]
        box = shapely.box(*shapely.total_bounds(outline))
        time = pd.IntervalIndex.from_tuples(
            [(pd.Timestamp.min, pd.Timestamp.max)], closed='both', name='datetime'
        )
        data = {'filepath': [self.files[0]]}
        self.index = GeoDataFrame(data, index=time, geometry=[box], crs=crs)
        self._res = (float(res or 10), float(res or 10))

    def _read_file(self, path: str) -> list[tuple[dict[str, Any], str, int]]:
        """Geometry, CRS and class of each feature.

        Raises:
            ValueError: If a layer has no CRS or lacks the attribute.
        """
        found = []
        for layer in fiona.listlayers(path):
            if self.attribute is None and layer not in self.classes:
                continue
            with fiona.open(path, layer=layer) as features:
                if not features.crs:
                    raise ValueError(f'{path}, layer {layer}: has no coordinate reference system')
                if self.attribute and self.attribute not in features.schema['properties']:
                    known = ', '.join(features.schema['properties'])
                    raise ValueError(
                        f'{path}, layer {layer}: no field {self.attribute!r}; it has {known}'
                    )
                crs = crs_text(features.crs.to_wkt())
                for feature in features:
                    key = str(feature.properties[self.attribute]) if self.attribute else layer
                    if key in self.classes and feature.geometry is not None:
                        found.append((dict(feature.geometry), crs, self.classes[key]))
        return found

    def _in_crs(self, crs: CRS) -> Sequence[tuple[shapely.Geometry, int]]:
        """Polygons and classes in a CRS, kept for the next call."""
        key = crs_text(crs.to_wkt())
        if key not in self._shapes:
            self._shapes[key] = [
                (project(shapely.make_valid(shapely.geometry.shape(geometry)), source, key), label)
                for geometry, source, label in self._sources
            ]
        return self._shapes[key]

    def mask(self, grid: Grid) -> Tensor:
        """Labels on a grid: ``(H, W)`` int64; a pixel has the class of the polygon at its centre."""
        patch = shapely.box(*grid.bounds)
        shapes = [(g, label) for g, label in self._in_crs(grid.crs) if g.intersects(patch)]
        out = np.full((grid.height, grid.width), self.background, dtype=np.int32)
        if shapes:
            rasterize(shapes, out=out, transform=grid.transform)
        return torch.from_numpy(out.astype(np.int64))


def _always(tile: Tile) -> None:
    """Labels hold at any time."""
    tile.start, tile.stop = pd.Timestamp.min, pd.Timestamp.max
