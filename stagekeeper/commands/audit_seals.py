"""`stagekeeper audit verify | seal | prove | verify-proof | tiles | keygen`: the transparency logs of the lake."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import click

from analytics.audit.proof import check_proof, prove
from analytics.audit.seal_check import SealCheck
from analytics.audit.sealing import Anchor, Sealer, heads
from analytics.audit.signed_note import Signer, Verifier, signers_of
from analytics.audit.tiles import export_tiles
from analytics.lake.table_schemas import EVENTS
from producers.errors import UsageError
from producers.written_files import writing
from stagekeeper.commands.maintenance import retention_policy
from stagekeeper.commands.options import json_option, lake_option, print_json, require_lake, say
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_KEY: Final = click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="NAME+ID+KEY",
    help="A public key that must have signed; may be repeated. By default that of STAGEKEEPER_AUDIT_KEY_FILE.",
)


@click.command("verify")
@click.option("--checkpoint", "files", multiple=True, type=_FILE, help="A checkpoint that was kept elsewhere.")
@_KEY
@lake_option
@json_option
def verify(files: Sequence[Path], keys: Sequence[str], root: str | None, *, as_json: bool) -> None:
    """Check every sealed row of the lake, byte for byte, offline, and say where it is not what was sealed.

    Also compares with the newest checkpoints beside the lake (STAGEKEEPER_LAKE_CHECKPOINTS), which a lake that was put
    back contradicts. Without a key only that comparison tells whether somebody sealed a forged lake anew.

    \b
    Exit codes:
      0   everything is what was sealed
      1   something was changed, is missing, was added or put back
      2   usage

    \b
    Examples:
      stagekeeper audit verify
      stagekeeper audit verify --checkpoint /mnt/worm/checkpoint --key audit.example+5f2d8a31+AX…
      stagekeeper audit verify --json | jq '.logs[].faults[]'
    """
    settings, lake = Settings.load(), require_lake(root)
    anchor = Anchor.of_lake(lake.root)
    notes = [*_read(files), *(() if anchor is None else anchor.read().values())]
    verifiers = _verifiers(keys, settings)
    kept = retention_policy(settings).kept(EVENTS)
    logs = SealCheck(lake, datetime.now(UTC), kept, verifiers, _progress).run(notes)
    faults = sum(len(log.faults) + log.more_faults for log in logs)
    if as_json:
        print_json({"whole": not faults, "signed": bool(verifiers), "logs": [asdict(log) for log in logs]})
    else:
        for log in logs:
            gone = f", {log.no_longer_kept:,} no longer kept" if log.no_longer_kept else ""
            click.echo(f"{log.log}: {log.checked:,} of {log.size:,} as sealed{gone}; {log.not_sealed:,} not sealed yet")
            for fault in log.faults:
                where = "" if fault.position is None else f" at {fault.position:,}"
                say(f"  {fault.what}{where}: {fault.detail}{f' ({fault.id})' if fault.id else ''}")
            if log.more_faults:
                click.echo(f"  and {log.more_faults:,} more")
        if not verifiers:
            click.echo("No key is known: whoever can write here can seal anew. Set STAGEKEEPER_AUDIT_KEY_FILE.")
        click.echo("The record is whole." if not faults else f"The record was changed: {faults:,} faults.")
    if faults:
        raise click.exceptions.Exit(1)


@click.command("seal")
@lake_option
@json_option
def seal(root: str | None, *, as_json: bool) -> None:
    """Seal what is in the lake now; a worker does it every STAGEKEEPER_SEAL_EVERY_S seconds.

    \b
    Examples:
      stagekeeper audit seal
      STAGEKEEPER_AUDIT_KEY_FILE=/etc/stagekeeper/audit.key stagekeeper audit seal --json
    """
    settings, lake = Settings.load(), require_lake(root)
    signers = signers_of(settings.audit_key_file)
    entries = Sealer(lake, signers, Anchor.of_lake(lake.root), now=lambda: datetime.now(UTC)).run()
    ends = heads(lake)
    if as_json:
        print_json(
            {"entries": entries, "logs": {log: head.size for log, head in ends.items()}, "signed": bool(signers)}
        )
        return
    click.echo(f"{entries:,} entries sealed; {len(ends)} logs, {'signed' if signers else 'not signed'}.")


@click.command("prove")
@click.argument("identity", metavar="ID")
@click.option("--out", type=_FILE, help="Where to write the proof; printed otherwise.")
@lake_option
@json_option
def prove_command(identity: str, out: Path | None, root: str | None, *, as_json: bool) -> None:
    """Prove that an event or a verdict is on record, in a file that is checked without the lake.

    The file holds the whole row, personal data included.

    \b
    Examples:
      stagekeeper audit prove 5b1c9a52-… --out refund.proof
      stagekeeper audit prove 8d3f0a6c1e2b4f57
    """
    proof = prove(require_lake(root), identity)
    if out is not None:
        with writing(out):
            out.write_text(proof)
    if as_json:
        print_json({"id": identity, "proof": proof})
    elif out is None:
        click.echo(proof, nl=False)
    else:
        click.echo(f"{out} proves {identity}; check it with `stagekeeper audit verify-proof {out}`.")


@click.command("verify-proof")
@click.argument("file", type=_FILE)
@_KEY
@json_option
def verify_proof(file: Path, keys: Sequence[str], *, as_json: bool) -> None:
    """Check a proof, without lake and network, and print what it proves.

    \b
    Exit codes:
      0   it proves the entry that is printed
      1   it proves nothing

    \b
    Examples:
      stagekeeper audit verify-proof refund.proof --key audit.example+5f2d8a31+AX…
    """
    verifiers = _verifiers(keys, Settings.load())
    proven = check_proof(_read([file])[0], verifiers)
    log, size = proven.checkpoint.origin, proven.checkpoint.size
    entry = proven.entry.decode(errors="replace")
    if as_json:
        print_json({"log": log, "index": proven.index, "size": size, "signed": bool(verifiers), "entry": entry})
        return
    signed = "signed by a known key" if verifiers else "whose signature was not checked"
    say(f"Entry {proven.index:,} of {log}, under a checkpoint of {size:,} entries, {signed}:", entry)


@click.command("tiles")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@lake_option
@json_option
def tiles(folder: Path, root: str | None, *, as_json: bool) -> None:
    """Write the logs as tiles (c2sp.org/tlog-tiles) for foreign clients, a folder each, or bring them up to date.

    \b
    Examples:
      stagekeeper audit tiles /var/www/audit
    """
    lake = require_lake(root)
    written = {log: export_tiles(lake, log, folder / quote(log, safe="")) for log in sorted(heads(lake))}
    if as_json:
        print_json({"tiles": written})
        return
    for log, count in written.items():
        click.echo(f"{folder / quote(log, safe='')}: {count:,} tiles written")


@click.command("keygen")
@click.argument("name")
@click.option("--out", type=_FILE, required=True, help="The file for the private key; it must not exist.")
@json_option
def keygen(name: str, out: Path, *, as_json: bool) -> None:
    """Make a key that signs checkpoints, and print its public half, which whoever verifies needs.

    NAME is yours, such as a host name. To rotate, put the new key's line before the old one's: both sign until the old
    one's line is taken out.

    \b
    Examples:
      stagekeeper audit keygen audit.example --out audit.key
    """
    signer = Signer.new(name)
    with writing(out):
        try:
            opened = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise UsageError(f"{out} exists, and a key is never overwritten. Name another file.") from None
    with os.fdopen(opened, "w") as file:
        file.write(f"{signer.secret()}\n")
    if as_json:
        print_json({"public_key": str(signer.verifier), "file": str(out)})
    else:
        click.echo(str(signer.verifier))


COMMANDS: Final = (verify, seal, prove_command, verify_proof, tiles, keygen)


def _progress(log: str, done: int, of: int) -> None:
    """Say on the terminal how far it is, where there is one."""
    if sys.stderr.isatty():
        click.echo(f"\r{log}: {done:,} of {of:,}\033[K", err=True, nl=done == of)


def _verifiers(keys: Sequence[str], settings: Settings) -> list[Verifier]:
    if keys:
        return [Verifier.parse(key) for key in keys]
    return [signer.verifier for signer in signers_of(settings.audit_key_file)]


def _read(files: Sequence[Path]) -> list[str]:
    texts = []
    for path in files:
        try:
            texts.append(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}. Name a file that `stagekeeper audit` wrote.") from error
    return texts
