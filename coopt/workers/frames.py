"""Length-framed JSON over a socket: all that ever crosses from a child to its parent. Nothing is unpickled."""

from __future__ import annotations

import json
import socket
import struct

HEADER = struct.Struct("!I")
LARGEST = 64 << 20  # B; a frame that claims more is damage, not an answer


class Damaged(Exception):
    """The bytes received are no frame."""


def encode(message: dict) -> bytes:
    """One frame: four bytes of length, then JSON in UTF-8.

    >>> encode({"phase": "compile"})[4:]
    b'{"phase": "compile"}'
    """
    body = json.dumps(message, allow_nan=True).encode()
    if len(body) > LARGEST:
        raise ValueError(f"a message of {len(body)} bytes exceeds the frame limit of {LARGEST}")
    return HEADER.pack(len(body)) + body


def take(buffer: bytearray) -> list[dict]:
    """Removes the complete frames from the front of `buffer` and returns them; raises `Damaged` on nonsense."""
    messages = []
    while len(buffer) >= HEADER.size:
        (length,) = HEADER.unpack_from(buffer)
        if length > LARGEST:
            raise Damaged(f"a frame claims {length} bytes")
        if len(buffer) < HEADER.size + length:
            break
        body = bytes(buffer[HEADER.size : HEADER.size + length])
        del buffer[: HEADER.size + length]
        try:
            message = json.loads(body)
        except ValueError as error:
            raise Damaged(str(error)) from error
        if not isinstance(message, dict):
            raise Damaged("a frame that is not an object")
        messages.append(message)
    return messages


def send(channel: socket.socket, message: dict, *, descriptors: tuple[int, ...] = ()) -> None:
    """Sends one frame, with open file descriptors beside its first byte."""
    data = encode(message)
    if descriptors:
        socket.send_fds(channel, [data[:1]], list(descriptors))
        data = data[1:]
    channel.sendall(data)


def receive(channel: socket.socket, *, descriptors: int = 0) -> tuple[dict | None, list[int]]:
    """Waits for one frame and up to so many file descriptors beside it; `(None, [])` when the other side is gone."""
    buffer = bytearray()
    received: list[int] = []
    while True:
        # Exactly the bytes of this frame: what follows belongs to the next, and may carry descriptors of its own.
        wanted = HEADER.size if len(buffer) < HEADER.size else HEADER.size + HEADER.unpack_from(buffer)[0]
        if len(buffer) == wanted and len(buffer) > HEADER.size:
            return take(buffer)[0], received
        data, more, _, _ = socket.recv_fds(channel, min(wanted - len(buffer), 1 << 20), descriptors)
        received += more
        if not data:
            return None, received
        buffer += data
