# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import csv
import re
import xml.etree.ElementTree as ET
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio

from torchgeo_anysensor.sensors import Band, get_sensor
from torchgeo_anysensor.simulate import LAND_COVER
from torchgeo_anysensor.simulate.classes import class_spectra
from torchgeo_anysensor.simulate.responses import PLATFORMS, band_values

SENSORS = ('sentinel2_l2a', 'landsat_c2l2', 'hls_s30', 'hls_l30')
SPRING = {
    'sentinel2_l2a': 'S2A_*',
    'landsat_c2l2': 'LC08_*',
    'hls_s30': 'HLS.S30.*.2023123*',
    'hls_l30': 'HLS.L30.*.2023124*',
}
SUMMER = {
    'sentinel2_l2a': 'S2B_*',
    'landsat_c2l2': 'LC09_*',
    'hls_s30': 'HLS.S30.*.2023198*',
    'hls_l30': 'HLS.L30.*.2023196*',
}
PLATFORM = {'sentinel2_l2a': 'S2A', 'landsat_c2l2': 'LC08', 'hls_s30': 'S2A', 'hls_l30': 'LC08'}


def product(tree: Path, pattern: str) -> Path:
    (folder,) = tree.glob(f'*/{pattern}')
    return folder


def find(folder: Path, band: str, *, res: int | None = None) -> Path:
    ending = band if res is None else f'{band}_{res}m'
    (path,) = (p for p in folder.rglob('*') if re.search(rf'[_.]{ending}\.(jp2|tif|TIF)$', p.name))
    return path


def read(folder: Path, band: str, *, res: int | None = None) -> np.ndarray:
    with rasterio.open(find(folder, band, res=res)) as src:
        return src.read(1)


def calibrated(folder: Path, band: Band, *, res: int | None = None) -> np.ndarray:
    return read(folder, band.name, res=res).astype(float) * band.scale + band.offset


def truth(tree: Path) -> np.ndarray:
    with rasterio.open(next(tree.glob('landcover/*.tif'))) as src:
        return src.read(1)


