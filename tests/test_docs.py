# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the documents show runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
EXAMPLES = [
    pytest.param(code, id=f'{path.name}-{number}')
    for path in DOCUMENTS
    for number, code in enumerate(re.findall(r'```python\n(.*?)```', path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize('code', EXAMPLES)
def test_example_runs(code, tmp_path, monkeypatch, demo, capsys):
    (tmp_path / 'data').mkdir()
    for name in ('demo', 'spectra'):
        (tmp_path / 'data' / name).symlink_to(demo)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, 'example', 'exec'), {})  # noqa: S102
    promised = re.findall(r'# prints (.+)', code)
    printed = capsys.readouterr().out
    assert promised
    assert all(text in printed for text in promised)


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target, anchor in re.findall(r'\]\((?!https?:)([^)#]*)#?([^)]*)\)', path.read_text()):
        there = path.parent / target if target else path
        assert there.exists(), target
        if anchor:
            titles = re.findall(r'^#+ (.+)$', there.read_text(), re.MULTILINE)
            slugs = [re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles]
            assert anchor in slugs, f'{target}#{anchor}'


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda p: p.name)
def test_commands_name_files_that_are_there(path):
    for name in re.findall(r'\b((?:conf|benchmarks|requirements)/[\w/.-]+\.\w+)', path.read_text()):
        assert (ROOT / name).exists(), name
