"""The next batches are read while the device works on this one, by one thread, in the given order."""

import queue
import threading
from collections.abc import Iterable, Iterator

import torch

from salus.client.data.tensors import TensorSet, Use
from salus.common.batch import Batch

DEPTH = 3  # batches read ahead; more would use memory without reading faster


def batches(
    data: TensorSet, rows: Iterable[torch.Tensor], device: torch.device, use: Use | None = None
) -> Iterator[Batch]:
    """Yield the items of each group of rows, on `device`, in order; errors of reading are raised here.

    Samples that are in memory are taken without a thread. One that was read ahead is refused like any other if its patient has
    withdrawn meanwhile.

    Args:
        use: the pass over the data, see `TensorSet.batch`.
    """
    pinned = device.type == "cuda"
    if data.in_memory:
        for part in rows:
            yield _moved(data.batch(part, use), device, pinned=pinned)
        return
    waiting: queue.Queue[tuple[torch.Tensor, Batch] | BaseException | None] = queue.Queue(DEPTH)
    ended = threading.Event()

    def give(item: tuple[torch.Tensor, Batch] | BaseException | None) -> None:
        while not ended.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for part in rows:
                if ended.is_set():
                    return
                give((part, _moved(data.batch(part, use), torch.device("cpu"), pinned=pinned)))
            give(None)
        except BaseException as problem:
            give(problem)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            part, batch = item
            data.require(part)
            yield _moved(batch, device, pinned=False)
    finally:
        ended.set()  # so that the thread ends when the caller stops early
        thread.join()


def _moved(batch: Batch, device: torch.device, *, pinned: bool) -> Batch:
    if pinned and batch.device.type == "cpu":
        batch = batch.pinned()
    return batch.to(device, non_blocking=True)
