"""A TCP relay on loopback that delays every byte by half a round trip in each direction, for benchmarks over distance.

It needs no rights and no network namespace. TLS passes through untouched. A new connection costs one round trip more, as a
TCP handshake does; bandwidth and loss are not modelled.
"""

import asyncio
import threading
from collections import deque
from types import TracebackType

CHUNK = 256 * 2**10
START_TIMEOUT_S = 20.0


class Relay:
    """Forwards connections to a port of this machine; a context manager.

    Attributes:
        round_trip_s: may be changed at any time.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.round_trip_s = 0.0
        self.port = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> "Relay":
        self._thread.start()
        self._ready.wait(START_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.round_trip_s)
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, forth), (back, writer)):
            task = asyncio.ensure_future(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Read as fast as it comes, and write each piece half a round trip later."""
        loop = asyncio.get_running_loop()
        pieces: deque[tuple[float, bytes]] = deque()
        more = asyncio.Event()

        async def read() -> None:
            data = b"begin"
            while data:
                try:
                    data = await source.read(CHUNK)
                except OSError:
                    data = b""
                pieces.append((loop.time() + self.round_trip_s / 2, data))
                more.set()

        reading = asyncio.ensure_future(read())
        try:
            while True:
                while not pieces:
                    more.clear()
                    await more.wait()
                due, data = pieces.popleft()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                if not data:
                    break
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            reading.cancel()
            sink.close()
