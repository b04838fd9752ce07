# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Write a Sentinel-2 Level-2A product (SAFE folder, processing baseline 05.09)."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..sensors import Band, get_sensor
from .fields import Field, area_mean, generator
from .landcover import BARE, BUILT, WATER
from .place import Place
from .raster import Grid, to_dn, write_jp2
from .sampling import Flags, noisy, pixel_flags, pixels, repeat
from .scene import Scene

_BASELINE = '05.09'
_ORBIT = 94
# On the coarser grids, bands of finer pixels are there again; B08 is on its own grid alone
_EXTRA = {
    20: ('B01', 'B02', 'B03', 'B04'),
    60: ('B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B8A', 'B11', 'B12'),
}
_NAMESPACE = 'https://psd-14.sentinel2.eo.esa.int/PSD'


def _compact(time: np.datetime64) -> str:
    """Time as 20230503T105621."""
    return str(time.astype('datetime64[s]')).replace('-', '').replace(':', '')


def safe_name(place: Place, scene: Scene) -> str:
    """Name of the product folder."""
    acquisition = scene.acquisition
    time = _compact(acquisition.time)
    made = _compact(acquisition.time + np.timedelta64(6 * 3600 + 219, 's'))
    baseline = _BASELINE.replace('.', '')
    code = acquisition.platform.code
    return f'{code}_MSIL2A_{time}_N{baseline}_R{_ORBIT:03}_T{place.tile}_{made}.SAFE'


