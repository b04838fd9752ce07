# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import math

import numpy as np
import pandas as pd
import pytest
import shapely

from torchgeo_anysensor.datasets.safe import (
    BAND_IDS,
    baseline_offset,
    clear_fraction,
    parse_xml,
    product_name,
    read_cloud_polygons,
    read_metadata,
)

NOT_CLEAR = {'SATURATED_DEFECTIVE_PIXEL': 1, 'CLOUD_SHADOW': 4, 'MEDIUM_PROBA_CLOUDS': 8}
NOT_CLEAR |= {'HIGH_PROBA_CLOUDS': 16, 'THIN_CIRRUS': 0.5}
CLEAR = {'DARK_FEATURES': 2, 'VEGETATION': 55.5, 'UNCLASSIFIED': 3, 'WATER': 2, 'SNOW_ICE': 8}
L2A_COVER = {'NODATA_PIXEL': 20, **NOT_CLEAR, **CLEAR}
OFFSET_TAG = {'L1C': 'RADIO_ADD_OFFSET', 'L2A': 'BOA_ADD_OFFSET'}


def metadata(level='L2A', *, baseline='05.09', offsets=None, cover=None, cloud=None, **changes):
    """Product metadata as ESA lays them out; a change is the text of an element, None drops it."""
    quantification = 'QUANTIFICATION_VALUE' if level == 'L1C' else 'BOA_QUANTIFICATION_VALUE'
    texts = {
        'PROCESSING_LEVEL': f'Level-{level[1:]}',
        'PROCESSING_BASELINE': baseline,
        'SPACECRAFT_NAME': 'Sentinel-2C',
        'DATATAKE_SENSING_START': '2025-06-14T10:15:59.924Z',
        quantification: changes.pop('QUANTIFICATION', '10000'),
        'Cloud_Coverage_Assessment': cloud,
    } | changes
    facts = ''.join(f'<{k}>{v}</{k}>' for k, v in texts.items() if v is not None)
    tag = OFFSET_TAG[level]
    rows = ''.join(f'<{tag} band_id="{k}">{v}</{tag}>' for k, v in (offsets or {}).items())
    image = (
        'GRANULE/L2A_T32TPQ_A026000_20250614T101600/IMG_DATA/R10m/T32TPQ_20250614T101559_B02_10m'
    )
    classes = ''.join(f'<{k}_PERCENTAGE>{v}</{k}_PERCENTAGE>' for k, v in (cover or {}).items())
    return (
        f'<?xml version="1.0"?><n1:Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/x.xsd">'
        f'<n1:General_Info>{facts}<IMAGE_FILE>{image}</IMAGE_FILE>{rows}'
        '<L1C_TOA_QUANTIFICATION_VALUE>77</L1C_TOA_QUANTIFICATION_VALUE>'
        '<AOT_QUANTIFICATION_VALUE>1000.0</AOT_QUANTIFICATION_VALUE></n1:General_Info>'
        '<n1:Quality_Indicators_Info><Technical_Quality_Assessment>'
        '<DEGRADED_MSI_DATA_PERCENTAGE>3</DEGRADED_MSI_DATA_PERCENTAGE>'
        f'</Technical_Quality_Assessment><Image_Content_QI>{classes}'
        '<AOT_RETRIEVAL_ACCURACY>0.0</AOT_RETRIEVAL_ACCURACY></Image_Content_QI>'
        '</n1:Quality_Indicators_Info></n1:Product>'
    ).encode()


def read(*args, **options):
    return read_metadata(metadata(*args, **options), source='MTD.xml')


def bomb():
    rows = ''.join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    return f'<!DOCTYPE p [<!ENTITY e0 "lol">{rows}]><p>&e9;</p>'


REFUSED = {
    'bomb': bomb().encode(),
    'bomb in UTF-16': bomb().encode('utf-16'),
    'one entity in UTF-16': '<!DOCTYPE p [<!ENTITY a "b">]><p>&a;</p>'.encode('utf-16'),
    'external subset': b'<!DOCTYPE p SYSTEM "http://127.0.0.1:9/x.dtd"><p/>',
    'parameter entity': b'<!DOCTYPE p [<!ENTITY % x SYSTEM "file:///etc/hosts"> %x;]><p/>',
    'external entity': b'<!DOCTYPE p [<!ENTITY a SYSTEM "file:///etc/hosts">]><p>&a;</p>',
    'no entity': b'<!DOCTYPE html><p/>',
    'after a long comment': b'<!--' + b'x' * 200_000 + b'--><!DOCTYPE p><p/>',
}


