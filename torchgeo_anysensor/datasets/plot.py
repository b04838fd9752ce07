# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pictures of samples, and of whole acquisitions; what is not valid is hatched."""

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.features import shapes
from torch import Tensor

from ..types import IGNORE_INDEX
from .geometry import raster_crs
from .grid import Grid
from .handles import open_raster
from .index import Acquisition, Header, Tile
from .quality import is_bad

if TYPE_CHECKING:
    from .sensor import SensorDataset

_GREY = 0.5
# Darkest and brightest beneath the hatching, which is dark
_PALE = (0.35, 0.85)

_RGB_UM = (0.66, 0.56, 0.485)
_NEAR_UM = 0.03

_ROW = 6  # panels in one row
_DATES = 12  # panels of one time series
_PIXELS = 1000  # along the longer side of a quick-look


def true_color(rgb: Tensor, valid: Tensor, *, seen: Tensor | None = None) -> Tensor:
    """Stretch reflectance to a picture.

    Args:
        rgb: ``(3, H, W)``, or ``(1, H, W)`` for a grey picture.
        valid: ``(H, W)`` bool.
        seen: ``(H, W)`` bool: pixels that have data, valid or not. What is not valid is drawn pale
            there, and plain grey elsewhere.

    Returns:
        ``(H, W, 4)`` in 0-1: colours, stretched between the 2nd and 98th percentile of what is
        valid, and 1 where they are valid.
    """
    rgb = rgb.expand(3, -1, -1)
    seen = valid if seen is None else seen | valid
    values = rgb[:, valid if valid.any() else seen]
    if values.numel() == 0:
        picture = torch.full_like(rgb, _GREY, dtype=torch.float32)
    else:
        low, high = np.quantile(values.numpy(), (0.02, 0.98))
        picture = ((rgb - low) / max(high - low, 1e-6)).clamp(0, 1)
    low, high = _PALE
    pale = torch.where(seen, low + (high - low) * picture, torch.tensor(_GREY))
    picture = torch.where(valid, picture, pale)
    return torch.cat([picture, valid[None].to(picture.dtype)]).permute(1, 2, 0)


def view_panels(
    sample: dict[str, Any], layers: Sequence[int], title: str
) -> Iterator[tuple[str, Tensor]]:
    """Titles and pictures of one sensor's sample.

    Args:
        sample: ``image`` ``(C, H, W)`` and ``valid`` ``(H, W)``, or a time series of them with a
            leading ``T``, of which twelve dates at most are drawn, the first and last among them.
        layers: Places of red, green and blue in ``C``, or of one band.
        title: Of a single picture; those of a time series are named by their dates.

    Yields:
        Panels for :func:`draw_panels`.
    """
    image, valid = sample['image'], sample['valid']
    if image.ndim == 3:
        yield title, true_color(image[list(layers)], valid)
        return
    n = len(image)
    for i in np.unique(np.linspace(0, n - 1, min(n, _DATES)).round().astype(int)):
        day = datetime.fromtimestamp(float(sample['t'][i]), UTC).date().isoformat()
        name = f'{day} ({i + 1} of {n})' if n > _DATES else day
        yield name, true_color(image[i][list(layers)], valid[i])


def draw_views(sample: Any, *, show_titles: bool = True, suptitle: str | None = None) -> Figure:
    """Draw a multi-sensor sample by nothing but what is in it.

    Args:
        sample: Each sensor is drawn on its first view with red, green and blue light, or in grey;
            ``mask`` and ``prediction`` beside it.
        show_titles: Whether to name the panels.
        suptitle: Title of the figure.

    Returns:
        The figure.
    """
    panels: list[tuple[str, Any]] = []
    for name, views in sample['sensors'].items():
        found = [(view, _red_green_blue(view['wavelength'])) for view in views]
        view, layers = next((one for one in found if one[1]), (views[0], [0]))
        panels.append((name, true_color(view['image'][layers], view['valid'])))
    panels += [(key, sample[key]) for key in ('mask', 'prediction') if key in sample]
    return draw_panels(panels, show_titles=show_titles, suptitle=suptitle)


def _red_green_blue(wavelength: Tensor) -> list[int]:
    """Places of the bands ``(C,)`` nearest to red, green and blue; none if one is missing."""
    apart = (wavelength[None] - torch.tensor(_RGB_UM)[:, None]).abs()
    nearest = apart.min(dim=1)
    return nearest.indices.tolist() if bool((nearest.values < _NEAR_UM).all()) else []


