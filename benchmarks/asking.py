"""How every benchmark is asked and how it answers: `--json` for machines, lines for people."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from places import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def ask(
    document: str | None,
    options: Callable[[argparse.ArgumentParser], object],
    run: Callable[[argparse.Namespace], dict[str, Any]],
    lines: Callable[[dict[str, Any]], Iterator[str]],
) -> None:
    """Read the arguments, measure, and print.

    Args:
        document: The script's docstring.
        options: Adds the script's arguments.
        run: Measures; what it found, for `--json`.
        lines: The same in words.
    """
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser)
    parser.add_argument("--json", action="store_true", dest="as_json", help="one document on standard output")
    asked = parser.parse_args()
    found = run(asked)
    if asked.as_json:
        print(json.dumps(found))
    else:
        print("\n".join(lines(found)))


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the broker."""
    parser.add_argument(
        "--broker", choices=("embedded", "apache"), default="embedded", help="apache needs Java and Maven"
    )


def add_cells(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the fleets."""
    parser.add_argument("--cells", default="1000,10000", help="sizes of the fleets, with commas between")


def over_fleets(cells: str, measure: Callable[[int, Path], dict[str, Any]]) -> dict[str, Any]:
    """What was found over fleets of several sizes, one after the other.

    Args:
        cells: How many cells each has, with commas between.
        measure: Measures one, given its size and a folder.
    """
    with tempfile.TemporaryDirectory() as root:
        return {"machine": machine(), "fleets": [measure(int(each), Path(root)) for each in cells.split(",")]}
