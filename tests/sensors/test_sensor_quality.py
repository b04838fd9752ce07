# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import pytest

from torchgeo_anysensor.sensors import QA, SENSORS, Sensor


def quality(name: str, band: str) -> QA:
    (qa,) = (qa for qa in SENSORS[name].qa if qa.band == band)
    return qa


def is_bad(qa: QA, value: int, *, bands: tuple[str, ...] = ()) -> bool:
    bits = (*qa.bad_bits, *(bit for band, bit in qa.band_bits if band in bands))
    return value in qa.bad_values or any(value >> bit & 1 for bit in bits)


def test_quality_bands_are_those_of_the_product_clouds_first():
    assert {name: [qa.band for qa in sensor.qa] for name, sensor in SENSORS.items()} == {
        'sentinel2_l2a': ['SCL'],
        'sentinel2_l1c': ['MSK_CLASSI'],
        'landsat_c2l2': ['QA_PIXEL', 'QA_RADSAT'],
        'landsat_c2l1': ['QA_PIXEL', 'QA_RADSAT'],
        'hls_s30': ['Fmask'],
        'hls_l30': ['Fmask'],
    }


@pytest.mark.parametrize(
    ('name', 'band', 'good', 'bad'),
    [
        # Codes of the scene classification
        ('sentinel2_l2a', 'SCL', (2, 4, 5, 6, 7, 11), (0, 1, 3, 8, 9, 10)),
        # Clear, snow; opaque cloud, cirrus, both, opaque cloud over snow, cirrus over snow
        ('sentinel2_l1c', 'MSK_CLASSI', (0b000, 0b100), (0b001, 0b010, 0b011, 0b101, 0b110)),
        # Common values: clear land, clear water, snow; fill, dilated cloud, cloud, cirrus, shadow
        ('landsat_c2l2', 'QA_PIXEL', (21824, 21952, 30048), (1, 21826, 22280, 54596, 23888)),
        ('landsat_c2l1', 'QA_PIXEL', (21824, 21952, 30048), (1, 21826, 22280, 54596, 23888)),
        # Clear land with low and high aerosol, water, snow; cloud, adjacent, shadow, fill
        ('hls_s30', 'Fmask', (64, 192, 96, 80), (66, 68, 72, 255)),
        ('hls_l30', 'Fmask', (64, 192, 96, 80), (66, 68, 72, 255)),
    ],
)
def test_quality_keeps_ground_and_drops_cloud_shadow_and_fill(name, band, good, bad):
    qa = quality(name, band)
    assert not [value for value in good if is_bad(qa, value)]
    assert not [value for value in bad if not is_bad(qa, value)]


@pytest.mark.parametrize(
    ('name', 'band', 'fill'),
    [
        ('sentinel2_l2a', 'SCL', 0),
        ('sentinel2_l1c', 'MSK_CLASSI', None),
        ('landsat_c2l2', 'QA_PIXEL', 1),
        ('landsat_c2l1', 'QA_PIXEL', 1),
        ('landsat_c2l2', 'QA_RADSAT', None),
        ('hls_s30', 'Fmask', 255),
        ('hls_l30', 'Fmask', 255),
    ],
)
def test_fill_is_the_documented_value_and_bad(name, band, fill):
    qa = quality(name, band)
    assert qa.fill == fill
    assert fill is None or is_bad(qa, fill)


# Number of the band to its bit in QA_RADSAT: LSDS-1619 and LSDS-1822
SATURATION = {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6, 9: 8}


@pytest.mark.parametrize(('name', 'prefix'), [('landsat_c2l2', 'SR_B'), ('landsat_c2l1', 'B')])
def test_saturation_bit_is_that_of_the_band(name, prefix):
    qa = quality(name, 'QA_RADSAT')
    known = {f'{prefix}{n}': bit for n, bit in SATURATION.items()}
    assert dict(qa.band_bits) == {b: known[b] for b in SENSORS[name].band_names if b in known}
    for band in SENSORS[name].band_names:
        # Bands 8, 10 and 11 have no bit
        bad = [bit for bit in range(16) if is_bad(qa, 1 << bit, bands=(band,))]
        assert bad == ([known[band], 11] if band in known else [11])


def test_saturation_of_bands_that_are_not_read_does_no_harm():
    qa = quality('landsat_c2l2', 'QA_RADSAT')
    # 30 is in LC08_L2SP_008059_20191201_20200825_02_T1: bits 1 to 4, blue to near infrared
    hit = [band for band in SENSORS['landsat_c2l2'].band_names if is_bad(qa, 30, bands=(band,))]
    assert hit == ['SR_B2', 'SR_B3', 'SR_B4', 'SR_B5']
    assert not is_bad(qa, 1 << 8, bands=SENSORS['landsat_c2l2'].band_names)  # cirrus
    assert is_bad(quality('landsat_c2l1', 'QA_RADSAT'), 1 << 8, bands=('B9',))
    assert is_bad(qa, 1 << 11)  # terrain hides the ground, for all bands


@pytest.mark.parametrize('sensor', SENSORS.values(), ids=SENSORS.keys())
def test_quality_speaks_of_bands_that_the_sensor_has(sensor: Sensor):
    for qa in sensor.qa:
        assert qa.bad_bits or qa.bad_values
        assert {band for band, _ in qa.band_bits} <= set(sensor.band_names)
        assert qa.band not in sensor.band_names
