# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import fiona
import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch
from rasterio.warp import transform as warp_points
from torchgeo.datasets import DatasetNotFoundError

from torchgeo_anysensor.datasets import LabelRaster, LabelVector
from torchgeo_anysensor.datasets.grid import Grid

# -- rasters -----------------------------------------------------------------------------------


@pytest.fixture
def field(tmp_path, code):
    """Codes 0-9 at 25 m, a function of the pixel's place."""
    grid = code.grid(code.left, code.top, 25, (40, 40))
    return code.write(tmp_path / 'raster' / 'a.tif', code_at(code, *code.centres(grid)), grid)


def code_at(code, x, y, res=25):
    """Code of the label pixel that holds (x, y)."""
    cols, rows = np.floor((x - code.left) / res), np.floor((code.top - y) / res)
    return ((3 * cols + rows) % 10).astype('uint8')


@pytest.mark.parametrize('res', [5, 10, 25, 30, 60])
def test_pixel_has_the_label_at_its_centre(field, code, res):
    grid = code.grid(code.left + 60, code.top - 60, res, (8, 8))
    mask = LabelRaster(field).mask(grid)
    assert mask.dtype == torch.int64
    assert np.array_equal(mask, code_at(code, *code.centres(grid)))


def test_labels_in_another_crs_lie_where_they_are(field, code):
    grid33 = code.grid(0, 0, 10, (40, 40), epsg=32633)
    (x,), (y,) = warp_points(
        rasterio.CRS.from_epsg(code.epsg), grid33.crs, [code.left + 500], [code.top - 500]
    )
    grid = code.grid(round(x) - 200, round(y) + 200, 10, (40, 40), epsg=32633)
    xs, ys = code.centres(grid)
    east, north = warp_points(grid.crs, rasterio.CRS.from_epsg(code.epsg), xs.ravel(), ys.ravel())
    truth = code_at(code, np.array(east), np.array(north)).reshape(40, 40)
    mask = LabelRaster(field).mask(grid).numpy()
    assert (mask == truth).mean() > 0.99  # centres on an edge may go to either side
    assert set(np.unique(mask)) <= set(range(10))


@pytest.mark.parametrize('ignore', [255, -1])
def test_outside_is_ignored(field, code, ignore):
    grid = code.grid(code.left - 50, code.top + 50, 25, (8, 8))
    mask = LabelRaster(field, ignore_index=ignore).mask(grid)
    assert (mask[:2] == ignore).all()
    assert (mask[:, :2] == ignore).all()
    assert (mask[2:, 2:] != ignore).all()


def test_codes_become_classes_and_the_unlisted_are_ignored(field, code):
    grid = code.grid(code.left, code.top, 25, (20, 20))
    plain = LabelRaster(field).mask(grid)
    mask = LabelRaster(field, classes={7: 0, 0: 1, 3: 1}).mask(grid)
    assert torch.equal(mask == 0, plain == 7)
    assert torch.equal(mask == 1, (plain == 0) | (plain == 3))
    assert torch.equal(mask == 255, (plain != 7) & (plain != 0) & (plain != 3))


def test_nodata_is_the_tag_unless_it_is_given(tmp_path, field, code):
    grid = code.grid(code.left, code.top, 25, (20, 20))
    plain = LabelRaster(field).mask(grid)
    assert torch.equal(LabelRaster(field, nodata=4).mask(grid) == 255, plain == 4)
    with rasterio.open(field) as src:
        data = src.read()
    tagged = code.write(
        tmp_path / 'b.tif', data, code.grid(code.left, code.top, 25, (40, 40)), nodata=6
    )
    assert torch.equal(LabelRaster(tagged).mask(grid) == 255, plain == 6)


def test_what_is_no_number_is_no_label(tmp_path, code):
    grid = code.grid(code.left, code.top, 25, (2, 2))
    data = np.array([[1, np.nan], [2, 3]], 'float32')
    path = code.write(tmp_path / 'float.tif', data, grid, nodata=np.nan)
    assert LabelRaster(path).mask(grid).tolist() == [[1, 255], [2, 3]]


