"""Measures this project: `python scripts/benchmark.py NAME`.

Prints the machine and the versions first: a figure means nothing without them. Each measurement is a file of
`scripts/benchmarks`, whose first line says what it measures; `--help` lists them.
"""

import argparse
from collections.abc import Sequence

from benchmarks import (
    augment,
    classify,
    data,
    ddp,
    failures,
    fid,
    folder,
    games,
    init,
    monitor,
    race,
    recipes,
    report,
    scale,
    score,
    sizes,
    stacked,
    startup,
    step,
    stream,
    text,
    zoo,
)

MEASUREMENTS = {
    "augment": augment,
    "classify": classify,
    "data": data,
    "step": step,
    "monitor": monitor,
    "ddp": ddp,
    "failures": failures,
    "fid": fid,
    "folder": folder,
    "games": games,
    "init": init,
    "race": race,
    "recipes": recipes,
    "scale": scale,
    "score": score,
    "sizes": sizes,
    "stacked": stacked,
    "startup": startup,
    "stream": stream,
    "text": text,
    "zoo": zoo,
}


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    commands = parser.add_subparsers(title="what to measure", required=True)
    for name, measurement in MEASUREMENTS.items():
        what = first_line(measurement.__doc__)
        command = commands.add_parser(name, help=what[0].lower() + what[1:].rstrip("."), description=what)
        measurement.add_arguments(command)
        command.set_defaults(measure=measurement.measure)
    settings = parser.parse_args(args)
    report.machine()
    settings.measure(settings)


def first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


if __name__ == "__main__":
    main()
