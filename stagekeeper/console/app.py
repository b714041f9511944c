"""The script that Streamlit runs for `stagekeeper page`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from dashboard.console import serve
from stagekeeper.console.desk import ConsoleDesk
from stagekeeper.settings import Settings


def main(arguments: list[str]) -> None:
    """Show the page that the address asks for."""
    parser = argparse.ArgumentParser(prog="stagekeeper/console/app.py")
    parser.add_argument("--lake", help="root of the Delta tables")
    parser.add_argument("--gates", type=Path, help="the gate file in force")
    parser.add_argument("--web-name", action="append", default=[], help="a further host name to answer to")
    parser.add_argument("--loopback", action="store_true", help="served on the loopback interface alone")
    chosen = parser.parse_args(arguments)
    settings = Settings.load()
    named = {"lake_root": chosen.lake, "gate_file": chosen.gates}
    settings = settings.model_copy(update={name: value for name, value in named.items() if value is not None})
    narrowed_s = settings.freshness_s if "freshness_s" in settings.model_fields_set else math.inf
    serve(
        ConsoleDesk(settings, acts_unauthenticated=chosen.loopback and not chosen.web_name),
        lake_root=settings.lake,
        freshness_s=narrowed_s,
        web_names=chosen.web_name,
        unsigned=settings.signing_key is None,
    )


main(sys.argv[1:])
