"""Signed notes and checkpoints of transparency logs, by `c2sp.org/signed-note` and `tlog-checkpoint`, with Ed25519."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from analytics.audit.merkle import ProofError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ED25519: Final = b"\x01"
_PRIVATE: Final = "PRIVATE+KEY+"
_DASH: Final = "\N{EM DASH} "


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with its name, written `name+hex id+base64 key`."""

    name: str
    key: Ed25519PublicKey

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Read the written form; raises `ProofError` where it is none."""
        name, identity, raw = _parts(text)
        try:
            verifier = cls(name, Ed25519PublicKey.from_public_bytes(raw))
        except ValueError as error:
            raise ProofError(f"{text!r} holds no Ed25519 key: {error}.") from error
        if verifier.key_id.hex() != identity:
            raise ProofError(f"the id of the key {text!r} is not that of its name and bytes: it was mistyped.")
        return verifier

    @property
    def key_id(self) -> bytes:
        """Four bytes by which a signature names the key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.key.public_bytes_raw()).digest()[:4]

    def __str__(self) -> str:
        """The written form."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.key.public_bytes_raw()).decode()}"


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key with its name."""

    name: str
    key: Ed25519PrivateKey

    @classmethod
    def new(cls, name: str) -> Signer:
        """A new key; raises `ProofError` where the name has a space or a plus sign, or is empty."""
        if not name or "+" in name or any(character.isspace() for character in name):
            raise ProofError(f"{name!r} cannot name a key: no spaces, no plus sign, and not empty.")
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Read the written form; raises `ProofError`, which does not repeat it, where it is none."""
        try:
            name, identity, raw = _parts(text.removeprefix(_PRIVATE))
            signer = cls(name, Ed25519PrivateKey.from_private_bytes(raw))
        except (ProofError, ValueError):
            raise ProofError("the file holds no signing key. `stagekeeper audit keygen` writes one.") from None
        if not text.startswith(_PRIVATE) or signer.verifier.key_id.hex() != identity:
            raise ProofError("the file holds no signing key, or its name was changed. Write a new one with keygen.")
        return signer

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self.key.public_key())

    def secret(self) -> str:
        """The written form, for a file that nobody else can read."""
        raw = base64.b64encode(_ED25519 + self.key.private_bytes_raw()).decode()
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{raw}"

    def signature(self, body: str) -> str:
        """The line that signs a note's body."""
        signed = base64.b64encode(self.verifier.key_id + self.key.sign(body.encode())).decode()
        return f"{_DASH}{self.name} {signed}\n"


def signers_of(path: Path | None) -> tuple[Signer, ...]:
    """The keys of a file, one a line: the first is the newest, and the others sign on until nobody needs them.

    Raises `ProofError` where there is no such file, or a line of it is no key.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProofError(
            f"the audit key at {path} cannot be read: {error}. `stagekeeper audit keygen` writes one."
        ) from error
    return tuple(Signer.parse(line) for line in lines if line.strip())


def _parts(text: str) -> tuple[str, str, bytes]:
    parts = text.strip().split("+", 2)
    try:
        name, identity, key = parts
        raw = base64.b64decode(key, validate=True)
    except (ValueError, binascii.Error):
        raise ProofError(f"{text!r} is no key: name+id+base64 is expected.") from None
    if raw[:1] != _ED25519:
        raise ProofError(f"{text!r} is not an Ed25519 key.")
    return name, identity, raw[1:]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself: its name, how many entries it has, and the root over them."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()  # further lines, which are signed too

    def body(self) -> str:
        """The text that is signed."""
        root = base64.b64encode(self.root).decode()
        return "".join(f"{line}\n" for line in (self.origin, self.size, root, *self.extensions))

    def note(self, signers: Sequence[Signer] = ()) -> str:
        """The whole note; without a signer it has no signature, and is worth what its keeper is trusted for."""
        body = self.body()
        return f"{body}\n{''.join(signer.signature(body) for signer in signers)}"

    @classmethod
    def parse(cls, note: str, verifiers: Sequence[Verifier] = ()) -> Checkpoint:
        """Read a note and check it; with verifiers, at least one of them must have signed it.

        Signatures of unknown keys count for nothing; a wrong one of a known key is an error. Raises `ProofError`.
        """
        text, blank, signatures = note.partition("\n\n")
        lines = text.split("\n")
        try:
            origin, size, root, *extensions = lines
            checkpoint = cls(origin, int(size), base64.b64decode(root, validate=True), tuple(extensions))
        except (ValueError, binascii.Error):
            raise ProofError("this is no checkpoint: a name, a size and a root in lines of their own.") from None
        plain = str(checkpoint.size) == size and base64.b64encode(checkpoint.root).decode() == root
        if not (
            blank and origin and plain and checkpoint.size >= 0 and len(checkpoint.root) == hashlib.sha256().digest_size
        ):
            raise ProofError("this is no checkpoint: its size or root is not written as they are.")
        signed = _signed_by(f"{text}\n", signatures, verifiers)
        if verifiers and not signed:
            known = ", ".join(f"{one.name}+{one.key_id.hex()}" for one in verifiers)
            raise ProofError(f"the checkpoint of {origin} is signed by none of the known keys ({known}).")
        return checkpoint


def _signed_by(body: str, signatures: str, verifiers: Sequence[Verifier]) -> list[Verifier]:
    signed = []
    for line in signatures.splitlines():
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            raw = b""
        if not line.startswith(_DASH) or len(raw) <= 4:  # the key's id, which something must follow
            raise ProofError(f"this is no signature of a note: {line!r}.")
        for verifier in verifiers:
            if (verifier.name, verifier.key_id) != (name, raw[:4]):
                continue
            try:
                verifier.key.verify(raw[4:], body.encode())
            except InvalidSignature:
                raise ProofError(f"the signature of {name} does not fit: the checkpoint was changed.") from None
            signed.append(verifier)
    return signed
