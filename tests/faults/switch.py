"""A switch between network namespaces in user space, with delay, loss, cut lines and duplicates, for kernels without netem.

Run inside the switch's namespace: ``python switch.py PORT,PORT,... STATE SEED``. Its first line says that it forwards.

`STATE` is a JSON file, read again when it changes: ``{"delay_s": 0.15, "loss": 0.02, "twice": 0.01, "cut": ["p1"]}``. Each
frame waits `delay_s` in each direction; `loss` and `twice` are shares of frames; `cut` names ports whose frames are dropped in
silence, so that both ends believe that they are connected.
Standard library only, so that it starts in a moment.
"""

import heapq
import itertools
import json
import os
import random
import select
import socket
import sys
import time
from pathlib import Path

ETH_P_ALL = 3
OUTGOING = 4  # PACKET_OUTGOING: our own frame
BURST = 256
IDLE_S = 0.05


class State:
    """What the lines do now."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, (0, 0)
        self.delay_s, self.loss, self.twice = 0.0, 0.0, 0.0
        self.cut: frozenset[str] = frozenset()

    def refresh(self) -> None:
        """Read the file if it is another one; it is replaced as a whole."""
        about = os.stat(self._path)
        found = about.st_ino, about.st_mtime_ns  # the number of a file that was replaced is given to a later one
        if found != self._read:
            values = json.loads(self._path.read_text())
            self._read = found
            self.delay_s, self.loss = values.get("delay_s", 0.0), values.get("loss", 0.0)
            self.twice, self.cut = values.get("twice", 0.0), frozenset(values.get("cut", []))


def opened(port: str) -> socket.socket:
    """Return a socket that sees every frame of a port."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    made.bind((port, 0))
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    return made


def forward(ports: list[str], state: State, seed: int) -> None:
    """Forward frames for ever: to the port of their destination where it is known, otherwise to all others."""
    draw, number = random.Random(seed), itertools.count()
    sockets = [opened(port) for port in ports]
    where: dict[bytes, int] = {}
    waiting: list[tuple[float, int, int, bytes]] = []
    print("forwarding", flush=True)
    while True:
        due_s = waiting[0][0] - time.monotonic() if waiting else IDLE_S
        for ready in select.select(sockets, [], [], max(0.0, min(IDLE_S, due_s)))[0]:
            state.refresh()
            source = sockets.index(ready)
            for _ in range(BURST):
                try:
                    frame, address = ready.recvfrom(65536)
                except BlockingIOError:
                    break
                if address[2] == OUTGOING:
                    continue
                where[frame[6:12]] = source
                if ports[source] in state.cut or draw.random() < state.loss:
                    continue
                for _ in range(2 if draw.random() < state.twice else 1):
                    heapq.heappush(waiting, (time.monotonic() + state.delay_s, next(number), source, frame))
        state.refresh()
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, source, frame = heapq.heappop(waiting)
            known = where.get(frame[:6])
            for target in range(len(sockets)) if known is None else (known,):
                if target != source and ports[target] not in state.cut:
                    try:
                        sockets[target].send(frame)
                    except OSError:  # a full queue, or a port whose host is gone
                        continue


if __name__ == "__main__":
    shown = State(Path(sys.argv[2]))
    shown.refresh()
    forward(sys.argv[1].split(","), shown, seed=int(sys.argv[3]))