@pytest.mark.parametrize('content', REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize('reader', [parse_xml, read_metadata, read_cloud_polygons])
def test_doctype_is_refused_whatever_the_encoding(reader, content):
    # Were the entities expanded first, the parser would complain of the amplification instead
    with pytest.raises(ValueError, match=r'^zip/MTD\.xml: .*has no DOCTYPE, this one does$'):
        reader(content, source='zip/MTD.xml')


NO_XML = [b'', b'<p><q></p>', b'PK\x03\x04', b'<p>&a;</p>', '<p/>'.encode('utf-32')]
NO_XML += [f'<?xml version="1.0" encoding="{e}"?><p/>'.encode() for e in ('no-such', 'utf-7')]


@pytest.mark.parametrize('content', NO_XML)
def test_what_is_no_xml_is_an_error_that_names_the_file(content):
    with pytest.raises(ValueError, match=r'^a/MTD\.xml: '):
        parse_xml(content, source='a/MTD.xml')


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_harmless_xml_is_read_in_any_encoding(encoding):
    root = parse_xml('<p><q>µm &lt;</q></p>'.encode(encoding), source='x')
    assert root.findtext('q') == 'µm <'


@pytest.mark.parametrize('level', ['L1C', 'L2A'])
def test_offset_of_each_band_is_its_own(level):
    offsets = {number: -100 * (number + 1) for number in range(13)}
    found = read(level, offsets=offsets, QUANTIFICATION='5000').offsets
    assert found == {name: -100.0 * (number + 1) for number, name in enumerate(BAND_IDS)}
    assert (found['B08'], found['B8A'], found['B09'], found['B12']) == (-800, -900, -1000, -1300)


def test_offset_is_that_of_the_metadata_and_not_of_their_baseline():
    assert read(baseline='02.14').offsets == dict.fromkeys(BAND_IDS, 0.0)
    offsets = dict.fromkeys(range(13), -500)
    assert read(baseline='02.14', offsets=offsets).offsets == dict.fromkeys(BAND_IDS, -500.0)


def test_facts_of_a_product():
    found = read(offsets=dict.fromkeys(range(13), -1000), cover=L2A_COVER)
    assert (found.level, found.platform, found.baseline) == ('L2A', 'sentinel-2c', '05.09')
    assert found.start == pd.Timestamp('2025-06-14T10:15:59')
    assert found.start.tzinfo is None
    assert found.quantification == 10_000
    assert set(found.offsets.values()) == {-1000.0}
    assert found.tiles == ('T32TPQ',)
    assert found.cover == L2A_COVER


def test_metadata_of_the_pilot_production_are_read():
    text = metadata(PROCESSING_LEVEL='Level-2Ap', baseline='02.05', cover=L2A_COVER).decode()
    text = text.replace('IMAGE_FILE>', 'IMAGE_FILE_2A>')
    for name in ('BOA_QUANTIFICATION_VALUE', 'Image_Content_QI'):
        text = text.replace(f'{name}>', f'L2A_{name}>')
    found = read_metadata(text.encode(), source='MTD.xml')
    assert (found.level, found.quantification, found.tiles) == ('L2A', 10_000, ('T32TPQ',))
    assert found.cover == L2A_COVER


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'QUANTIFICATION': None}, 'has no QUANTIFICATION_VALUE; is it the metadata of a product'),
        ({'QUANTIFICATION': ''}, 'has no QUANTIFICATION_VALUE'),
        ({'QUANTIFICATION': 'many'}, "QUANTIFICATION_VALUE='many' is not a number"),
        ({'QUANTIFICATION': 'inf'}, "QUANTIFICATION_VALUE='inf' is not a number"),
        ({'QUANTIFICATION': '0'}, 'QUANTIFICATION_VALUE=0.0 is not positive'),
        ({'offsets': {3: ''}}, 'BOA_ADD_OFFSET 3=None is not a number'),
        ({'offsets': {3: 'nan'}}, "BOA_ADD_OFFSET 3='nan' is not a number"),
        ({'offsets': {13: -1000}}, "BOA_ADD_OFFSET has band_id='13', not 0 to 12"),
        ({'offsets': {-1: -1000}}, "BOA_ADD_OFFSET has band_id='-1', not 0 to 12"),
        ({'offsets': {'B02': -1000}}, "BOA_ADD_OFFSET has band_id='B02', not 0 to 12"),
        ({'PROCESSING_LEVEL': 'Level-1B'}, "PROCESSING_LEVEL='Level-1B' is none of Level-1C"),
        ({'PROCESSING_BASELINE': 'x'}, "PROCESSING_BASELINE='x' is not like 05.09"),
        ({'SPACECRAFT_NAME': None}, 'has no SPACECRAFT_NAME'),
        ({'DATATAKE_SENSING_START': None}, 'has no DATATAKE_SENSING_START'),
        ({'DATATAKE_SENSING_START': 'noon'}, "DATATAKE_SENSING_START='noon' is not a time"),
    ],
)
def test_metadata_that_tell_too_little_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=rf'^MTD\.xml: {message}'):
        read(**options)


