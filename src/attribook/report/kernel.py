"""What a notebook's kernel tells about its own run: what it read, with which versions, at what cost.

`attribook run` calls `watch` after the first code cell and `report` after the last one, in cells
that no reader sees.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
from importlib.metadata import version

from attribook.papers.sources import READ

VERSIONS = ("torch", "numpy", "scipy")

_passes = {"calls": 0, "rows": 0, "depth": 0}
_reads: dict[str, str] = {}


def watch() -> None:
    """From here on, note what is read, and count forward passes (calls of outermost modules)."""
    sys.addaudithook(_note)
    torch = sys.modules.get("torch")
    if torch is None:
        return
    modules = torch.nn.modules.module
    modules.register_module_forward_pre_hook(_enter)
    modules.register_module_forward_hook(_leave, always_call=True)


def report() -> None:
    """Print what made this run, and what it cost, as one line of JSON."""
    made = {"reads": dict(sorted(_reads.items())), "versions": versions()}
    print(json.dumps({**made, "statistics": statistics()}))


def versions() -> dict[str, str]:
    """The versions of what the numbers depend on."""
    found = {name: version(name).partition("+")[0] for name in VERSIONS}
    return {"python": platform.python_version(), **found}


def statistics() -> dict:
    """Peak memory, device and passes of this process."""
    torch = sys.modules.get("torch")
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    on_gpu = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "peak_memory_mb": round(peak / 2**20),
        "peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else None,
        "processor": torch.cuda.get_device_name() if on_gpu else "CPU",
        "forward_passes": _passes["calls"],
        "forward_rows": _passes["rows"],
    }


def _note(event: str, arguments: tuple) -> None:
    """Keep the name and digest of a file that the library says it read."""
    if event == READ:
        name, digest = arguments
        _reads[name] = digest[:12]


def _enter(module, args) -> None:
    if _passes["depth"] == 0:
        _passes["calls"] += 1
        _passes["rows"] += len(args[0]) if args and getattr(args[0], "ndim", 0) else 1
    _passes["depth"] += 1


def _leave(module, args, output) -> None:
    _passes["depth"] -= 1
