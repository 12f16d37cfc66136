"""The kernels of runs in progress, and what ends them when a run is stopped."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager, KernelManager

# glibc gives a freed block of 128 KB or more back to the system, and the next pass through a network
# pays for a fresh one page by page; so a kernel keeps what it had, blocks above 32 MB excepted.
KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**29)}


class Stopped(KeyboardInterrupt):
    """A request to end, by a signal or because nobody waits for the result any more."""


class Kernels:
    """Kernels that were started and not ended yet; `stop` ends them and every later one at once.

    A kernel also ends by itself within a second when the process that started it is gone.
    """

    def __init__(self) -> None:
        self._started: list[KernelManager] = []
        self._stopped = False
        self._lock = threading.Lock()

    def manager(self) -> type[KernelManager]:
        """The class of a kernel's manager that tells this object of the kernel."""
        kernels = self

        class Told(AsyncKernelManager):
            """A kernel's manager that tells when its kernel has started."""

            async def start_kernel(self, *arguments, **options):
                await super().start_kernel(*arguments, **options)
                kernels._add(self)

        return Told

    def stop(self) -> None:
        """End all kernels, whatever they are doing."""
        with self._lock:
            self._stopped = True
            for manager in self._started:
                _kill(manager)

    def _add(self, manager: KernelManager) -> None:
        with self._lock:
            self._started.append(manager)
            if self._stopped:
                _kill(manager)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError, OSError):
        return False
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()  # without /proc, what answers runs


def _kill(manager: KernelManager) -> None:
    process = getattr(manager.provisioner, "process", None)  # None when it has ended
    if process is not None and process.poll() is None:
        process.kill()
