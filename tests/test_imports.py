# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Who may import whom, and how large a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'torchgeo_anysensor'

ALLOWED = {
    'types': set(),
    'sensors': set(),
    'datasets': {'types', 'sensors'},
    'samplers': {'types', 'datasets'},
    'transforms': {'types'},
    'datamodules': {'types', 'datasets', 'samplers', 'transforms'},
    'prepare': {'types', 'datasets', 'samplers', 'datamodules', 'transforms'},
    'models': {'types'},
    'losses': {'types'},
    'tasks': {'types', 'models', 'losses'},
    'callbacks': {'types', 'datasets', 'models', 'losses', 'tasks'},
    'comparison': {'types', 'datasets', 'samplers', 'datamodules', 'models', 'tasks'},
    'simulate': {'sensors'},
    'main': {'sensors', 'datasets', 'models', 'simulate', 'comparison', 'prepare', 'cli'},
    'cli': {'main', 'callbacks', 'datamodules', 'losses', 'tasks', 'transforms'},
    '__main__': {'main'},
    '__init__': set(),
}
FILES = sorted(PACKAGE.rglob('*.py'))


def room(path: Path) -> str:
    """The folder or file right under the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imports(path: Path) -> set[str]:
    """Rooms of the package that a file imports, relative or absolute, at any depth."""
    found = set()
    package = ['torchgeo_anysensor', *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = '.'.join([*base, *([node.module] if node.module else [])])
            found |= {f'{stem}.{name.name}' for name in node.names}
    inside = [name.split('.') for name in found if name.split('.')[0] == 'torchgeo_anysensor']
    rooms = {parts[1] for parts in inside if len(parts) > 1}
    return {name for name in rooms if name in ALLOWED} - {'__init__'}


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_what_comes_before(path):
    own = room(path)
    assert imports(path) - {own} <= ALLOWED[own]


def test_every_room_has_a_rule():
    assert {room(path) for path in FILES} == set(ALLOWED)


def test_the_walk_sees_relative_imports():
    assert 'models' in imports(PACKAGE / 'tasks' / 'contrastive.py')
    assert 'types' in imports(PACKAGE / 'models' / 'base.py')


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert text.startswith('# Copyright (c) torchgeo_anysensor contributors.')
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            lines = node.end_lineno - node.lineno - len((docstring or '').splitlines())
            assert lines <= 50, f'{node.name} has {lines} lines'


def test_datasets_are_imported_in_a_second_beside_those_of_torchgeo():
    """Of processor time; the first process may have to compile modules."""
    code = (
        'import time, torchgeo.datasets; start = time.process_time(); '
        'import torchgeo_anysensor.datasets; print(time.process_time() - start)'
    )
    run = [sys.executable, '-c', code]
    assert any(float(subprocess.check_output(run, text=True)) < 1 for _ in range(2))