def test_share_of_clear_pixels_is_of_those_observed():
    assert sum([*NOT_CLEAR.values(), *CLEAR.values()]) == 100
    assert clear_fraction(read(cover=L2A_COVER)) == pytest.approx(0.705)
    assert clear_fraction(read('L1C', cloud='88.2972')) == pytest.approx(0.117028)


@pytest.mark.parametrize(
    'cover',
    [
        {},
        {k: v for k, v in L2A_COVER.items() if k != 'THIN_CIRRUS'},
        L2A_COVER | {'THIN_CIRRUS': 'N/A'},
        L2A_COVER | {'THIN_CIRRUS': 'nan'},
        dict.fromkeys(L2A_COVER, 0) | {'NODATA_PIXEL': '100.000000'},
    ],
    ids=['none', 'one missing', 'not available', 'nan', 'all nodata'],
)
def test_share_of_clear_pixels_that_nothing_tells_is_nan(cover):
    found = read(cover=cover)
    assert math.isnan(clear_fraction(found))
    assert not any(map(math.isnan, found.cover.values()))
    assert math.isnan(clear_fraction(read('L1C')))


def test_rounded_percentages_keep_the_share_in_its_range():
    cover = dict.fromkeys(L2A_COVER, 0) | {'HIGH_PROBA_CLOUDS': 100.000001}
    assert clear_fraction(read(cover=cover)) == 0


BEFORE, AFTER = ('02.04', '02.14', '03.01', 'N0301'), ('04.00', 'N0400', '05.09', 'N0511', '05.99')


@pytest.mark.parametrize(
    ('baseline', 'offset'), [(b, 0) for b in BEFORE] + [(b, -1000) for b in AFTER]
)
def test_offset_that_a_baseline_implies(baseline, offset):
    assert baseline_offset(baseline) == offset


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('06.00', 'N0600', 'N9999'), 'offsets are known up to 05.99; this product needs its MTD'),
        (('', '5', '5.9', 'N05', '05.09.1', 'x05.09'), 'is not like 05.09 or N0509'),
    ],
)
def test_offset_of_an_unknown_baseline_is_not_guessed(names, message):
    for name in names:
        with pytest.raises(ValueError, match=f'^baseline={name!r}.*{message}'):
            baseline_offset(name)


ESA = 'S2C_MSIL2A_20200614T101559_N0214_R065_T32TPQ_20200614T120000'


@pytest.mark.parametrize(
    'path',
    [
        ESA,
        f'/data/2020/{ESA}.zip',
        f'/data/{ESA}.SAFE/GRANULE/L2A_T32TPQ_A026000_20200614T101600/IMG_DATA/R10m/x.jp2',
        f'/vsizip//data/{ESA}.zip/{ESA}.SAFE/MTD_MSIL2A.xml',
        f'esa_{ESA}.SAFE\\MTD_MSIL2A.xml',
        # The innermost counts
        f'S2B_MSIL1C_20190101T000000_N0500_R001_T01CCV_20190101T000000.SAFE/{ESA}.SAFE',
        f'S2B_01CCV_20190101_0_L2A/{ESA}.SAFE',
    ],
)
def test_name_of_esa_is_found_in_any_component(path):
    found = product_name(path)
    assert (found.platform, found.level, found.tile) == ('S2C', 'L2A', 'T32TPQ')
    assert found.start == pd.Timestamp('2020-06-14T10:15:59')
    assert (found.baseline, found.orbit) == ('02.14', 65)


