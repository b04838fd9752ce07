# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import json

import pandas as pd
import pytest

from torchgeo_anysensor.datasets.mtl import acquired, read_mtl

# A Level-2 product in short: the groups of its Level-1 source come last
LEVEL_2 = {
    'PRODUCT_CONTENTS': {'PROCESSING_LEVEL': 'L2SP', 'COLLECTION_NUMBER': '02'},
    'IMAGE_ATTRIBUTES': {
        'SPACECRAFT_ID': 'LANDSAT_9',
        'DATE_ACQUIRED': '2022-01-29',
        'SCENE_CENTER_TIME': '15:25:46.9610990Z',
        'CLOUD_COVER': '1.50',
        'SUN_ELEVATION': '57.08727307',
    },
    'LEVEL2_SURFACE_REFLECTANCE_PARAMETERS': {'REFLECTANCE_MULT_BAND_1': '2.75e-05'},
    'LEVEL1_PROCESSING_RECORD': {'PROCESSING_LEVEL': 'L1TP'},
    'LEVEL1_RADIOMETRIC_RESCALING': {
        'REFLECTANCE_MULT_BAND_1': '2.0000E-05',
        'REFLECTANCE_MULT_BAND_9': '2.0000E-05',
        'RADIANCE_ADD_BAND_10': '0.10000',
    },
}


def odl(groups):
    quoted = {'PROCESSING_LEVEL', 'SPACECRAFT_ID', 'SCENE_CENTER_TIME'}
    rows = ['GROUP = LANDSAT_METADATA_FILE']
    for group, values in groups.items():
        rows.append(f'  GROUP = {group}')
        rows += [f'    {k} = "{v}"' if k in quoted else f'    {k} = {v}' for k, v in values.items()]
        rows.append(f'  END_GROUP = {group}')
    return '\n'.join([*rows, 'END_GROUP = LANDSAT_METADATA_FILE', 'END', '']).encode()


def to_json(groups):
    return json.dumps({'LANDSAT_METADATA_FILE': groups}).encode()


def xml(groups):
    inside = ''.join(
        f'\n  <{group}>{"".join(f"<{k}>{v}</{k}>" for k, v in values.items())}</{group}>'
        for group, values in groups.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<LANDSAT_METADATA_FILE>{inside}\n</LANDSAT_METADATA_FILE>\n'
    ).encode()


FORMATS = pytest.mark.parametrize('write', [odl, to_json, xml])


@FORMATS
def test_first_of_two_values_counts(write):
    values = read_mtl(write(LEVEL_2), source='x')
    assert values['PROCESSING_LEVEL'] == 'L2SP'
    assert values['REFLECTANCE_MULT_BAND_1'] == '2.75e-05'
    assert values['REFLECTANCE_MULT_BAND_9'] == '2.0000E-05'
    assert values['SCENE_CENTER_TIME'] == '15:25:46.9610990Z'
    assert values['COLLECTION_NUMBER'] == '02'
    assert len(values) == 10
    assert not values.keys() & {*LEVEL_2, 'GROUP', 'END_GROUP', 'LANDSAT_METADATA_FILE'}


def test_first_of_two_values_counts_in_one_group_too():
    start = b'{"LANDSAT_METADATA_FILE": {"A": {'
    found = read_mtl(start + b'"X": "1", "X": "2"}, "A": {"X": "3", "Y": 4}}}', source='x')
    assert found == {'X': '1', 'Y': '4'}


@FORMATS
@pytest.mark.parametrize('before', [b'\xef\xbb\xbf', b'\n  ', b''])
def test_format_is_told_by_the_content(write, before):
    assert read_mtl(before + write(LEVEL_2), source='x') == read_mtl(odl(LEVEL_2), source='x')


def test_lines_may_end_as_on_windows():
    content = odl(LEVEL_2)
    assert read_mtl(content.replace(b'\n', b'\r\n'), source='x') == read_mtl(content, source='x')


@FORMATS
def test_names_of_collection_1_are_read(write):
    content = write(LEVEL_2).replace(b'LANDSAT_METADATA_FILE', b'L1_METADATA_FILE')
    assert read_mtl(content, source='x')['SPACECRAFT_ID'] == 'LANDSAT_9'


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'SUN_ELEVATION = 3\n',
        b'GROUP = A\nEND_GROUP = A\nEND\n',
        b'GROUP = FILE_HEADER\n  SPACECRAFT_ID = "LANDSAT_8"\nEND_GROUP = FILE_HEADER\nEND\n',
        b'GROUP = LANDSAT_METADATA_FILE\nEND_GROUP = LANDSAT_METADATA_FILE\nEND\n',
        odl(LEVEL_2)[:-60],
        'GROUP = LANDSAT_METADATA_FILE'.encode('utf-16'),
        b'{}',
        b'{"type": "Feature", "id": "LC08"}',
        b'{"LANDSAT_METADATA_FILE": "x"}',
        to_json(LEVEL_2)[:-9],
        b'{"a":' * 100_000,
        b'<html lang="en"><p>404</p></html>',
        b'<LANDSAT_METADATA_FILE/>',
    ],
    ids=range(14),
)
def test_what_is_no_metadata_is_refused_by_name(content):
    with pytest.raises(ValueError, match=r'^a/x_MTL: not a Landsat metadata file \(.*\); expected'):
        read_mtl(content, source='a/x_MTL')


