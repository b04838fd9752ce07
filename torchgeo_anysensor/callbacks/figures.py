# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How the pictures are laid out. No pyplot, so that nothing of the user's own is touched."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

_RIGHT, _WRONG = '#d7191c', '0.6'

#: Width of a panel, height of a row and of what stands above all, in inches.
_PANEL, _ROW, _HEAD = 1.0, 1.3, 0.45


class Candidate(NamedTuple):
    """A patch that was found."""

    picture: Tensor  #: ``(H, W, 4)``
    cosine: float
    right: bool  #: it is the patch that was looked for


class Neighbours(NamedTuple):
    """A patch and what is nearest to it."""

    picture: Tensor  #: ``(H, W, 4)``
    #: By sensor: the nearest patches, which one the right patch is (None if it is not there), and
    #: among how many.
    others: dict[str, tuple[list[Candidate], int | None, int]]


#: By sensor: its colours ``(H, W, 4)`` and its components ``(rows, columns, 4)``.
type TokenRow = dict[str, tuple[Tensor, Tensor]]


def draw_neighbours(first: str, rows: Sequence[Neighbours], *, count: int) -> Figure:
    """Draw patches of one sensor, each beside its nearest patches of every other sensor.

    Args:
        first: Sensor of the patches on the left.
        rows: What is drawn; all have the same sensors.
        count: Neighbours of each sensor.
    """
    names = list(rows[0].others)
    gap = 0.25
    widths = [1.0] + [w for _ in names for w in (gap, *[1.0] * count)]
    figure, axes = _grid(len(rows), widths)
    for line, row in zip(axes, rows):
        _show(line[0], row.picture)
        for block, name in enumerate(names):
            nearest, rank, among = row.others[name]
            start = 2 + block * (count + 1)
            for ax, candidate in zip(line[start : start + count], nearest):
                _show(ax, candidate.picture)
                ax.set_title(f'{candidate.cosine:.3f}', fontsize=7, pad=2)
                _frame(ax, right=candidate.right)
            place = 'not there' if rank is None else f'right one: {rank} of {among}'
            line[start].set_xlabel(place, fontsize=7, labelpad=2, loc='left')
    _head(axes[0][0], first)
    for block, name in enumerate(names):
        _head(axes[0][2 + block * (count + 1)], f'nearest of {name}')
    return figure


def draw_tokens(names: Sequence[str], rows: Sequence[TokenRow]) -> Figure:
    """Draw colours and components of patches, sensor beside sensor.

    Args:
        names: The sensors.
        rows: What is drawn; a sensor may be absent.
    """
    widths = [w for _ in names for w in (1.0, 1.0, 0.25)][:-1]
    figure, axes = _grid(len(rows), widths)
    for line, row in zip(axes, rows):
        for block, name in enumerate(names):
            pair = line[3 * block], line[3 * block + 1]
            if name not in row:
                pair[0].text(0.5, 0.5, 'not seen', ha='center', va='center', fontsize=7)
                pair[0].set_box_aspect(1)
                continue
            for ax, picture in zip(pair, row[name]):
                _show(ax, picture)
    for block, name in enumerate(names):
        _head(axes[0][3 * block], name)
    return figure


def _grid(rows: int, widths: Sequence[float]) -> tuple[Figure, list[list[Axes]]]:
    """Empty square panels of about an inch, with room above and below each row."""
    width, height = _PANEL * sum(widths) + 0.2, _ROW * rows + _HEAD
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(
        rows,
        len(widths),
        squeeze=False,
        gridspec_kw={
            'width_ratios': list(widths),
            'left': 0.1 / width,
            'right': 1 - 0.1 / width,
            'bottom': (_ROW - _PANEL) / height,
            'top': 1 - _HEAD / height,
            'wspace': 0.06,
            'hspace': (_ROW - _PANEL) / _PANEL,
        },
    )
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_facecolor('none')
    return figure, [list(line) for line in axes]


def _head(ax: Axes, text: str) -> None:
    """Write above the first row."""
    ax.annotate(
        text,
        (0, 1),
        xytext=(0, 17),
        xycoords='axes fraction',
        textcoords='offset points',
        fontsize=9,
        fontweight='bold',
    )


def _show(ax: Axes, picture: Tensor) -> None:
    """Draw a picture; what is not valid is grey."""
    values = np.asarray(picture)
    ax.imshow(np.where(values[..., 3:] > 0, values[..., :3], 0.75), interpolation='nearest')


def _frame(ax: Axes, *, right: bool) -> None:
    """Frame a panel."""
    ax.spines[:].set(
        visible=True, color=_RIGHT if right else _WRONG, linewidth=3.0 if right else 0.5
    )