def draw_panels(
    panels: Iterable[tuple[str, Any]],
    *,
    show_titles: bool,
    suptitle: str | None,
    size_in: float = 4.0,
) -> Figure:
    """Draw pictures side by side, six in a row.

    Args:
        panels: Titles and pictures: ``(H, W, 3)`` in 0-1, ``(H, W, 4)`` that are hatched where the
            last is 0, ``(H, W)`` numbers, hatched where they are not finite, or ``(H, W)`` int64
            classes, which share one palette; classes that are ignored stay white.
        show_titles: Whether to name the pictures.
        suptitle: Title of the figure.
        size_in: Width and height of a panel in inches.

    Returns:
        The figure.
    """
    panels = list(panels)
    rows = max(1, math.ceil(len(panels) / _ROW))
    columns = max(1, math.ceil(len(panels) / rows))
    sizes = [panel.shape[:2] for _, panel in panels]
    width, height = (max((s[i] / max(s) for s in sizes), default=1.0) for i in (1, 0))
    fig, axes = plt.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(size_in * columns * width, size_in * rows * height),
        layout='constrained',
    )
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax, (title, panel) in zip(axes.flat, panels, strict=False):
        _draw(ax, panel)
        ax.axis('off')
        if show_titles:
            ax.set_title(title)
    if suptitle is not None:
        fig.suptitle(suptitle)
    return fig


def _draw(ax: Axes, panel: Tensor) -> None:
    """Draw one picture."""
    values = np.asarray(panel)
    if panel.dtype == torch.int64:
        classes = np.ma.masked_equal(values, IGNORE_INDEX)
        ax.imshow(classes, cmap='tab10', vmin=0, vmax=9, interpolation='nearest')
    elif values.ndim == 2:
        valid = np.isfinite(values)
        ax.imshow(np.ma.array(values, mask=~valid), interpolation='antialiased')
        _hatch(ax, ~valid)
    else:
        ax.imshow(values[..., :3], interpolation='antialiased')
        if values.shape[-1] == 4:
            _hatch(ax, values[..., 3] == 0)


def _hatch(ax: Axes, where: NDArray[np.bool_]) -> None:
    """Hatch pixels ``(H, W)`` along their edges."""
    rings = [
        np.array(ring) - 0.5  # centres of pixels lie on whole numbers
        for geometry, _ in shapes(where.astype(np.uint8), mask=where)
        for ring in geometry['coordinates']
    ]
    if rings:
        path = Path.make_compound_path(*(Path(ring, closed=True) for ring in rings))
        ax.add_patch(PathPatch(path, facecolor='none', edgecolor='0.15', linewidth=0, hatch='///'))


# -- quick-looks -------------------------------------------------------------------------------


def look_at_product(
    catalog: 'SensorDataset', acquisitions: Sequence[Acquisition]
) -> tuple[str, Tensor]:
    """Draw the clearest acquisition, thinned.

    Clouds are drawn, pale, below the hatching.

    Args:
        catalog: Dataset that found the acquisitions; it needs no index.
        acquisitions: All that there are.

    Returns:
        Title and picture: in true colour if the bands are there, or else of the first band that is,
        or else of what the quality band calls clear.
    """
    sensor = catalog.sensor
    for bands in (sensor.rgb, *((name,) for name in sensor.band_names)):
        complete = [
            a for a in acquisitions if bands and not any(t.why_not(bands, 0) for t in a.tiles)
        ]
        if complete:
            best = max(complete, key=_clear_first)
            picture = _thinned(catalog, best, bands)
            break
    else:
        best, bands = max(acquisitions, key=_clear_first), ()
        picture = _quality_alone(catalog, best)
    tile = best.tiles[0]
    share = '' if math.isnan(best.clear_fraction) else f', clear {best.clear_fraction:.2f}'
    what = '' if bands == sensor.rgb else f', {"".join(bands) or "quality"}'
    return f'{sensor.title}{what}\n{tile.tile} {best.start:%Y-%m-%d}{share}'.strip(), picture


def _clear_first(acquisition: Acquisition) -> float:
    """Clear fraction, lowest where it is not known."""
    return -1.0 if math.isnan(acquisition.clear_fraction) else acquisition.clear_fraction


