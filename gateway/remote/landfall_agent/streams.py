"""Streams: who is at the other end, messages, and the relay in front of the hub's API."""

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
from typing import Any, Dict, List, Optional, Tuple

from .words import say

HUB_WAIT_SECONDS = 60.0
HUB_SOCKET_NAME = re.compile(r"hub-[a-z0-9]{1,32}\.sock")

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Message = Dict[str, Any]


def own_peer(writer: Writer) -> bool:
    """Tell whether the other end of a unix socket runs as the same user (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("3i")
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return bool(struct.unpack("3i", peer)[1] == os.getuid())


def send(writer: Writer, message: Message) -> None:
    """Queue one message of the control protocol."""
    writer.write(json.dumps(message).encode("ascii") + b"\n")


async def pump(reader: Reader, writer: Writer) -> None:
    """Copy bytes until the end of file and pass that on."""
    while True:
        data = await reader.read(64 * 1024)
        if not data:
            break
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


class HubRelay:
    """``hub.sock``: each connection goes on to the newest forwarded socket, and waits for one
    while there is none."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._target: Optional[str] = None
        self._changed = asyncio.Event()

    def point_to(self, name: Optional[str]) -> None:
        """Use the socket ``name`` from now on (``None``: the tunnel is lost)."""
        self._target = None if name is None else os.path.join(self._directory, name)
        self._changed.set()
        self._changed = asyncio.Event()
        if self._target is not None and os.path.exists(self._target):
            self._remove_older(self._target)

    def _remove_older(self, newest: str) -> None:
        # A newer tunnel's socket may already lie there, its hello still to come: keep that.
        for name in os.listdir(self._directory):
            path = os.path.join(self._directory, name)
            if path != newest and HUB_SOCKET_NAME.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):  # sshd may remove its own
                    if os.lstat(path).st_mtime_ns <= os.lstat(newest).st_mtime_ns:
                        os.unlink(path)

    async def _dial(self) -> Tuple[Reader, Writer]:
        while True:
            changed = self._changed
            if self._target is not None:
                with contextlib.suppress(OSError):  # not there yet, or the forward is gone
                    return await asyncio.open_unix_connection(self._target)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), 0.25)

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Carry one connection of the server."""
        ends: List[Writer] = [writer]
        ways: "List[asyncio.Future[None]]" = []
        try:
            far_reader, far_writer = await asyncio.wait_for(self._dial(), HUB_WAIT_SECONDS)
            ends.append(far_writer)
            ways.append(asyncio.ensure_future(pump(reader, far_writer)))
            ways.append(asyncio.ensure_future(pump(far_reader, writer)))
            await asyncio.gather(*ways)
        except asyncio.TimeoutError:
            say("The hub was not reachable for {:.0f} seconds.".format(HUB_WAIT_SECONDS))
        except OSError:
            pass  # either end went away: the other sees its connection close
        finally:
            for way in ways:
                way.cancel()
            for end in ends:
                end.close()
