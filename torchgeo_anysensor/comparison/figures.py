# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Figures of a comparison."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .report import Report, heat


def draw(report: Report, folder: Path) -> None:
    """Write a figure for each protocol, and the matrix as a heat map for each method.

    Args:
        report: What is drawn.
        folder: Gets ``PROTOCOL.png``, and ``PROTOCOL-heat.png`` for a matrix.
    """
    for protocol in report.protocols():
        name = protocol.replace(' ', '_').replace('/', '-')
        _save(bars(report, protocol), folder / f'{name}.png')
        if any(group == 'other sensor' for _, _, group in report.tests(protocol)):
            _save(heat_maps(report, protocol), folder / f'{name}-heat.png')


def _save(figure: Figure, path: Path) -> None:
    """Write a figure and forget it."""
    figure.savefig(path, dpi=110)
    plt.close(figure)


def bars(report: Report, protocol: str) -> Figure:
    """Mean mIoU of each group of tests, a bar for each method, with 95 % intervals."""
    groups = list(dict.fromkeys(group for _, _, group in report.tests(protocol)))
    figure, axes = plt.subplots(
        1,
        len(groups),
        figsize=(2.2 + 3.2 * len(groups), 1.2 + 0.34 * len(report.methods)),
        sharey=True,
        squeeze=False,
        layout='constrained',
    )
    for ax, group in zip(axes[0], groups):
        tests = [(case, test) for case, test, g in report.tests(protocol) if g == group]
        for row, method in enumerate(report.methods):
            score = report.score(protocol, tests, method)
            if score is None:
                ax.text(0.01, row, 'not possible', va='center', fontsize=7, color='0.5')
                continue
            ax.barh(row, score.value, color=f'C{row % 10}')
            ax.plot([score.low, score.high], [row, row], color='0.1', linewidth=1.5)
        ax.set(title=group, xlim=(0, 1), xlabel='mIoU')
        ax.set_yticks(range(len(report.methods)), report.methods)
    axes[0][0].invert_yaxis()
    figure.suptitle(f'{protocol}: mean over {len(report.seeds)} seeds, 95 % over blocks of ground')
    return figure


def heat_maps(report: Report, protocol: str) -> Figure:
    """Train sensor x test sensor of each method that reads another sensor."""
    found = {method: heat(report, protocol, method) for method in report.methods}
    found = {m: (n, v) for m, (n, v) in found.items() if np.isfinite(v).sum() > len(n)}
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4 * columns, 3.6 * rows), squeeze=False, layout='constrained'
    )
    for ax in axes.flat[len(found) :]:
        ax.axis('off')
    for ax, (method, (names, values)) in zip(axes.flat, found.items()):
        ax.imshow(values, vmin=0, vmax=1, cmap='viridis')
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                ax.text(column, row, f'{value:.2f}', ha='center', va='center', color='w')
        ax.set_xticks(range(len(names)), names, rotation=30, ha='right', fontsize=7)
        ax.set_yticks(range(len(names)), names, fontsize=7)
        ax.set(title=method, xlabel='test', ylabel='train')
    return figure
