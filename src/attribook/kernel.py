"""What a notebook's kernel tells about its own run, for the table of run statistics.

`attribook run` calls `watch` after the first code cell and `report` after the last one, in cells
that no reader sees.
"""

from __future__ import annotations

import json
import platform
import resource
import sys

_passes = {"calls": 0, "rows": 0, "depth": 0}


def watch() -> None:
    """Count the forward passes of every network from here on (calls of outermost modules)."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    modules = torch.nn.modules.module
    modules.register_module_forward_pre_hook(_enter)
    modules.register_module_forward_hook(_leave, always_call=True)


def report() -> None:
    """Print the statistics of this process as one line of JSON."""
    print(json.dumps(statistics()))


def statistics() -> dict:
    """Peak memory, device, versions and passes of this process."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    on_gpu = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "peak_memory_mb": round(peak / 2**20),
        "peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else None,
        "processor": torch.cuda.get_device_name() if on_gpu else "CPU",
        "python": platform.python_version(),
        "torch": torch and torch.__version__.partition("+")[0],
        "numpy": numpy and numpy.__version__,
        "forward_passes": _passes["calls"],
        "forward_rows": _passes["rows"],
    }


def _enter(module, args) -> None:
    if _passes["depth"] == 0:
        _passes["calls"] += 1
        _passes["rows"] += len(args[0]) if args and getattr(args[0], "ndim", 0) else 1
    _passes["depth"] += 1


def _leave(module, args, output) -> None:
    _passes["depth"] -= 1
