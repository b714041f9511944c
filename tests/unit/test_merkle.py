from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    ProofError,
    TreeHashes,
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    split,
)
from analytics.audit.signed_note import Checkpoint, Signer, Verifier
from analytics.audit.tiles import tile_path

if TYPE_CHECKING:
    from collections.abc import Callable

# The entries of the reference tests of RFC 6962, and roots of their first one, and of all eight.
REFERENCE = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
LEAVES = [leaf_hash(bytes.fromhex(entry)) for entry in REFERENCE]
MANY = [leaf_hash(str(number).encode()) for number in range(1_100)]


def by_definition(leaves: list[bytes]) -> bytes:
    """The tree hash as RFC 9162 defines it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = split(len(leaves))
    return node_hash(by_definition(leaves[:half]), by_definition(leaves[half:]))


def tree(size: int) -> TreeHashes:
    _, tiles = Frontier().extended(MANY[:size])
    return TreeHashes(lambda first, end: MANY[first:end], tiles)


def test_the_roots_of_the_reference() -> None:
    assert Frontier().root == EMPTY_ROOT
    assert Frontier().extended(LEAVES[:1])[0].root.hex().startswith("6e340b9c")
    all_of_them = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert Frontier().extended(LEAVES)[0].root.hex() == all_of_them


@given(st.lists(st.integers(0, 300), max_size=6))
def test_a_tree_that_grows_in_parts_is_the_tree(parts: list[int]) -> None:
    frontier, tiles, size = Frontier(), [], 0
    for part in parts:
        frontier, full = frontier.extended(MANY[size : size + part])
        size = min(size + part, len(MANY))
        tiles += full
    assert frontier.root == by_definition(MANY[:size])
    assert tiles == [by_definition(MANY[at : at + 256]) for at in range(0, size - 255, 256)]


@given(st.integers(1, 600), st.data())
def test_what_is_proven_is_verified_and_nothing_else(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    hashes, root = tree(size), by_definition(MANY[:size])
    proof = prove_inclusion(index, 0, size, hashes.root)
    check_inclusion(MANY[index], index, size, root, proof)
    old = data.draw(st.integers(1, size))
    history = prove_consistency(old, 0, size, hashes.root)
    check_consistency(old, by_definition(MANY[:old]), size, root, history)

    def fails(check: Callable[[], None]) -> None:
        with pytest.raises(ProofError):
            check()

    other = leaf_hash(b"other")
    fails(lambda: check_inclusion(other, index, size, root, proof))
    fails(lambda: check_inclusion(MANY[index], index, size, other, proof))
    fails(lambda: check_inclusion(MANY[index], size, size, root, proof))
    fails(lambda: check_inclusion(MANY[index], index, size, root, [*proof, other]))
    fails(lambda: check_consistency(old, other, size, root, history))
    fails(lambda: check_consistency(old, by_definition(MANY[:old]), size, other, history))
    fails(lambda: check_consistency(size + 1, root, size, root, history))
    for at in range(len(proof)):
        fails(lambda at=at: check_inclusion(MANY[index], index, size, root, [*proof[:at], other, *proof[at + 1 :]]))  # type: ignore[misc]
        fails(lambda at=at: check_inclusion(MANY[index], index, size, root, [*proof[:at], *proof[at + 1 :]]))  # type: ignore[misc]


def test_every_tree_begins_with_nothing() -> None:
    check_consistency(0, EMPTY_ROOT, 5, by_definition(MANY[:5]), [])
    with pytest.raises(ProofError, match="history was changed"):
        check_consistency(0, MANY[0], 5, by_definition(MANY[:5]), [])


def test_a_frontier_has_as_many_roots_as_its_size_has_bits() -> None:
    with pytest.raises(ProofError, match="3 entries does not have 1"):
        Frontier(3, (EMPTY_ROOT,))


@pytest.mark.parametrize(
    ("number", "width", "path"),
    [(0, 256, "tile/0/000"), (1, 7, "tile/0/001.p/7"), (1_234_067, 256, "tile/0/x001/x234/067")],
)
def test_paths_of_tiles(number: int, width: int, path: str) -> None:
    assert tile_path(0, number, width) == path


def test_a_checkpoint_is_written_as_the_standard_has_it() -> None:
    checkpoint = Checkpoint("sk.example/events/0", 1, leaf_hash(b""))
    assert checkpoint.body() == "sk.example/events/0\n1\nbjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=\n"


def test_a_checkpoint_is_good_for_whoever_knows_one_of_its_keys() -> None:
    one, other, stranger = (Signer.new(name) for name in ("one", "other", "stranger"))
    checkpoint = Checkpoint("log", 3, by_definition(MANY[:3]), ("sealed then",))
    note = checkpoint.note([one, other])
    for verifiers in ([], [one.verifier], [other.verifier, stranger.verifier]):
        assert Checkpoint.parse(note, verifiers) == checkpoint
    with pytest.raises(ProofError, match="signed by none of the known keys"):
        Checkpoint.parse(note, [stranger.verifier])
    with pytest.raises(ProofError, match="was changed"):
        Checkpoint.parse(note.replace("sealed then", "sealed now"), [one.verifier])
    with pytest.raises(ProofError, match="signed by none"):
        Checkpoint.parse(checkpoint.note(), [one.verifier])


@pytest.mark.parametrize(
    "note", ["", "log\n3\n\n", "log\n03\n{root}\n\n", "log\n-3\n{root}\n\n", "log\n3\nAAAA\n\n", "log\n3\n{root}\n"]
)
def test_what_is_no_checkpoint_is_refused(note: str) -> None:
    root = Checkpoint("log", 3, by_definition(MANY[:3])).body().split("\n")[2]
    with pytest.raises(ProofError, match="no checkpoint"):
        Checkpoint.parse(note.format(root=root))


def test_keys_are_written_and_read() -> None:
    signer = Signer.new("audit.example")
    assert Signer.parse(signer.secret()).secret() == signer.secret()
    assert str(Verifier.parse(str(signer.verifier))) == str(signer.verifier)
    with pytest.raises(ProofError, match="mistyped"):
        Verifier.parse(str(signer.verifier).replace("audit", "adult"))
    with pytest.raises(ProofError, match="no signing key") as refused:
        Signer.parse(signer.secret().replace("PRIVATE+KEY+", "PRIVATE+KEY+x"))
    assert signer.secret()[-40:] not in str(refused.value)
    for name in ("", "a b", "a+b"):
        with pytest.raises(ProofError, match="cannot name a key"):
            Signer.new(name)
