"""What a GPU that is not there has beside its tensors: memory that ends, streams and events (see fake_gpu)."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator

import torch

MEMORY_BYTES = 1 << 30


class Memory:
    """Bytes of the device in use; one block is counted once, whoever looks at it."""

    def __init__(self) -> None:
        self.total = MEMORY_BYTES
        self.used = self.peak = 0
        self._users: Counter[int] = Counter()
        self._lock = threading.RLock()

    def hold(self, owner: object, storage: torch.UntypedStorage) -> None:
        """For as long as its owner lives; raises OutOfMemoryError."""
        address, size = storage.data_ptr(), storage.nbytes()
        with self._lock:
            if not self._users[address]:
                if self.used + size > self.total:
                    raise torch.OutOfMemoryError(f"tried to allocate {size} bytes, {self.total - self.used} are free")
                self.used += size
                self.peak = max(self.peak, self.used)
            self._users[address] += 1
        weakref.finalize(owner, self._drop, address, size).atexit = False

    def _drop(self, address: int, size: int) -> None:
        with self._lock:
            self._users[address] -= 1
            if not self._users[address]:
                del self._users[address]
                self.used -= size


class Stream:
    """Copies to the host that were asked for and not done."""

    def __init__(self, device: object = None) -> None:
        self.late: list[Callable[[], None]] = []
        self.seen = 0
        """Up to which kernel it has waited for the others."""

    def wait_stream(self, other: Stream) -> None:
        self.seen = device.kernels

    def synchronize(self) -> None:
        while self.late:
            self.late.pop(0)()


class Event:
    """A point of a stream."""

    def record(self, stream: Stream) -> None:
        self._stream, self._copies = stream, tuple(stream.late)

    def query(self) -> bool:
        """Kernels are done when they are called."""
        return device.is_done(self)

    def synchronize(self) -> None:
        for copy in self._copies:
            if copy in self._stream.late:
                self._stream.late.remove(copy)
                copy()


class GpuModule:
    """``torch.fakegpu``, in the words of ``torch.cuda``."""

    Stream = Stream
    Event = Event

    def __init__(self) -> None:
        self.memory = Memory()
        self.kernels = 0
        self.is_here = False
        self.is_broken = False
        """Whatever is asked of it fails from now on, as after an illegal access."""
        self.main = Stream()
        self._threads = threading.local()

    def is_done(self, event: Event) -> bool:
        """For tests to say otherwise."""
        return True

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return self.is_here

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, place: object) -> None:
        """There is one."""

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """There are no generators on this device."""

    def get_device_name(self, place: object = None) -> str:
        return "a GPU that is not there"

    def current_stream(self, place: object = None) -> Stream:
        return getattr(self._threads, "stream", self.main)

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self._threads.stream = self.current_stream(), stream
        try:
            yield
        finally:
            self._threads.stream = before

    def mem_get_info(self, place: object = None) -> tuple[int, int]:
        return self.memory.total - self.memory.used, self.memory.total

    def memory_allocated(self, place: object = None) -> int:
        return self.memory.used

    def memory_reserved(self, place: object = None) -> int:
        return self.memory.used

    def max_memory_allocated(self, place: object = None) -> int:
        return self.memory.peak

    def reset_peak_memory_stats(self, place: object = None) -> None:
        self.memory.peak = self.memory.used

    def empty_cache(self) -> None:
        """Nothing is kept for later."""


device = GpuModule()