def blocks(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape
    split = image.reshape(height // factor, factor, width // factor, factor)
    return split.transpose(0, 2, 1, 3).reshape(height // factor, width // factor, -1)


def truth_of(tree: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Class and purity of the pixels that `pixels_of` gives."""
    if name == 'landsat_c2l2':
        # 5 m cells; the pixels inside the place begin 15 m from its corner
        codes = blocks(truth(tree).repeat(2, 0).repeat(2, 1)[3:-3, 3:-3], 6)
    else:
        codes = blocks(truth(tree), 2 if name == 'sentinel2_l2a' else 3)
    return codes[..., 0], (codes == codes[..., :1]).all(-1)


def pixels_of(tree: Path, name: str) -> np.ndarray:
    """All bands of reflectance in spring, without Landsat's margin."""
    folder = product(tree, SPRING[name])
    bands = [b for b in get_sensor(name).bands if b.unit == 'reflectance' and b.name != 'B08']
    if name == 'sentinel2_l2a':
        # B09 is on the grid of 60 m alone
        bands = [band for band in bands if band.name != 'B09']
    res = 20 if name == 'sentinel2_l2a' else None
    stack = np.stack([calibrated(folder, band, res=res) for band in bands], axis=-1)
    return stack[5:-5, 5:-5] if name == 'landsat_c2l2' else stack


@pytest.mark.parametrize('name', SENSORS)
def test_names_are_those_of_the_sensor_table(tree, name):
    sensor = get_sensor(name)
    pattern = re.compile(sensor.filename_regex, re.VERBOSE)
    matches = [match for p in tree.rglob('*') if (match := pattern.match(p.name))]
    quality_bands = {qa.band for qa in sensor.qa}
    assert {match['band'] for match in matches} == {*sensor.band_names, *quality_bands}
    dates = {datetime.strptime(match['date'], sensor.date_format) for match in matches}
    assert sorted(date.month for date in dates) == [5, 7]
    assert len({match['tile'] for match in matches}) == 1


@pytest.mark.parametrize(('name', 'count'), [('sentinel2_l2a', 2), ('landsat_c2l2', 2)])
def test_metadata_have_the_names_of_the_sensor_table(tree, name, count):
    pattern = re.compile(get_sensor(name).metadata_regex, re.VERBOSE)
    assert len([p for p in tree.rglob('*') if pattern.match(p.name)]) == count


@pytest.mark.parametrize('name', ['sentinel2_l2a', 'landsat_c2l2'])
def test_satellites_are_those_of_the_sensor_table(tree, name):
    codes = [product(tree, folders[name]).name.split('_')[0] for folders in (SPRING, SUMMER)]
    found = [get_sensor(name).platform_codes[code] for code in codes]
    assert found == list(get_sensor(name).platforms)[:2]


def test_nothing_else_is_written(tree):
    rasters = {p.suffix for p in tree.rglob('*') if p.is_file()}
    assert rasters == {'.jp2', '.tif', '.TIF', '.xml', '.txt', '.csv'}
    assert not list(tree.rglob('*.aux.xml'))


@pytest.mark.parametrize('name', SENSORS)
def test_rasters_are_on_the_grid_of_the_product(tree, name):
    folder = product(tree, SPRING[name])
    with rasterio.open(next(tree.glob('landcover/*.tif'))) as src:
        place = src.bounds
    for path in folder.rglob('*'):
        if path.suffix not in ('.jp2', '.tif', '.TIF'):
            continue
        with rasterio.open(path) as src:
            assert src.crs.to_epsg() == 32631
            bounds = src.bounds
        if name == 'landsat_c2l2':
            assert {edge % 30 for edge in bounds} == {15}
            assert bounds.left < place.left - 60
            assert bounds.top > place.top + 60
            assert bounds.right > place.right + 60
            assert bounds.bottom < place.bottom - 60
        else:
            assert bounds == place
            assert {edge % 60 for edge in bounds} == {0}


def test_sentinel2_grids_have_the_bands_of_the_product(tree):
    folder = product(tree, SPRING['sentinel2_l2a'])
    grids = {res: set() for res in (10, 20, 60)}
    for path in folder.rglob('*.jp2'):
        band, res = path.stem.split('_')[-2:]
        assert path.parent.name == f'R{res}'
        grids[int(res[:-1])].add(band)
        with rasterio.open(path) as src:
            assert src.res == (int(res[:-1]),) * 2
    assert grids[10] == {'B02', 'B03', 'B04', 'B08'}
    coarse = {'B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B8A', 'B11', 'B12', 'SCL'}
    assert grids[20] == coarse
    assert grids[60] == coarse | {'B09'}


@pytest.mark.parametrize('name', SENSORS)
def test_pure_pixels_have_the_spectrum_of_their_class(tree, name):
    bands = [
        band
        for band in get_sensor(name).bands
        if band.unit == 'reflectance' and band.name not in ('B08', 'B09', 'B10')
    ]
    image = pixels_of(tree, name)[..., : len(bands)]
    if name == 'hls_s30':  # B09 and B10 stand between
        image = np.delete(pixels_of(tree, name), (8 + 0, 8 + 1), axis=-1)
    codes, pure = truth_of(tree, name)
    spectra = band_values(
        class_spectra(0.0), bands=tuple(bands), platform=PLATFORMS[PLATFORM[name]]
    )
    for code in LAND_COVER:
        seen = np.median(image[(codes == code) & pure], axis=0)
        # What haze, slopes and the guests of a class move
        assert (seen > spectra[code].min((0, 1)) * 0.9 - 0.02).all(), LAND_COVER[code]
        assert (seen < spectra[code].max((0, 1)) * 1.1 + 0.02).all(), LAND_COVER[code]


@pytest.mark.parametrize(
    ('name', 'res'), [('B04', 10), ('B08', 10), ('B8A', 20), ('B12', 20), ('B01', 60)]
)
def test_sentinel2_and_hls_s30_see_the_same(tree, name, res):
    l2a, s30 = (
        calibrated(product(tree, SPRING[key]), get_sensor(key).select([name])[0], res=res_of)
        for key, res_of in (('sentinel2_l2a', res), ('hls_s30', None))
    )
    # 60 m is the finest square that both grids fill
    coarse = blocks(s30, 2).mean(-1)
    difference = blocks(l2a, 60 // res).mean(-1) - coarse
    assert abs(difference.mean()) < 2e-4
    # Noise of 0.002 to 0.004 a pixel of B01 and B8A, less the averaging, from either product
    assert difference.std() < 0.004
    assert difference.std() < 0.1 * coarse.std()


@pytest.mark.parametrize(('l2', 'l30'), [('SR_B2', 'B02'), ('SR_B5', 'B05'), ('SR_B7', 'B07')])
def test_landsat_lies_where_it_says(tree, l2, l30):
    """L30 halves, put on the other grid, agree best where the corners say."""
    landsat = calibrated(
        product(tree, SPRING['landsat_c2l2']), get_sensor('landsat_c2l2').select([l2])[0]
    )
    hls = calibrated(product(tree, SPRING['hls_l30']), get_sensor('hls_l30').select([l30])[0])
    corners = []
    for key, band in (('landsat_c2l2', l2), ('hls_l30', l30)):
        with rasterio.open(find(product(tree, SPRING[key]), band)) as src:
            corners.append((src.bounds.top, src.bounds.left))
    # Cells of 15 m from the corner of Landsat to that of HLS
    down = round((corners[0][0] - corners[1][0]) / 15)
    right = round((corners[1][1] - corners[0][1]) / 15)
    cells = landsat.repeat(2, 0).repeat(2, 1)
    size = 2 * hls.shape[0]
    error = {}
    for row in range(max(0, down - 3), down + 4):
        for column in range(max(0, right - 3), right + 4):
            shifted = blocks(cells[row : row + size, column : column + size], 2).mean(-1)
            error[row, column] = np.abs(shifted - hls).mean()
    assert min(error, key=error.__getitem__) == (down, right)


def test_temperature_is_warm_in_town_and_cold_on_water(tree):
    band = get_sensor('landsat_c2l2').select(['ST_B10'])[0]
    kelvin = calibrated(product(tree, SPRING['landsat_c2l2']), band)[5:-5, 5:-5]
    codes, pure = truth_of(tree, 'landsat_c2l2')
    water, town = (kelvin[(codes == code) & pure].mean() for code in (1, 8))
    assert 280 < water < town < 300
    top = get_sensor('hls_l30').select(['B10'])[0]
    celsius = calibrated(product(tree, SPRING['hls_l30']), top)
    assert 0.5 < (kelvin.mean() - 273.15) - celsius.mean() < 3


def quality(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Masks by the sensor table and by the codes of the product."""
    clouds = get_sensor(name).qa[0]
    qa = read(folder, clouds.band, res=20 if name == 'sentinel2_l2a' else None)
    if name == 'sentinel2_l2a':
        bad = np.isin(qa, clouds.bad_values)
        return {'bad': bad, 'cloud': np.isin(qa, (8, 9)), 'shadow': qa == 3, 'fill': qa == 0}
    bits = [(qa >> bit) & 1 == 1 for bit in range(8)]
    bad = np.logical_or.reduce([bits[bit] for bit in clouds.bad_bits])
    if name == 'landsat_c2l2':
        return {'bad': bad, 'cloud': bits[3], 'shadow': bits[4], 'fill': bits[0]}
    fill = qa == 255
    return {'bad': bad, 'cloud': bits[1] & ~fill, 'shadow': bits[3] & ~fill, 'fill': fill}


@pytest.mark.parametrize('name', SENSORS)
def test_clouds_are_bright_shadows_dark_and_both_flagged(tree, name):
    sensor = get_sensor(name)
    folder = product(tree, SUMMER[name])
    masks = quality(folder, name)
    blue, nir = (
        calibrated(folder, band, res=20 if name == 'sentinel2_l2a' else None)
        for common in ('blue', 'nir08')
        for band in sensor.bands
        if band.common_name == common
    )
    seen = ~masks['fill']
    assert 0.03 < masks['cloud'][seen].mean() < 0.30
    assert blue[masks['cloud']].mean() > 0.30
    assert np.quantile(blue[masks['cloud']], 0.9) > 0.6
    good = ~masks['bad']
    assert good.any()
    assert blue[good].max() < 0.30
    # Edges of shadows are light
    assert np.median(nir[masks['shadow']]) < 0.85 * np.median(nir[good])
    assert not quality(product(tree, SPRING[name]), name)['bad'].any()


@pytest.mark.parametrize('name', SENSORS)
def test_fill_is_flagged_and_nothing_else_is_fill(tree, name):
    sensor = get_sensor(name)
    folder = product(tree, SUMMER[name])
    fill = quality(folder, name)['fill']
    expected = name in ('landsat_c2l2', 'hls_l30')
    assert fill.any() == expected
    for band in sensor.bands:
        if name == 'sentinel2_l2a' and band.name in ('B08', 'B09'):
            continue
        image = read(folder, band.name, res=20 if name == 'sentinel2_l2a' else None)
        assert ((image == sensor.nodata) == fill).all()


def test_clouds_of_two_satellites_differ(tree):
    s30, l30 = (quality(product(tree, SUMMER[n]), n)['cloud'] for n in ('hls_s30', 'hls_l30'))
    assert (s30 & l30).sum() < 0.5 * min(s30.sum(), l30.sum())


def by_histogram(train: np.ndarray, codes: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The best that one number can do: the most frequent class of each of 32 steps."""
    edges = np.unique(np.quantile(train, np.linspace(0, 1, 33)[1:-1]))
    votes = np.zeros((len(edges) + 1, max(LAND_COVER) + 1))
    np.add.at(votes, (np.digitize(train, edges), codes), 1)
    return votes.argmax(1)[np.digitize(test, edges)]


def by_all_bands(train: np.ndarray, codes: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Quadratic discriminant analysis."""
    known = np.unique(codes)
    scores = []
    for code in known:
        of_class = train[codes == code]
        covariance = np.cov(of_class.T) + 2e-6 * np.eye(train.shape[1])
        apart = test - of_class.mean(0)
        distance = np.einsum('ij,jk,ik->i', apart, np.linalg.inv(covariance), apart)
        scores.append(
            np.log((codes == code).mean()) - distance / 2 - np.linalg.slogdet(covariance)[1] / 2
        )
    return known[np.argmax(scores, axis=0)]


@pytest.mark.parametrize('name', SENSORS)
def test_no_single_band_separates_the_classes_and_all_do(tree, name):
    image = pixels_of(tree, name)
    codes, pure = truth_of(tree, name)
    x, y = image[pure], codes[pure].astype(int)
    half = np.arange(len(y)) % 2 == 0
    single = [(by_histogram(band[half], y[half], band[~half]) == y[~half]).mean() for band in x.T]
    multi = (by_all_bands(x[half], y[half], x[~half]) == y[~half]).mean()
    assert max(single) < 0.75
    assert multi > 0.90


def test_truth_has_names_colors_and_mixed_pixels(tree):
    with rasterio.open(next(tree.glob('landcover/*.tif'))) as src:
        codes = src.read(1)
        colors = src.colormap(1)
        tags = src.tags()
        assert src.nodata == 0
        assert src.res == (10, 10)
    shares = np.bincount(codes.ravel(), minlength=10) / codes.size
    assert shares[0] == 0
    assert (shares[1:] > 0.005).all()
    for code, cover in LAND_COVER.items():
        assert colors[code][:3] == cover.color
        assert tags[f'class_{code}'] == cover.name
    mixed = (blocks(codes, 3) != blocks(codes, 3)[..., :1]).any(-1).mean()
    assert 0.15 < mixed < 0.6
    with (tree / 'landcover' / 'classes.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert {int(row['code']): row['name'] for row in rows} == {
        code: cover.name for code, cover in LAND_COVER.items()
    }


def test_sentinel2_metadata_tells_baseline_and_offset(tree):
    folder = product(tree, SPRING['sentinel2_l2a'])
    root = ET.parse(folder / 'MTD_MSIL2A.xml').getroot()
    assert root.findtext('.//PROCESSING_BASELINE') == '05.09'
    assert root.findtext('.//PRODUCT_URI') == folder.name
    assert root.findtext('.//SPACECRAFT_NAME') == 'Sentinel-2A'
    band = get_sensor('sentinel2_l2a').bands[0]
    quantification = float(root.findtext('.//BOA_QUANTIFICATION_VALUE'))
    assert 1 / quantification == pytest.approx(band.scale)
    offsets = root.findall('.//BOA_ADD_OFFSET_VALUES_LIST/BOA_ADD_OFFSET')
    assert [row.get('band_id') for row in offsets] == [str(i) for i in range(13)]
    assert {float(row.text) / quantification for row in offsets} == {band.offset}
    files = [row.text for row in root.iter('IMAGE_FILE')]
    assert all((folder / f'{file}.jp2').is_file() for file in files)
    assert len(files) == len(list(folder.rglob('*.jp2')))


def test_landsat_metadata_tells_scale_and_time(tree):
    folder = product(tree, SPRING['landsat_c2l2'])
    text = (folder / f'{folder.name}_MTL.txt').read_text()
    rows = dict(re.findall(r'^\s*(\w+) = (.+)$', text, re.MULTILINE))
    assert rows['DATE_ACQUIRED'] == '2023-05-04'
    assert rows['SCENE_CENTER_TIME'].startswith('"10:39:52')
    assert rows['SPACECRAFT_ID'] == '"LANDSAT_8"'
    assert text.count('END_GROUP = ') == len(re.findall(r'^\s*GROUP = ', text, re.MULTILINE))
    for band in get_sensor('landsat_c2l2').bands:
        key = band.name.replace('SR_B', 'BAND_').replace('ST_B', 'BAND_ST_B')
        quantity = 'TEMPERATURE' if band.unit == 'kelvin' else 'REFLECTANCE'
        assert float(rows[f'{quantity}_MULT_{key}']) == band.scale
        assert float(rows[f'{quantity}_ADD_{key}']) == band.offset
        assert (folder / rows[f'FILE_NAME_{key}'].strip('"')).is_file()
