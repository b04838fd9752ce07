# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The command: the package's own small ones, and Lightning's (see :mod:`.cli`)."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__


def write_scenes(root: Path, *, seed: int = 0, places: int = 3, spectrometer: bool = False) -> None:
    """Simulate scenes and say so.

    Args:
        root: Folder to make.
        seed: Same seed, same bytes.
        places: Number of places.
        spectrometer: See :func:`~.simulate.simulate_scenes`.
    """
    from .simulate import simulate_scenes

    print(f'No data in {root}: writing simulated scenes there (about half a minute) ...')
    simulate_scenes(root, seed=seed, places=places, spectrometer=spectrometer)
    size = sum(file.stat().st_size for file in root.rglob('*') if file.is_file())
    print(f'Wrote {size / 1e6:.0f} MB of simulated scenes to {root}')


def simulate(args: Sequence[str]) -> None:
    """Write simulated scenes.

    Args:
        args: Of the command line.
    """
    parser = argparse.ArgumentParser('torchgeo-anysensor simulate', description=simulate.__doc__)
    parser.add_argument('dir', type=Path, help='folder to write; must not exist or be empty')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same bytes')
    parser.add_argument('--places', type=int, default=3, help='number of places of 6 km x 6 km')
    parser.add_argument(
        '--spectrometer', action='store_true', help='write the files of an imaging spectrometer too'
    )
    options = vars(parser.parse_args(args))
    try:
        write_scenes(options.pop('dir'), **options)
    except ValueError as error:
        parser.error(str(error))


def sensors(args: Sequence[str]) -> None:
    """Print the sensors that are known, or the bands of one.

    Args:
        args: Of the command line.
    """
    from .sensors.table import bands_table, sensors_table

    parser = argparse.ArgumentParser('torchgeo-anysensor sensors', description=sensors.__doc__)
    parser.add_argument('name', nargs='?', help='print the bands of this sensor')
    options = parser.parse_args(args)
    try:
        print(bands_table(options.name) if options.name else sensors_table())
    except ValueError as error:
        parser.error(str(error))


def inspect(args: Sequence[str]) -> None:
    """Tell which sensors and products lie at a path, and draw a quick-look of them.

    Args:
        args: Of the command line.
    """
    parser = argparse.ArgumentParser(
        'torchgeo-anysensor inspect', description=(inspect.__doc__ or '').splitlines()[0]
    )
    parser.add_argument('path', help='folder, product, archive or file')
    parser.add_argument('--out', help='picture to write; by default NAME.png in this folder')
    parser.add_argument('--no-picture', action='store_true', help='print the text alone')
    options = parser.parse_args(args)
    from .datasets.inspect import draw, inspect_path, picture_path  # heavy

    try:
        found = inspect_path(options.path)
        out = None if options.no_picture else picture_path(options.path, options.out)
        _say('\n\n'.join(map(str, found)))
        if out is not None:
            drawn, reasons = draw(found, out)
            _say(f'\nQuick-look: {out}' if drawn else '\nNo quick-look: nothing could be drawn')
            _say(*(f'  {reason}' for reason in reasons))
    except (OSError, ValueError) as error:
        parser.error(str(error))


def _say(*lines: str) -> None:
    """Print names of files, which may have characters that the terminal has not."""
    encoding = sys.stdout.encoding or 'utf-8'
    for line in lines:
        print(line.encode(encoding, 'backslashreplace').decode(encoding), flush=True)


def compare(args: Sequence[str]) -> None:
    """Compare ways to combine sensors, and say which is better.

    Args:
        args: Of the command line.
    """
    from .comparison.run import compare as run_comparison  # heavy

    run_comparison(args, write_demo=write_scenes, say=_say)


def export(args: Sequence[str]) -> None:
    """Write the encoder of a checkpoint to a folder that can be shared.

    Args:
        args: Of the command line.
    """
    parser = argparse.ArgumentParser(
        'torchgeo-anysensor export', description=(export.__doc__ or '').splitlines()[0]
    )
    parser.add_argument('checkpoint', help='file of a pretraining or a probe')
    parser.add_argument('folder', type=Path, help='folder to write; must not exist or be empty')
    options = parser.parse_args(args)
    from .models.pretrained import load_encoder  # heavy

    try:
        if options.folder.exists() and any(options.folder.iterdir()):
            raise ValueError(f'{options.folder}: is there and not empty; choose another folder')
        load_encoder(options.checkpoint).save_pretrained(options.folder)
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    _say(f'Weights, config and model card: {options.folder}')


def retile(args: Sequence[str]) -> None:
    """Write products again as Cloud-Optimised GeoTIFFs with small blocks, which read faster.

    Args:
        args: Of the command line.
    """
    parser = argparse.ArgumentParser(
        'torchgeo-anysensor retile', description=(retile.__doc__ or '').splitlines()[0]
    )
    parser.add_argument('source', help='folder, product, archive or file')
    parser.add_argument('out', help='folder to write; what is there already is not written again')
    parser.add_argument('--block', type=int, default=128, help='pixels along a block (128)')
    parser.add_argument('--workers', type=int, default=1, help='processes (1)')
    options = parser.parse_args(args)
    from .prepare import retile as run_retile  # heavy

    try:
        report = run_retile(
            options.source, options.out, block=options.block, workers=options.workers
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    _say(
        f'{options.out}: {report.written} rasters written, {report.copied} other files copied, '
        f'{report.there} files were there'
    )
    if report.problems:
        _say(f'{len(report.problems)} could not be written:')
        _say(*(f'  {name}: {why}' for name, why in report.problems.items()))
        sys.exit(1)


def chip(args: Sequence[str]) -> None:
    """Write the patches of a config, to train on them as fast as they can be copied.

    Args:
        args: Of the command line.
    """
    from .prepare.command import chip as run_chip  # heavy

    run_chip(args, write_demo=write_scenes, say=_say)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    'chip': chip,
    'compare': compare,
    'export': export,
    'inspect': inspect,
    'retile': retile,
    'sensors': sensors,
    'simulate': simulate,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: Of the command line; by default those of the process.
    """
    words = sys.argv[1:] if args is None else list(args)
    if words and words[0] in COMMANDS:
        COMMANDS[words[0]](words[1:])
        return
    if words == ['--version']:
        _say(f'torchgeo-anysensor {__version__}')
        return
    from .cli import lightning_cli  # heavy, and the small commands do without

    lightning_cli(None if args is None else words)


if __name__ == '__main__':
    main()
