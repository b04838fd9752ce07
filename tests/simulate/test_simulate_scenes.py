# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import hashlib
from pathlib import Path

import pytest

from torchgeo_anysensor.simulate import campaign, simulate_scenes
from torchgeo_anysensor.simulate.place import MAX_PLACES, make_place


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def test_same_seed_same_bytes_with_any_number_of_workers(tmp_path):
    options = {'places': 1, 'size_m': 600, 'spectrometer': True}
    first = simulate_scenes(tmp_path / 'a', seed=1, workers=1, **options)
    again = simulate_scenes(tmp_path / 'b', seed=1, workers=4, **options)
    other = simulate_scenes(tmp_path / 'c', seed=2, **options)
    assert digests(first) == digests(again)
    assert digests(first).keys() == digests(other).keys()
    same = {name for name, digest in digests(first).items() if digests(other)[name] == digest}
    # Quality bands of a clear day, and metadata without pixels in it, do not depend on the seed
    assert not {name for name in same if '_B0' in name or '.B0' in name or 'SR_B' in name}
    assert not {name for name in same if 'landcover_' in name or 'SPECTROMETER_' in name}


def test_the_spectrometer_changes_nothing_else(tmp_path):
    without = digests(simulate_scenes(tmp_path / 'a', places=1, size_m=600))
    beside = digests(simulate_scenes(tmp_path / 'b', places=1, size_m=600, spectrometer=True))
    more = {name for name in beside if name.startswith('spectrometer/')}
    assert len(more) == 3
    assert beside.keys() - more == without.keys()
    assert {name for name in without if without[name] != beside[name]} == {'README.txt'}


def test_places_do_not_depend_on_how_many_there_are(tmp_path):
    one = digests(simulate_scenes(tmp_path / 'a', places=1, size_m=600))
    two = digests(simulate_scenes(tmp_path / 'b', places=2, size_m=600))
    assert {name: two[name] for name in one if name != 'README.txt'} == {
        name: digest for name, digest in one.items() if name != 'README.txt'
    }
    assert len(two) > 1.9 * len(one) - 3


def test_refuses_a_folder_with_something_in_it(tmp_path):
    (tmp_path / 'mine.txt').write_text('keep')
    with pytest.raises(ValueError, match='not an empty folder; give a new one or empty it'):
        simulate_scenes(tmp_path, places=1, size_m=600)
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_fills_an_empty_folder(tmp_path):
    root = tmp_path / 'scenes'
    root.mkdir()
    assert simulate_scenes(root, places=1, size_m=600) == root
    assert (root / 'README.txt').read_text().count('seed 0')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'places': 0}, 'places=0 is not in 1 to'),
        ({'places': MAX_PLACES + 1}, 'is not in 1 to'),
        ({'size_m': 1000}, 'size_m=1000 is not a multiple of 60'),
        ({'size_m': 540}, 'size_m=540 is not a multiple of 60 from 600 on'),
        ({'workers': 0}, 'workers=0 is below 1'),
    ],
)
def test_says_what_is_wrong_with_an_argument(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_scenes(tmp_path / 'scenes', **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('writer', ['write_safe', 'write_landsat', 'write_hls', '_write_classes'])
def test_leaves_nothing_behind_if_it_fails(tmp_path, monkeypatch, writer):
    def fail(*args, **kwargs):
        raise OSError('no space left on device')

    monkeypatch.setattr(campaign, writer, fail)
    with pytest.raises(OSError, match='no space left'):
        simulate_scenes(tmp_path / 'scenes', places=1, size_m=600)
    assert not list(tmp_path.iterdir())


def test_places_are_apart_and_on_the_grid_of_their_tile():
    places = [make_place(number, size_m=6000) for number in range(MAX_PLACES)]
    assert len({place.tile for place in places}) == MAX_PLACES
    assert len({place.path_row for place in places}) == MAX_PLACES
    for place in places:
        assert {edge % 60 for edge in place.corner} == {0}
    for a in places:
        for b in places:
            if a is not b:
                assert max(abs(a.corner[0] - b.corner[0]), abs(a.corner[1] - b.corner[1])) > 30000