def test_deep_json_is_read_without_recursion():
    nested = '{"A": ' * 600 + '{"X": "1"}' + '}' * 600
    content = f'{{"LANDSAT_METADATA_FILE": {nested}}}'.encode()
    assert read_mtl(content, source='x') == {'X': '1'}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (xml(LEVEL_2)[:-9], 'not a readable XML file'),
        (
            b'<!DOCTYPE a [<!ENTITY x "1">]><LANDSAT_METADATA_FILE><A>&x;</A></LANDSAT_METADATA_FILE>',
            'has no DOCTYPE, this one does',
        ),
    ],
)
def test_unsafe_or_broken_xml_is_refused_by_name(content, message):
    with pytest.raises(ValueError, match=rf'^a/x_MTL\.xml: .*{message}'):
        read_mtl(content, source='a/x_MTL.xml')


def test_time_is_that_of_the_centre_without_fractions():
    found = acquired(LEVEL_2['IMAGE_ATTRIBUTES'])
    assert found == pd.Timestamp('2022-01-29T15:25:46')
    assert found.tzinfo is None


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'DATE_ACQUIRED': ''}, 'the metadata lack DATE_ACQUIRED$'),
        ({'SCENE_CENTER_TIME': ''}, 'the metadata lack SCENE_CENTER_TIME$'),
        ({'DATE_ACQUIRED': '2022-02-30'}, "DATE_ACQUIRED='2022-02-30', .*: not a time"),
        ({'SCENE_CENTER_TIME': 'noon'}, "SCENE_CENTER_TIME='noon': not a time"),
    ],
)
def test_time_that_is_none_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        acquired(LEVEL_2['IMAGE_ATTRIBUTES'] | change)


def test_all_that_is_missing_is_named():
    with pytest.raises(ValueError, match='lack DATE_ACQUIRED and SCENE_CENTER_TIME'):
        acquired({})


@pytest.fixture(scope='module')
def product(shared_data):
    """The three metadata files of one real product."""
    name = 'LC08_L2SP_008059_20191201_20200825_02_T1_MTL'
    return {end: shared_data / 'landsat_c2l2' / f'{name}.{end}' for end in ('txt', 'json', 'xml')}


def test_three_real_files_of_one_product_say_the_same(product):
    text, js, markup = (read_mtl(path.read_bytes(), source=str(path)) for path in product.values())
    assert text == js == markup
    assert len(text) > 200


@pytest.mark.parametrize('end', ['txt', 'json', 'xml'])
def test_real_level_2_product_tells_its_own_values_first(product, end):
    values = read_mtl(product[end].read_bytes(), source=end)
    assert acquired(values) == pd.Timestamp('2019-12-01T15:13:51')
    expected = {
        'SPACECRAFT_ID': 'LANDSAT_8',
        'PROCESSING_LEVEL': 'L2SP',
        'LANDSAT_PRODUCT_ID': 'LC08_L2SP_008059_20191201_20200825_02_T1',
        'SUN_ELEVATION': '57.08727307',
        'CLOUD_COVER': '81.02',
        # Of Level-1 alone
        'RADIANCE_MULT_BAND_10': '3.3420E-04',
        'RADIANCE_MULT_BAND_11': '3.3420E-04',
        'RADIANCE_ADD_BAND_10': '0.10000',
        'RADIANCE_ADD_BAND_11': '0.10000',
        'K1_CONSTANT_BAND_10': '774.8853',
        'K2_CONSTANT_BAND_10': '1321.0789',
        'K1_CONSTANT_BAND_11': '480.8883',
        'K2_CONSTANT_BAND_11': '1201.1442',
        **{f'REFLECTANCE_MULT_BAND_{n}': '2.75e-05' for n in range(1, 8)},
        **{f'REFLECTANCE_ADD_BAND_{n}': '-0.2' for n in range(1, 8)},
        **{f'REFLECTANCE_MULT_BAND_{n}': '2.0000E-05' for n in (8, 9)},
        **{f'REFLECTANCE_ADD_BAND_{n}': '-0.100000' for n in (8, 9)},
    }
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize(
    ('name', 'craft', 'time'),
    [
        ('LC08_L2SP_047027_20201204_20210313_02_T1', 'LANDSAT_8', '2020-12-04T19:02:11'),
        ('LC09_L2SP_010065_20220129_20220131_02_T1', 'LANDSAT_9', '2022-01-29T15:28:34'),
    ],
)
def test_real_metadata_are_read(shared_data, name, craft, time):
    path = shared_data / 'landsat_mtl' / f'{name}_MTL.txt'
    values = read_mtl(path.read_bytes(), source=str(path))
    assert (values['SPACECRAFT_ID'], values['LANDSAT_PRODUCT_ID']) == (craft, name)
    assert acquired(values) == pd.Timestamp(time)


def test_other_real_files_of_the_product_are_not_its_metadata(product):
    folder = product['txt'].parent
    for path in (*folder.glob('*_ANG.txt'), *folder.glob('*_stac.json'), *folder.glob('*_B1.TIF')):
        with pytest.raises(ValueError, match=f'{path.name}: not a Landsat metadata file'):
            read_mtl(path.read_bytes(), source=str(path))
