# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Figures of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.plot import true_color
from ..models import to_grid
from ..types import IGNORE_INDEX
from .cells import Drawn, map_key
from .patches import Patches
from .protocols import Case, Test, patches_of
from .report import Report, heat

#: Red, green and blue in micrometres.
_RGB_UM = (0.66, 0.56, 0.49)


def draw(
    report: Report, folder: Path, *, test: Patches, cases: Sequence[Case], classes: Sequence[str]
) -> None:
    """Write the figures: bars of each protocol, the matrix as heat maps, and maps side by side.

    Args:
        report: What is drawn.
        folder: Gets ``PROTOCOL.png``, ``PROTOCOL-maps.png``, and ``PROTOCOL-heat.png`` for a
            matrix.
        test: Patches of the test split of the report's first seed.
        cases: Of all protocols.
        classes: Names of the classes.
    """
    for protocol in report.protocols():
        name = protocol.replace(' ', '_').replace('/', '-')
        _save(bars(report, protocol), folder / f'{name}.png')
        if any(group == 'other sensor' for _, _, group in report.tests(protocol)):
            _save(heat_maps(report, protocol), folder / f'{name}-heat.png')
        tests: dict[str, tuple[Case, Test]] = {}  # the first of each group
        for case in cases:
            for one in case.tests if case.protocol == protocol else ():
                if map_key(case, one) in report.maps:
                    tests.setdefault(one.group, (case, one))
        if tests:
            seed = report.seeds[0]
            rows = {
                f'{case.name}\n→ {one.name}': (
                    patches_of(test, case, one, seed=seed),
                    report.maps[map_key(case, one)],
                )
                for case, one in tests.values()
            }
            drawn = [
                method for method in report.methods if any(method in m for _, m in rows.values())
            ]
            _save(maps(rows, drawn, classes), folder / f'{name}-maps.png')


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
    whole = {m: (n, v) for m, (n, v) in found.items() if np.isfinite(v).sum() > len(n)}
    found = whole or found
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


def maps(
    rows: Mapping[str, tuple[Patches, Mapping[str, Drawn]]],
    methods: Sequence[str],
    classes: Sequence[str],
) -> Figure:
    """Image, truth and predictions of one block of ground side by side.

    Args:
        rows: By title, the patches of a test and what is drawn of each method.
        methods: Columns.
        classes: Names of the classes.
    """
    columns = ['image', 'labels', *methods]
    figure, axes = plt.subplots(
        len(rows),
        len(columns),
        figsize=(1.5 * len(columns) + 1, 1.75 * len(rows) + 0.8),
        squeeze=False,
        layout='constrained',
    )
    base = colormaps['tab10' if len(classes) <= 10 else 'tab20']
    colours = ListedColormap([base(k) for k in range(len(classes))])
    for line, (title, (patches, predicted)) in zip(axes, rows.items()):
        there = patches.take(torch.from_numpy(next(iter(predicted.values())).rows))
        line[0].imshow(mosaic(there, _picture(there), fill=0.5)[..., :3])
        _classes(line[1], mosaic(there, there.batch['mask'], fill=IGNORE_INDEX), colours)
        line[0].set_ylabel(title, fontsize=7)
        for ax, method in zip(line[2:], methods):
            if method in predicted:
                found = torch.from_numpy(predicted[method].classes).long()
                _classes(ax, mosaic(there, found, fill=IGNORE_INDEX), colours)
            else:
                ax.text(0.5, 0.5, 'not possible', ha='center', fontsize=7, color='0.5')
                ax.set_box_aspect(1)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, name in zip(axes[0], columns):
        ax.set_title(name.replace(' ', '\n', 1), fontsize=7)
    handles = [Patch(color=colours(k), label=name) for k, name in enumerate(classes)]
    figure.legend(
        handles=handles, loc='outside lower center', ncols=min(9, len(classes)), fontsize=7
    )
    return figure


def _classes(ax: Axes, values: NDArray[Any], colours: ListedColormap) -> None:
    """Draw classes; what is ignored stays white."""
    ax.imshow(
        np.ma.masked_equal(values, IGNORE_INDEX),
        cmap=colours,
        vmin=-0.5,
        vmax=colours.N - 0.5,
        interpolation='nearest',
    )


def _picture(patches: Patches) -> Tensor:
    """True colour ``(n, H, W, 4)`` of the first sensor, on the pixels of the labels."""
    views = next(iter(patches.batch['sensors'].values()))
    height, width = patches.batch['mask'].shape[-2:]
    raster = to_grid(views, (height, width))
    centre = raster.wavelength.mean(dim=0)
    bands = [int((centre - um).abs().argmin()) for um in _RGB_UM]
    image = raster.image[:, bands].permute(1, 0, 2, 3).flatten(1, 2)  # one stretch for all patches
    valid = (raster.seen[:, bands] > 0.5).all(dim=1).flatten(0, 1)
    return true_color(image, valid).reshape(len(patches), height, width, 4)


def mosaic(patches: Patches, values: Tensor, *, fill: float) -> NDArray[Any]:
    """Patches ``(n, H, W, ...)`` at their places on the ground."""
    left, bottom, right, top = patches.bounds.T
    height, width = values.shape[1:3]
    columns = ((left - left.min()) / (right - left)[0] * width).round().long()
    rows = ((top.max() - top) / (top - bottom)[0] * height).round().long()
    shape = int(rows.max()) + height, int(columns.max()) + width, *values.shape[3:]
    whole = torch.full(shape, fill, dtype=values.dtype)
    for row, column, value in zip(rows.tolist(), columns.tolist(), values):
        whole[row : row + height, column : column + width] = value
    return whole.numpy()