def test_band_of_the_file_can_be_chosen(tmp_path, code):
    grid = code.grid(code.left, code.top, 25, (4, 4))
    path = code.write(
        tmp_path / 'c.tif', np.stack([np.full((4, 4), v, 'uint8') for v in (1, 2)]), grid
    )
    assert (LabelRaster(path, band=2).mask(grid) == 2).all()


def test_two_files_make_one_map_and_the_first_label_wins(tmp_path, code):
    left = np.full((4, 4), 1, 'uint8')
    left[0, 3] = 0
    right = np.full((4, 4), 2, 'uint8')
    code.write(tmp_path / 'm' / 'a.tif', left, code.grid(code.left, code.top, 25, (4, 4)), nodata=0)
    code.write(tmp_path / 'm' / 'b.tif', right, code.grid(code.left + 75, code.top, 25, (4, 4)))
    mask = LabelRaster(tmp_path / 'm').mask(code.grid(code.left, code.top, 25, (4, 8)))
    assert mask[0].tolist() == [1, 1, 1, 2, 2, 2, 2, 255]
    assert mask[1].tolist() == [1, 1, 1, 1, 2, 2, 2, 255]


def test_query_gives_the_mask_and_where_it_lies(field, code):
    labels = LabelRaster(field)
    sample = labels[code.left + 50 : code.left + 250, code.top - 200 : code.top - 100]
    assert sample['mask'].shape == (4, 8)
    grid = code.grid(code.left + 50, code.top - 100, 25, (4, 8))
    assert np.array_equal(sample['mask'], code_at(code, *code.centres(grid)))
    assert sample['bounds'].shape == sample['transform'].shape == (9,)
    with pytest.raises(IndexError, match='not found in dataset with bounds'):
        labels[code.left - 500 : code.left - 100, code.top - 100 : code.top]


def test_no_label_file_raises_the_error_of_torchgeo(tmp_path):
    with pytest.raises(DatasetNotFoundError):
        LabelRaster(tmp_path)
    with pytest.raises(DatasetNotFoundError):
        LabelVector(tmp_path, classes={'a': 0})
    (tmp_path / 'text.tif').write_text('no raster')
    with pytest.warns(UserWarning, match=r'text\.tif'), pytest.raises(DatasetNotFoundError):
        LabelRaster(tmp_path)


def test_real_labels_of_another_crs_are_read(shared_data):
    folder = shared_data / 'zion'
    labels = LabelRaster(folder / 'zion_nlcd.tif', nodata=255)
    with rasterio.open(folder / 'zion_landsat_b4.tif') as src:
        grid = Grid(src.crs, src.bounds.left, src.bounds.top, *src.res, src.width, src.height)
    assert labels.crs.to_wkt() != grid.crs.to_wkt()
    codes = set(labels.mask(grid).unique().tolist())
    with rasterio.open(folder / 'zion_nlcd.tif') as src:
        assert codes <= {int(v) for v in np.unique(src.read(1))} | {255}
    assert len(codes) > 3


# -- vectors -----------------------------------------------------------------------------------


@pytest.fixture
def squares(tmp_path, code):
    """Two squares of 100 m in one file: by layer, or by the field ``kind``."""
    west = shapely.box(code.left, code.top - 100, code.left + 100, code.top)
    east = shapely.box(code.left + 200, code.top - 100, code.left + 300, code.top)

    def write(name='squares.gpkg', *, by='layer', epsg=code.epsg):
        path = tmp_path / name
        frame = gpd.GeoDataFrame(
            {'kind': ['wood', 'field']}, geometry=[west, east], crs=code.epsg
        ).to_crs(epsg)
        if by == 'layer':
            for kind, part in frame.groupby('kind'):
                part.to_file(path, layer=kind, driver='GPKG')
        else:
            frame.to_file(path)
        return path

    return write


EXPECTED = [0] * 10 + [255] * 10 + [1] * 10
CLASSES = {'wood': 0, 'field': 1}


