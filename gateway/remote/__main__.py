"""The agent: what a job runs on the compute node, between the tunnel and the single-user server.

Standard library only, Python 3.8 or later. This directory is packed into one zip file, copied to
the cluster, and started as::

    python3 -I agent.pyz --launch-id ID --directory LAUNCH_DIR --socket-directory DIR
        [--start-directory D] -- COMMAND…

It makes a private directory of sockets on the node, announces it in the launch directory, waits for
the tunnel to bring the server's environment, runs COMMAND on ``nb.sock`` there, and keeps
``hub.sock`` in front of whichever socket the newest tunnel forwards to the hub's API, so that the
server outlives any number of tunnels. What both sides say is in ``gateway/tunnel/base.py``.

Secrets exist only in the memory of this process until the server starts, then only in the server's
environment; they are never printed. What went wrong is one line in the job's log:
``landfall: error CODE: words``.
"""

import sys

from landfall_agent.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
