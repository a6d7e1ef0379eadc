"""Stands for the single-user server: prints what it was given and serves a unix socket.

The variable ``STUB`` says how it behaves: ``crash`` (status 3), ``late`` (crash once told to on
its socket), ``stubborn`` (does not heed SIGTERM), ``segfault``.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

behaviour = os.environ.get("STUB", "")
print("STUB", json.dumps({"argv": sys.argv[1:], "cwd": str(Path.cwd()), "umask": os.umask(0o077)}))
print("ENV", json.dumps({k: v for k, v in os.environ.items() if not k.startswith("SECRET")}))
sys.stdout.flush()
if behaviour == "crash":
    sys.exit(3)
if behaviour == "segfault":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
path = next(a for a in sys.argv if a.startswith("--ServerApp.sock=")).split("=", 1)[1]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
Path(path).chmod(0o600)
listener.listen()
while True:
    peer, _ = listener.accept()
    with peer:
        asked = peer.recv(100)
        if asked == b"end":
            sys.exit(0)
        if asked == b"fail":
            sys.exit(4)
        if asked == b"hub":
            # Ask the hub through hub.sock and answer what it says.
            hub = socket.socket(socket.AF_UNIX)
            hub.connect(str(Path(path).with_name("hub.sock")))
            hub.sendall(b"question")
            hub.shutdown(socket.SHUT_WR)
            while data := hub.recv(65536):
                peer.sendall(data)
            hub.close()
        elif asked:
            peer.sendall(asked)