@pytest.mark.parametrize('by', ['layer', 'kind'])
@pytest.mark.parametrize('epsg', [32632, 32633, 4326])
def test_pixel_has_the_class_of_the_polygon_at_its_centre(squares, code, by, epsg):
    attribute = None if by == 'layer' else by
    labels = LabelVector(squares(by=by, epsg=epsg), classes=CLASSES, attribute=attribute)
    mask = labels.mask(code.grid(code.left, code.top, 10, (12, 30)))
    assert mask.dtype == torch.int64
    for row in range(10):
        assert mask[row].tolist() == EXPECTED
    assert (mask[10:] == 255).all()


def test_long_edges_follow_the_ground(tmp_path, code):
    """A straight line in degrees is none in metres: its ends alone do not tell where it runs."""
    (lon, _), (lat, north) = warp_points(
        rasterio.CRS.from_epsg(code.epsg),
        rasterio.CRS.from_epsg(4326),
        [code.left, code.left],
        [code.top, code.top + 1000],
    )
    field = shapely.box(lon - 1, lat, lon + 1, north + 1)
    path = tmp_path / 'long.gpkg'
    gpd.GeoDataFrame({'kind': ['field']}, geometry=[field], crs='EPSG:4326').to_file(path)
    labels = LabelVector(path, classes={'field': 1}, attribute='kind')
    mask = labels.mask(code.grid(code.left - 50, code.top + 50, 10, (10, 10)))
    assert (mask[:4] == 1).all()
    assert (mask[6:] == 255).all()


def test_background_is_a_class_if_it_is_given(squares, code):
    labels = LabelVector(squares(), classes=CLASSES, background=2)
    mask = labels.mask(code.grid(code.left, code.top, 10, (12, 30)))
    assert mask[0].tolist() == [2 if v == 255 else v for v in EXPECTED]


def test_kinds_that_are_not_listed_are_left_out(squares, code):
    labels = LabelVector(squares(), classes={'field': 5})
    assert labels.mask(code.grid(code.left, code.top, 10, (12, 30))).unique().tolist() == [5, 255]


def test_query_of_polygons_gives_the_mask(squares, code):
    labels = LabelVector(squares(), classes=CLASSES)
    assert labels.res == (10, 10)
    sample = labels[labels.bounds]
    assert sample['mask'].shape == (10, 30)
    assert sample['mask'][0].tolist() == EXPECTED


@pytest.mark.parametrize(
    ('by', 'options', 'message'),
    [
        (
            'layer',
            {'classes': {'lake': 0}},
            r'squares\.gpkg: nothing has one of .*lake.* layer names',
        ),
        ('kind', {'classes': {'lake': 0}, 'attribute': 'kind'}, 'nothing has one of .* in kind'),
        ('kind', {'classes': CLASSES, 'attribute': 'type'}, "no field 'type'; it has kind"),
    ],
)
def test_polygons_that_cannot_be_used_are_named(squares, by, options, message):
    with pytest.raises(ValueError, match=message):
        LabelVector(squares(by=by), **options)


def test_layer_without_a_crs_is_named(tmp_path):
    frame = gpd.GeoDataFrame({'kind': ['wood']}, geometry=[shapely.box(0, 0, 1, 1)])
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        frame.to_file(tmp_path / 'bare.shp')
    with pytest.raises(ValueError, match='layer bare: has no coordinate reference system'):
        LabelVector(
            tmp_path / 'bare.shp', classes={'wood': 0}, attribute='kind', filename_glob='*.shp'
        )


def test_real_polygons_are_read(shared_data):
    folder = shared_data / 'aberystwyth'
    names = fiona.listlayers(folder / 'cls_poly_smpls.gpkg')
    classes = {name: i for i, name in enumerate(names)}
    labels = LabelVector(folder / 'cls_poly_smpls.gpkg', classes=classes)
    found = set(labels[labels.bounds]['mask'].unique().tolist())
    assert found == {*classes.values(), 255}
