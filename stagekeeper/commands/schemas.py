"""`stagekeeper schemas`: write the published documents, or say which are stale."""

from __future__ import annotations

from pathlib import Path

import click

from analytics.published_schemas import schema_texts
from producers.errors import StagekeeperError
from producers.wire.json_schemas import ASYNCAPI_FILE, asyncapi_text, schema_documents
from stagekeeper.api.service_app import OPENAPI_FILE, openapi_text
from stagekeeper.commands.options import json_option, print_json

_FOLDER = click.Path(file_okay=False, path_type=Path)


class StaleDocumentsError(StagekeeperError):
    """The published documents on disk are not what the models say."""


def published() -> dict[str, str]:
    """Every published document as text, by file name."""
    return {**schema_documents(), **schema_texts(), ASYNCAPI_FILE: asyncapi_text(), OPENAPI_FILE: openapi_text()}


def stale(folder: Path) -> list[str]:
    """Name what differs between a folder and the models: changed, missing and left-over documents, sorted."""
    current = published()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*") if path.is_file()}
    return sorted(name for name in current.keys() | there.keys() if current.get(name) != there.get(name))


@click.command("schemas")
@click.option("--out", type=_FOLDER, default=Path("docs/schemas"), show_default=True, help="Folder of the documents.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and name the files that are stale.")
@json_option
def command(out: Path, *, check: bool, as_json: bool) -> None:
    """Write the JSON Schemas of events, receipt, gate file and verdict, and the AsyncAPI and OpenAPI documents.

    \b
    Examples:
      stagekeeper schemas                    write docs/schemas
      stagekeeper schemas --check            exit 1 if a file there is stale
      stagekeeper schemas --out build/api    write somewhere else

    \b
    Exit codes: 0 written, or nothing stale · 1 stale files · 2 usage.
    """
    if check:
        if names := stale(out):
            raise StaleDocumentsError(
                f"stale in {out}: {', '.join(names)}. Run `stagekeeper schemas --out {out}`; delete what is left over."
            )
        if as_json:
            print_json({"folder": str(out), "documents": sorted(published()), "written": False})
        else:
            click.echo(f"{len(published())} documents in {out} are what the models say.")
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, text in published().items():
        (out / name).write_text(text, encoding="utf-8")
    if as_json:
        print_json({"folder": str(out), "documents": sorted(published()), "written": True})
    else:
        click.echo(f"Wrote {len(published())} documents to {out}.")
