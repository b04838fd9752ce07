# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Run a comparison: what is missing, in several processes, and then the report."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import Namespace

from .cells import Cell
from .figures import draw
from .job import Job, make_job, parser
from .report import Report
from .workers import Workers


def forget(job: Job, names: Sequence[str], cells: Sequence[Cell]) -> None:
    """Remove what methods have finished, and what others have made of the same pretraining.

    Args:
        job: The job.
        names: Of the methods.
        cells: All cells.

    Raises:
        ValueError: If a method is not known.
    """
    methods = job.comparison.methods
    if unknown := [name for name in names if name not in methods]:
        raise ValueError(f'--again: no method {unknown[0]!r} in {list(methods)}')
    shared = {job.prepared(cell) for cell in cells if cell.method in names} - {None}
    for cell in cells:
        if cell.method in names or job.prepared(cell) in shared:
            job.cell_path(cell).unlink(missing_ok=True)
    for path in shared:
        assert path is not None
        path.unlink(missing_ok=True)


def run(config: Namespace, job: Job, say: Callable[[str], None]) -> list[str]:
    """Run what is missing.

    Args:
        config: Parsed; worker processes make their own objects of it.
        job: Its objects in this process.
        say: Gets a line for each thing that is done.

    Returns:
        What failed.
    """
    cells, left_out = job.cells()
    forget(job, config.again, cells)
    todo = [cell for cell in cells if not job.cell_path(cell).exists()]
    say(f'{len(cells)} cells, {len(cells) - len(todo)} of them finished before')
    for line in left_out:
        say(f'left out: {line}')
    seeds = sorted({cell.seed for cell in todo}, key=job.comparison.seeds.index)
    preparing = {job.prepared(cell): cell for cell in todo}
    preparing = {path: c for path, c in preparing.items() if path and not path.exists()}
    failed: list[str] = []
    with Workers(config, job) as workers:
        for stage, calls in (
            ('read', [('read', (seed,), f'patches of seed {seed}') for seed in seeds]),
            ('prepare', [('prepare', (c,), _text(c)) for c in preparing.values()]),
            ('run', [('run', (c,), _text(c)) for c in todo]),
        ):
            for number, (text, seconds, error) in enumerate(workers.do(calls), start=1):
                say(f'[{stage} {number}/{len(calls)}] {text}: {error or f"{seconds:.0f} s"}')
                if error:
                    failed.append(f'{stage}, {text}: {error}')
            if failed and stage == 'read':
                break
    return failed


def _text(cell: Cell) -> str:
    """A cell in words."""
    return f'{cell.method}, {cell.case.protocol}, {cell.case.name}, seed {cell.seed}'


def compare(
    args: Sequence[str], *, write_demo: Callable[[Path], None], say: Callable[[str], None]
) -> None:
    """Run a comparison and write its report.

    Args:
        args: Of the command line.
        write_demo: Called with the folder of the demo scenes, if they are wanted and not there.
        say: Gets the lines of what is done and found.
    """
    its_parser = parser()
    config = its_parser.parse_args(list(args))
    if config.demo is not None and not Path(config.demo).exists():
        write_demo(Path(config.demo))
    try:
        job = make_job(config)
        failed = run(config, job, say)
        if failed and not job.results():
            raise ValueError(f'nothing is finished: {failed[0]}')
        report = Report(job.results(), list(job.comparison.methods))
    except ValueError as error:
        its_parser.error(str(error))
    report.rows.to_csv(job.out / 'results.csv', index=False)
    (job.out / 'report.md').write_text(report.text(job.comparison.subjects, job.cells()[1]))
    test = job.patches(report.seeds[0])['test']
    draw(report, job.out, test=test, cases=job.cases(), classes=job.comparison.classes)
    for line in report.verdicts(job.comparison.subjects):
        say(line)
    say(f'Tables and figures: {job.out}')
    if failed:
        its_parser.error('these failed; run the command again:\n' + '\n'.join(failed))
