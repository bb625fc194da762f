"""Measures this project: `python scripts/benchmark.py NAME`.

NAME is
augment|classify|data|step|monitor|ddp|failures|fid|folder|games|init|race|recipes|score|sizes|startup|stream|text.
Prints the machine and the versions first: a figure means nothing without them. Each measurement is a file of
`scripts/benchmarks`, whose first line says what it measures.
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
    score,
    sizes,
    startup,
    step,
    stream,
    text,
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
    "score": score,
    "sizes": sizes,
    "startup": startup,
    "stream": stream,
    "text": text,
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