def _thinned(catalog: 'SensorDataset', acquisition: Acquisition, bands: Sequence[str]) -> Tensor:
    """Picture of bands as a dataset reads them, on a coarse grid."""
    tiles = acquisition.tiles
    grids = set.intersection(
        *({res for name, res in tile.headers if name == band} for tile in tiles for band in bands)
    )
    sizes = {res: max(tiles[0].header(bands[0], res)[4:]) for res in grids}
    enough = [res for res, size in sizes.items() if size >= _PIXELS]
    res = max(enough) if enough else min(grids, default=0.0)
    files = [tile.file(band, res) for tile in tiles for band in bands]
    metadata = [path for tile in tiles for path in tile.metadata]
    with warnings.catch_warnings():  # what there is to say is said in words
        warnings.simplefilter('ignore')
        dataset = type(catalog)(
            [*files, *metadata],
            bands=bands,
            res=res or None,
            calibrate=False,
            qa=False,
            cache=False,
        )
    grid = _coarse([tile.header(bands[0], res) for tile in tiles], acquisition.crs)
    view = dataset.view(dataset.index.filepath.iloc[0], grid)
    clear, _ = _quality(catalog, tiles, grid, bands)
    return true_color(view['image'], view['valid'] & clear, seen=view['valid'])


def _quality_alone(catalog: 'SensorDataset', acquisition: Acquisition) -> Tensor:
    """Picture of what is clear, in white.

    Raises:
        ValueError: If there is no quality band.
    """
    tiles, names = acquisition.tiles, [qa.band for qa in catalog.sensor.qa]
    own = [name for name in names if not any(tile.why_not([name], 0) for tile in tiles)]
    if not own:
        raise ValueError('there is no band that all tiles of the acquisition have')
    grid = _coarse([tile.header(own[0], 0) for tile in tiles], acquisition.crs)
    clear, seen = _quality(catalog, tiles, grid, ())
    bright = torch.where(clear, 1.0, torch.where(seen, 0.7, _GREY))
    return torch.stack([bright, bright, bright, clear.float()], dim=-1)


def _coarse(headers: Sequence[Header], crs: str) -> Grid:
    """Grid over files, of whole multiples of their pixels."""
    lefts, bottoms, rights, tops = zip(*(header.bounds for header in headers))
    left, top, width, height = (
        min(lefts),
        max(tops),
        max(rights) - min(lefts),
        max(tops) - min(bottoms),
    )
    xres, yres = headers[0].xres, headers[0].yres
    n = math.ceil(max(width / xres, height / yres) / _PIXELS)
    return Grid.over(raster_crs(crs), left, top, width, height, xres * n, yres * n)


def _quality(
    catalog: 'SensorDataset', tiles: Iterable[Tile], grid: Grid, bands: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """What the quality bands that are there call clear ``(H, W)``, and what was observed."""
    clear = np.zeros((grid.height, grid.width), dtype=bool)
    seen = clear.copy()
    for tile in tiles:
        good = np.ones_like(clear)
        for qa in catalog.sensor.qa:
            if tile.why_not([qa.band], 0):
                continue
            codes, inside = catalog._quality_codes(tile, qa, grid)
            good &= inside & ~is_bad(qa, codes, bands)
            seen |= inside & (codes != qa.fill)
        clear |= good
    return torch.from_numpy(clear), torch.from_numpy(seen)


def look_at_raster(path: str) -> tuple[str, Tensor]:
    """Draw a raster of which nothing is known, thinned: red, green and blue, or the first band."""
    src = open_raster(path)
    n = math.ceil(max(src.shape) / _PIXELS)
    shape = tuple(max(1, size // n) for size in src.shape)
    colors = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    found = set(colors) <= set(src.colorinterp)
    indexes = [src.colorinterp.index(color) + 1 for color in colors] if found else [1]
    # Every n-th pixel: values that may be classes are not to be averaged
    data = src.read(indexes, out_shape=(len(indexes), *shape)).astype(np.float32)
    valid = (src.dataset_mask(out_shape=shape) > 0) & np.isfinite(data).all(axis=0)
    picture = true_color(torch.from_numpy(np.nan_to_num(data)), torch.from_numpy(valid))
    what = 'red, green, blue' if found else f'band 1 of {src.count}'
    return f'{os.path.basename(path)}\n{what}', picture