@pytest.mark.parametrize(
    ('path', 'start', 'tile', 'level'),
    [
        ('c/S2A_32TPQ_20200614_0_L2A/B02.tif', '2020-06-14', 'T32TPQ', 'L2A'),
        ('S2A_1CCV_20200614_10_L1C', '2020-06-14', 'T01CCV', 'L1C'),
        ('S2A_T32TPQ_20200614T101559_L2A/B02.tif', '2020-06-14T10:15:59', 'T32TPQ', 'L2A'),
    ],
)
def test_name_of_element_84_has_no_baseline(path, start, tile, level):
    found = product_name(path)
    assert (found.platform, found.tile, found.level) == ('S2A', tile, level)
    assert found.start == pd.Timestamp(start)
    assert found.baseline is None
    assert found.orbit is None


@pytest.mark.parametrize(
    'path',
    [
        '',
        'GRANULE/L2A_T32TPQ_A026000_20200614T101600/T32TPQ_20200614T101559_B02_10m.jp2',
        ESA.replace('20200614T101559', '20200640T101559'),
        ESA.replace('T32TPQ', 'T32IPQ'),  # MGRS has no I
        ESA.replace('_N0214', ''),
        f'X{ESA}',
        'HLS.S30.T32TPQ.2020166T101559.v2.0',
        'LC08_L2SP_193029_20200614_20210101_02_T1',
    ],
)
def test_path_without_a_name_has_none(path):
    assert product_name(path) is None


RING = '699960 4900020 700080 4900020 700080 4899900 699960 4899900 699960 4900020'
HOLE = '699980 4900000 700000 4900000 700000 4899980 699980 4899980 699980 4900000'


def gml(*members):
    """Mask as in baselines 02.04 to 03.01."""
    inside = f'<eop:maskMembers>{"".join(members)}</eop:maskMembers>' if members else ''
    return (
        '<?xml version="1.0" encoding="UTF-8"?><eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0"'
        ' xmlns:gml="http://www.opengis.net/gml/3.2" gml:id="S2B_OPER_MSK_CLOUDS">'
        f'<gml:name>MSK_CLOUDS pixels mask</gml:name>{inside or "<eop:maskMembers/>"}</eop:Mask>'
    ).encode()


def member(kind, exterior, *interiors, dimension=' srsDimension="2"'):
    def ring(tag, points):
        return (
            f'<gml:{tag}><gml:LinearRing><gml:posList{dimension}>{points}</gml:posList>'
            f'</gml:LinearRing></gml:{tag}>'
        )

    rings = ring('exterior', exterior) + ''.join(ring('interior', points) for points in interiors)
    label = (
        f'<eop:maskType codeSpace="urn:gs2:S2PDGS:maskType">{kind}</eop:maskType>' if kind else ''
    )
    return (
        f'<eop:MaskFeature gml:id="x.0">{label}<eop:extentOf><gml:Polygon gml:id="x.0_Polygon">'
        f'{rings}</gml:Polygon></eop:extentOf></eop:MaskFeature>'
    )


def test_clouds_are_polygons_with_their_kind():
    content = gml(member('OPAQUE', RING, HOLE), member('CIRRUS', HOLE))
    (opaque, first), (cirrus, second) = read_cloud_polygons(content, source='x')
    assert (first, second) == ('OPAQUE', 'CIRRUS')
    assert opaque.bounds == (699960, 4899900, 700080, 4900020)
    assert opaque.area == 120**2 - 20**2
    assert cirrus.equals(shapely.box(699980, 4899980, 700000, 4900000))


@pytest.mark.parametrize(
    ('dimension', 'size'), [('', 2), (' srsDimension="2"', 2), (' srsDimension="3"', 3)]
)
def test_points_have_as_many_coordinates_as_they_say(dimension, size):
    points = np.array(RING.split(), dtype=float).reshape(-1, 2)
    padded = np.hstack([points, np.full((5, size - 2), 7.0)])
    text = ' '.join(map(str, padded.ravel()))
    (polygon, _), *_ = read_cloud_polygons(
        gml(member('OPAQUE', text, dimension=dimension)), source='x'
    )
    assert polygon.equals(shapely.box(699960, 4899900, 700080, 4900020))
    assert not polygon.has_z


