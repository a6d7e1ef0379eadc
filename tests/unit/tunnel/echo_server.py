"""Stands for the single-user server on the unix socket it is told.

The first line of a connection is a word of ``TRICKS`` and perhaps an argument.
"""

import hashlib
import os
import socket
import sys
import threading
from urllib.parse import unquote

BLOCK = bytes(range(256)) * 256
SENT = [0]


def echo(near: socket.socket, word: str) -> None:
    while data := near.recv(65536):
        near.sendall(data)


def sink(near: socket.socket, word: str) -> None:
    """Answer with the sha256 of everything, at the end of file."""
    digest = hashlib.sha256()
    while data := near.recv(262144):
        digest.update(data)
    near.sendall(digest.hexdigest().encode())


def source(near: socket.socket, word: str) -> None:
    """Send so many bytes of the pattern."""
    for _ in range(int(word) // len(BLOCK)):
        near.sendall(BLOCK)
        SENT[0] += len(BLOCK)


def sent(near: socket.socket, word: str) -> None:
    """Tell how much of it is gone."""
    near.sendall(str(SENT[0]).encode())


def environment(near: socket.socket, word: str) -> None:
    near.sendall(os.environ.get(word, "").encode())


def hub(near: socket.socket, word: str) -> None:
    """Ask the hub API once and pass the answer on."""
    far = socket.socket(socket.AF_UNIX)
    far.settimeout(10)
    far.connect(unquote(os.environ["HUB_URL"].removeprefix("http+unix://").partition("/")[0]))
    far.sendall(b"GET /hub/api HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
    while data := far.recv(65536):
        near.sendall(data)
    far.close()


def hang(near: socket.socket, word: str) -> None:
    threading.Event().wait()


def leave(near: socket.socket, word: str) -> None:
    os._exit(int(word))


TRICKS = {
    "echo": echo,
    "sink": sink,
    "source": source,
    "sent": sent,
    "environment": environment,
    "hub": hub,
    "hang": hang,
    "exit": leave,
}


def serve(near: socket.socket) -> None:
    with near:
        line = b""
        while not line.endswith(b"\n"):
            data = near.recv(1)
            if not data:
                return
            line += data
        trick, _, word = line.decode().strip().partition(" ")
        TRICKS[trick](near, word)


def main() -> None:
    path = next(a.split("=", 1)[1] for a in sys.argv if a.startswith("--ServerApp.sock="))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(50)
    while True:
        near, _ = listener.accept()
        threading.Thread(target=serve, args=(near,), daemon=True).start()


main()
