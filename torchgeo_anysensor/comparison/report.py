# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Tables and sentences of a comparison."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from .cells import Drawn, Result
from .scores import Bootstrap, Counts, difference, interval
from .training import CODE

#: With fewer blocks of ground in a test, an interval is rough.
FEW_BLOCKS = 20


class Score(NamedTuple):
    """A score with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As ``0.512 [0.480, 0.541]``."""
        return f'{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]'


class Report:
    """What finished cells say together.

    Attributes:
        rows: One for each test and seed, with all scores: what ``results.csv`` holds.
        maps: By the test (:func:`~.cells.map_key`) and the method, predictions of one block of
            ground of the first seed.
        seeds: In order.
    """

    def __init__(self, results: Sequence[Result], methods: Sequence[str]) -> None:
        """Gather results.

        Args:
            results: Of the cells that are finished.
            methods: Names of the methods, in the order of the tables.

        Raises:
            ValueError: If there is no result.
        """
        if not results:
            raise ValueError('no cell is finished: there is nothing to report')
        self.rows = pd.DataFrame([row for result in results for row in result.rows])
        counts = [found for result in results for found in result.counts]
        keys = self.rows[['protocol', 'case', 'test', 'method', 'seed']].itertuples(index=False)
        self._counts: dict[tuple[str, str, str, str, int], Counts] = dict(
            zip(map(tuple, keys), counts)
        )
        self.methods = [name for name in methods if name in set(self.rows['method'])]
        self.seeds = sorted(map(int, self.rows['seed'].unique()))
        self._bootstrap = Bootstrap(block for found in counts for block in found.block)
        self.maps: dict[str, dict[str, Drawn]] = {}
        for result in results:
            first = result.rows[0]
            if first['seed'] == self.seeds[0]:
                for key, found in result.maps.items():
                    self.maps.setdefault(key, {})[first['method']] = found

    def protocols(self) -> list[str]:
        """Names of the protocols."""
        return list(self.rows['protocol'].unique())

    def tests(self, protocol: str) -> list[tuple[str, str, str]]:
        """Case, test and group of each test of a protocol."""
        here = self.rows[self.rows['protocol'] == protocol]
        unique = here[['case', 'test', 'group']].drop_duplicates()
        return [(case, test, group) for case, test, group in unique.itertuples(index=False)]

    def counts(
        self, protocol: str, tests: Sequence[tuple[str, str]], method: str
    ) -> list[Counts] | None:
        """Counts of all tests and seeds of a method; None if one is not there."""
        keys = [(protocol, *test, method, seed) for test in tests for seed in self.seeds]
        found = [self._counts[key] for key in keys if key in self._counts]
        return found if len(found) == len(keys) else None

    def score(self, protocol: str, tests: Sequence[tuple[str, str]], method: str) -> Score | None:
        """Mean mIoU over tests and seeds with its interval; None if a test is not there."""
        counts = self.counts(protocol, tests, method)
        if counts is None:
            return None
        value, drawn = self._bootstrap.miou(counts)
        return Score(value, *interval(value, drawn))

    def ratio(self, protocol: str, method: str) -> Score | None:
        """Other sensor over same sensor, of a matrix; None if the matrix is not whole."""
        parts, groups = [], self.groups(protocol)
        for group in ('other sensor', 'same sensor'):
            counts = self.counts(protocol, groups[group], method) if group in groups else None
            if counts is None:
                return None
            parts.append(self._bootstrap.miou(counts))
        (off, off_drawn), (on, on_drawn) = parts
        return Score(off / on, *interval(off / on, off_drawn / on_drawn))

    def table(self, protocol: str, column: str = 'miou') -> str:
        """Methods in rows and tests in columns, as Markdown.

        Args:
            protocol: Its name.
            column: A score of ``rows``; mIoU comes with its interval, others as mean over seeds.
        """
        tests = self.tests(protocol)
        heads = [f'{case} → {test}' for case, test, _ in tests]
        rows = []
        for method in self.methods:
            cells = []
            for case, test, _ in tests:
                if column == 'miou':
                    score = self.score(protocol, [(case, test)], method)
                    cells.append('—' if score is None else str(score))
                else:
                    cells.append(self._mean(protocol, case, test, method, column))
            if any(cell != '—' for cell in cells):
                rows.append([method, *cells])
        return markdown(['method', *heads], rows)

    def _mean(self, protocol: str, case: str, test: str, method: str, column: str) -> str:
        """Mean of a column over seeds, as text."""
        r = self.rows
        here = (r['protocol'] == protocol) & (r['case'] == case)
        values = r[column][here & (r['test'] == test) & (r['method'] == method)]
        return '—' if values.isna().all() else f'{values.mean():.3f}'

    def groups(self, protocol: str) -> dict[str, list[tuple[str, str]]]:
        """Case and test of each test of a protocol, by the question that it is about."""
        found: dict[str, list[tuple[str, str]]] = {}
        for case, test, group in self.tests(protocol):
            found.setdefault(group, []).append((case, test))
        return found

    def means(self, protocol: str) -> str:
        """Methods in rows and means over the tests of each question in columns, as Markdown.

        Of a matrix also what is left on another sensor, as a share.
        """
        groups = self.groups(protocol)
        matrix = {'same sensor', 'other sensor'} <= groups.keys()
        rows = []
        for method in self.methods:
            found = [self.score(protocol, tests, method) for tests in groups.values()]
            if matrix:
                found.append(self.ratio(protocol, method))
            if any(found):
                rows.append([method, *('—' if score is None else str(score) for score in found)])
        return markdown(['method', *groups, *(['other / same'] if matrix else [])], rows)

    def classes(self, protocol: str) -> str:
        """IoU of each class in the first test of a protocol, as Markdown."""
        case, test, _ = self.tests(protocol)[0]
        columns = [column for column in self.rows if column.startswith('iou/')]
        rows = []
        for method in self.methods:
            cells = [self._mean(protocol, case, test, method, column) for column in columns]
            if any(cell != '—' for cell in cells):
                rows.append([method, *cells])
        names = [column.removeprefix('iou/') for column in columns]
        return f'{case} → {test}:\n\n' + markdown(['method', *names], rows)

    def spent(self) -> str:
        """What each method took, per training, as Markdown."""
        columns = [
            'steps', 'gflop', 'pretrain_steps', 'pretrain_gflop', 'seconds', 'pretrain_seconds'
        ]  # fmt: skip
        means = self.rows.groupby('method', sort=False)[columns].max()
        rows = [
            [method, *(f'{means.loc[method, column]:.0f}' for column in columns)]
            for method in self.methods
        ]
        return markdown(['method', *(column.replace('_', ' ') for column in columns)], rows)

    def code(self) -> str:
        """A sentence on which code has made the results."""
        if 'code' not in self.rows:
            return 'Which code made it is not known.'
        older = self.rows.loc[self.rows['code'] != CODE, 'method'].unique()
        if not len(older):
            return f'All of it was made by the present code ({CODE}).'
        return (
            f'Other code than the present ({CODE}) made some of it: see the column `code` of '
            f'results.csv for {", ".join(older)}. `--again` runs them anew.'
        )

    def verdicts(self, subjects: Sequence[str]) -> Iterator[str]:
        """Say for each question how a subject stands against the best of the others.

        The best is the one with the highest score in the tests themselves, which favours the
        others. Only methods that can take all tests of a question are rivals.

        Args:
            subjects: Names of methods.

        Yields:
            A sentence for each subject and question.
        """
        for subject in subjects:
            for protocol in self.protocols():
                for group, tests in self.groups(protocol).items():
                    sentence = self._verdict(subject, protocol, tests, subjects)
                    if sentence is not None:
                        yield f'{protocol}, {group}: {sentence}'

    def _verdict(
        self, subject: str, protocol: str, tests: Sequence[tuple[str, str]], subjects: Sequence[str]
    ) -> str | None:
        """A sentence, or None if there is nothing to compare."""
        own = self.counts(protocol, tests, subject)
        scores: Mapping[str, Score] = {
            name: score
            for name in self.methods
            if name not in subjects and (score := self.score(protocol, tests, name)) is not None
        }
        if own is None or not scores:
            return None
        rival = max(scores, key=lambda name: scores[name].value)
        other = self.counts(protocol, tests, rival)
        assert other is not None
        found = difference(own, other)
        value, _ = self._bootstrap.miou(own)
        zero = 'includes' if found.verdict == 'no difference shown' else 'excludes'
        rough = '; few, so a rough interval' if found.least_blocks < FEW_BLOCKS else ''
        return (
            f'{subject} ({value:.3f}) against {rival} ({scores[rival].value:.3f}), the best of '
            f'{len(scores)} others: {found.value:+.3f} mIoU [{found.low:+.3f}, {found.high:+.3f}], '
            f'which {zero} zero ({len(self.seeds)} seeds, {found.blocks} '
            f'blocks, {found.least_blocks} or more in a test{rough}): '
            f'**{found.verdict}**.'
        )

    def text(self, subjects: Sequence[str], left_out: Sequence[str]) -> str:
        """The whole report, as Markdown.

        Args:
            subjects: Names of the methods that the verdict is about.
            left_out: Lines about what was not run.
        """
        seeds = ', '.join(map(str, self.seeds))
        parts = [
            '# Comparison',
            f'mIoU on test ground, mean over seeds {seeds}, with 95 % intervals by bootstrap over blocks.',
            'With few blocks in a test they are rough.',
            f'Blocks of ground: {len(self._bootstrap.blocks)}.',
            self.code(),
            '## Verdict',
            '\n'.join(f'- {line}' for line in self.verdicts(subjects)),
        ]
        for protocol in self.protocols():
            parts += [f'## {protocol}', self.table(protocol)]
            if len(self.groups(protocol)) < len(self.tests(protocol)):
                parts.append(self.means(protocol))
            parts += ['Calibration error:', self.table(protocol, 'ece')]
            parts += ['IoU by class,', self.classes(protocol)]
        parts += ['## Spent', 'The most that one training took:', self.spent()]
        if left_out:
            parts += ['## Left out', '\n'.join(f'- {line}' for line in left_out)]
        return '\n\n'.join(parts) + '\n'


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ['---'] * len(heads), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def heat(report: Report, protocol: str, method: str) -> tuple[list[str], np.ndarray]:
    """Train sensor x test sensor of a matrix: names, and mIoU ``(S, S)``, NaN where not run."""
    names = list(dict.fromkeys(case for case, _, _ in report.tests(protocol)))
    values = np.full((len(names), len(names)), np.nan)
    for row, train in enumerate(names):
        for column, test in enumerate(names):
            score = report.score(protocol, [(train, test)], method)
            if score is not None:
                values[row, column] = score.value
    return names, values