def test_mask_of_a_clear_tile_is_empty():
    assert read_cloud_polygons(gml(), source='x') == []
    without = gml().replace(b'<eop:maskMembers/>', b'')
    assert read_cloud_polygons(without, source='x') == []


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (metadata(), r'not a mask; expected <eop:Mask>, the root is <.*Product>'),
        (gml(member('', RING)), 'a MaskFeature has no maskType'),
        (gml(member('OPAQUE', '0 0 1 0 1 1 0')), 'not a list of points'),
        (gml(member('OPAQUE', '0 0 1 0 1 x 0 0')), 'not a list of points'),
        (gml(member('OPAQUE', '0 0 1 0')), 'a ring needs 4 finite points'),
        (gml(member('OPAQUE', '0 0 1 0 nan 1 0 0')), 'a ring needs 4 finite points'),
        (gml(member('OPAQUE', RING, dimension=' srsDimension="1"')), 'a ring needs 4 finite'),
        (gml(member('OPAQUE', RING, dimension=' srsDimension="0"')), 'not a list of points'),
        (gml(member('OPAQUE', RING, dimension=' srsDimension="z"')), 'not a list of points'),
        (gml(member('OPAQUE', RING).replace('exterior', 'interior')), 'has 0 exterior rings'),
    ],
)
def test_what_is_no_mask_is_refused_by_name(content, message):
    with pytest.raises(ValueError, match=rf'^zip/MSK\.gml: .*{message}'):
        read_cloud_polygons(content, source='zip/MSK.gml')


REAL = {
    '02.14': ('L2A', 'sentinel-2b', '2021-01-22T13:32:29', 0, 'T22HBD', 0.99552193),
    '03.01': ('L1C', 'sentinel-2a', '2021-09-08T04:27:01', 0, 'T46RER', 0.117028),
    '04.00': ('L2A', 'sentinel-2b', '2022-04-13T15:07:59', -1000, 'T33XWJ', 0.01055792),
}


@pytest.fixture(scope='module')
def real(shared_data):
    """Path and metadata of real products by baseline."""
    paths = sorted(shared_data.glob('safe/*/MTD_MSIL*.xml'))
    found = [(path, read_metadata(path.read_bytes(), source=str(path))) for path in paths]
    assert [metadata.baseline for _, metadata in found] == ['03.01', '04.00', '02.14']
    return {metadata.baseline: (path, metadata) for path, metadata in found}


@pytest.mark.parametrize('baseline', REAL)
def test_real_product_tells_its_facts(real, baseline):
    level, platform, start, offset, tile, clear = REAL[baseline]
    found = real[baseline][1]
    assert (found.level, found.platform, found.tiles) == (level, platform, (tile,))
    assert found.start == pd.Timestamp(start)
    assert found.quantification == 10_000
    assert found.offsets == dict.fromkeys(BAND_IDS, float(offset))
    assert clear_fraction(found) == pytest.approx(clear, abs=1e-9)


@pytest.mark.parametrize('baseline', REAL)
def test_real_name_and_real_metadata_agree(real, baseline):
    path, found = real[baseline]
    name = product_name(str(path))
    assert (name.level, name.start, name.baseline) == (found.level, found.start, found.baseline)
    assert name.platform.replace('S', 'sentinel-').lower() == found.platform
    assert (name.tile,) == found.tiles
    assert set(found.offsets.values()) == {baseline_offset(name.baseline)}


@pytest.mark.parametrize('baseline', ['02.14', '04.00'])
def test_real_classes_add_up_to_the_observed_pixels(real, baseline):
    cover = dict(real[baseline][1].cover)
    assert cover.pop('NODATA_PIXEL') > 0.9
    cover.pop('CLOUDY_PIXEL_OVER_LAND', None)  # of the land alone
    assert sum(cover.values()) == pytest.approx(100, abs=1e-4)


def test_real_metadata_of_a_granule_are_not_those_of_the_product(shared_data):
    for path in shared_data.glob('safe/*/GRANULE/*/MTD_TL.xml'):
        with pytest.raises(ValueError, match=r'MTD_TL\.xml: has no QUANTIFICATION_VALUE'):
            read_metadata(path.read_bytes(), source=path.name)