def _granule_name(place: Place, scene: Scene) -> str:
    """Name of the granule in it."""
    acquisition = scene.acquisition
    # Orbit number: any plausible one, growing with time
    orbit = 30000 + int((acquisition.time - np.datetime64('2021-01-01')).astype(int) // 6042)
    start = _compact(acquisition.time + np.timedelta64(6, 's'))
    return f'L2A_T{place.tile}_A{orbit:06}_{start}'


def scene_classification(flags: Flags) -> NDArray[np.uint8]:
    """SCL codes: 0 no data, 3 shadow, 4 vegetation, 5 bare, 6 water, 8 and 9 cloud."""
    codes = np.full(flags.cover.shape, 4, dtype=np.uint8)
    codes[np.isin(flags.cover, (BARE, BUILT))] = 5
    codes[flags.cover == WATER] = 6
    codes[flags.shadow] = 3
    codes[flags.cloud] = 8
    codes[flags.cloud & flags.dense] = 9
    codes[flags.missing] = 0
    return codes


def _on_grid(native: Field, *, band: Band, res: int) -> Field:
    """A band on another grid of the product: the mean of finer pixels, or coarser ones repeated."""
    if res >= band.gsd_m:
        return area_mean(native, round(res / band.gsd_m))
    return repeat(native, round(band.gsd_m / res))


def _write_bands(folder: Path, stem: str, *, scene: Scene, place: Place, seed: int) -> None:
    """Write the bands of all grids."""
    sensor = get_sensor('sentinel2_l2a')
    grids = (10, 20, 60)
    missing = {res: pixel_flags(scene, region=place.inner, res=res).missing for res in grids}
    for band in sensor.bands:
        clean = pixels(scene, band, region=place.inner, res=band.gsd_m)
        rng = generator(seed, 'safe', place.number, str(scene.acquisition.time), band.name)
        native = noisy(clean, scene=scene, band=band, rng=rng)
        for res in grids:
            if res != band.gsd_m and band.name not in _EXTRA.get(res, ()):
                continue
            dn = to_dn(
                _on_grid(native, band=band, res=res),
                band=band,
                dtype='uint16',
                nodata=sensor.nodata,
                missing=missing[res],
            )
            path = folder / f'R{res}m' / f'{stem}_{band.name}_{res}m.jp2'
            write_jp2(path, dn, grid=place.grid(res))


def write_safe(root: Path, scene: Scene, *, place: Place, seed: int) -> Path:
    """Write one product.

    Args:
        root: Folder that gets the product.
        scene: What Sentinel-2 could see.
        place: The place.
        seed: Seed of the noise.

    Returns:
        The product folder.
    """
    product_name, granule_name = safe_name(place, scene), _granule_name(place, scene)
    product = root / product_name
    granule = product / 'GRANULE' / granule_name
    images = granule / 'IMG_DATA'
    for res in (10, 20, 60):
        (images / f'R{res}m').mkdir(parents=True)
    stem = f'T{place.tile}_{_compact(scene.acquisition.time)}'
    _write_bands(images, stem, scene=scene, place=place, seed=seed)
    for res in (20, 60):
        flags = pixel_flags(scene, region=place.inner, res=res)
        path = images / f'R{res}m' / f'{stem}_SCL_{res}m.jp2'
        write_jp2(path, scene_classification(flags), grid=place.grid(res))
    flags = pixel_flags(scene, region=place.inner, res=20)
    files = sorted(path.relative_to(product).with_suffix('') for path in images.rglob('*.jp2'))
    _write_xml(product / 'MTD_MSIL2A.xml', _product_metadata(product_name, scene, flags, files))
    _write_xml(granule / 'MTD_TL.xml', _tile_metadata(place, scene))
    return product


def _add(parent: ET.Element, path: str, text: object = None, **attributes: str) -> ET.Element:
    """Add an element, and those above it that are not there yet."""
    *above, name = path.split('/')
    for step in above:
        found = parent.find(step)
        parent = ET.SubElement(parent, step) if found is None else found
    element = ET.SubElement(parent, name, attributes)
    element.text = None if text is None else str(text)
    return element


def _product_metadata(name: str, scene: Scene, flags: Flags, files: list[Path]) -> ET.Element:
    """Metadata of the product: the parts of the real file that tell how to read the images."""
    acquisition = scene.acquisition
    title = acquisition.platform.title
    time = f'{acquisition.time}.024Z'
    root = ET.Element(
        'n1:Level-2A_User_Product', {'xmlns:n1': f'{_NAMESPACE}/User_Product_Level-2A.xsd'}
    )
    general = _add(root, 'n1:General_Info')
    info = _add(general, 'Product_Info')
    for tag, text in (
        ('PRODUCT_START_TIME', time),
        ('PRODUCT_STOP_TIME', time),
        ('PRODUCT_URI', name),
        ('PROCESSING_LEVEL', 'Level-2A'),
        ('PRODUCT_TYPE', 'S2MSI2A'),
        ('PROCESSING_BASELINE', _BASELINE),
        ('Datatake/SPACECRAFT_NAME', title),
        ('Datatake/DATATAKE_TYPE', 'INS-NOBS'),
        ('Datatake/DATATAKE_SENSING_START', time),
        ('Datatake/SENSING_ORBIT_NUMBER', _ORBIT),
        ('Datatake/SENSING_ORBIT_DIRECTION', 'DESCENDING'),
    ):
        _add(info, tag, text)
    granule = _add(info, 'Product_Organisation/Granule_List/Granule', imageFormat='JPEG2000')
    for file in files:
        _add(granule, 'IMAGE_FILE', file.as_posix())
    facts = _add(general, 'Product_Image_Characteristics')
    for text, code in (('NODATA', 0), ('SATURATED', 65535)):
        special = _add(facts, 'Special_Values')
        _add(special, 'SPECIAL_VALUE_TEXT', text)
        _add(special, 'SPECIAL_VALUE_INDEX', code)
    _radiometry(facts, title.lower())
    quality = _add(root, 'n1:Quality_Indicators_Info')
    _add(quality, 'Cloud_Coverage_Assessment', f'{flags.cloud_percent:.6f}')
    return root


def _radiometry(facts: ET.Element, platform: str) -> None:
    """Scale, offset and spectral facts of the bands, numbered as the instrument has them."""
    bands = get_sensor('sentinel2_l1c').bands_of(platform)
    scale = {band.scale for band in bands}.pop()
    lists = _add(facts, 'QUANTIFICATION_VALUES_LIST')
    _add(lists, 'BOA_QUANTIFICATION_VALUE', round(1 / scale), unit='none')
    offsets = _add(facts, 'BOA_ADD_OFFSET_VALUES_LIST')
    spectral = _add(facts, 'Spectral_Information_List')
    for number, band in enumerate(bands):
        _add(offsets, 'BOA_ADD_OFFSET', round(band.offset / band.scale), band_id=str(number))
        physical = 'B' + band.name.removeprefix('B').lstrip('0')
        row = _add(spectral, 'Spectral_Information', bandId=str(number), physicalBand=physical)
        _add(row, 'RESOLUTION', round(band.gsd_m))
        _add(row, 'Wavelength/CENTRAL', f'{1000 * band.center_wavelength_um:.1f}', unit='nm')


def _tile_metadata(place: Place, scene: Scene) -> ET.Element:
    """Metadata of the granule: position, size and sun."""
    root = ET.Element(
        'n1:Level-2A_Tile_ID', {'xmlns:n1': f'{_NAMESPACE}/S2_PDI_Level-2A_Tile_Metadata.xsd'}
    )
    _add(root, 'n1:General_Info/SENSING_TIME', f'{scene.acquisition.time}.024Z')
    geometry = _add(root, 'n1:Geometric_Info')
    coding = _add(geometry, 'Tile_Geocoding')
    grid: Grid = place.grid(10)
    _add(coding, 'HORIZONTAL_CS_NAME', f'WGS84 / UTM zone {grid.epsg % 100}N')
    _add(coding, 'HORIZONTAL_CS_CODE', f'EPSG:{grid.epsg}')
    for res in (10, 20, 60):
        size = _add(coding, 'Size', resolution=str(res))
        _add(size, 'NROWS', place.size_m // res)
        _add(size, 'NCOLS', place.size_m // res)
    for res in (10, 20, 60):
        corner = _add(coding, 'Geoposition', resolution=str(res))
        for tag, value in (
            ('ULX', round(grid.left)),
            ('ULY', round(grid.top)),
            ('XDIM', res),
            ('YDIM', -res),
        ):
            _add(corner, tag, value)
    azimuth, elevation = scene.acquisition.sun
    sun = _add(geometry, 'Tile_Angles/Mean_Sun_Angle')
    _add(sun, 'ZENITH_ANGLE', f'{90 - elevation:.4f}', unit='deg')
    _add(sun, 'AZIMUTH_ANGLE', f'{azimuth:.4f}', unit='deg')
    return root


def _write_xml(path: Path, root: ET.Element) -> None:
    """Write an indented XML file."""
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding='UTF-8', xml_declaration=True)
