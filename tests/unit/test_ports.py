from __future__ import annotations

import socket

from producers.web_guard import LOOPBACK
from streams.ports import available_port


def test_a_free_port_is_kept() -> None:
    free = available_port()
    assert available_port(free) == free


def test_a_taken_port_moves_to_a_free_one() -> None:
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        holder.listen()
        taken = holder.getsockname()[1]
        moved = available_port(taken)
    assert moved != taken
    with socket.socket() as probe:
        probe.bind((LOOPBACK, moved))


def test_a_port_held_on_every_interface_is_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        assert available_port(taken) != taken


def test_a_promised_port_moves_too() -> None:
    free = available_port()
    assert available_port(free, taken=frozenset({free})) != free
