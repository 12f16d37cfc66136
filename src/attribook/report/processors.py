"""Simulated processors: the environment in which kernels compute as on another machine.

Libraries of numerics pick their instructions when they are loaded, by the processor they find. The
variables here cap what they pick, so one machine shows what a reference is worth on others. They
must be set before a kernel starts; in a process that has loaded these libraries they change nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ASKED = "ATTRIBOOK_PROCESSOR"  # a name in this variable counts for every command


def _threads(number: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(number))


def _instructions(torch: str, onednn: str, openblas: str, mkl: str) -> dict[str, str]:
    return {
        "ATEN_CPU_CAPABILITY": torch,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "OPENBLAS_CORETYPE": openblas,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
        **_threads(1),
    }


ONE_THREAD = _threads(1)
PROCESSORS = {
    "native": ONE_THREAD,
    "default": _instructions("default", "SSE41", "Nehalem", "SSE4_2"),
    "avx2": _instructions("avx2", "AVX2", "Haswell", "AVX2"),
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", **ONE_THREAD},
    "threads1": ONE_THREAD,
    "threads2": _threads(2),
}
# What numpy may not use, among the features it chooses from when it is loaded
_NUMPY_WITHOUT = {"default": r"X86_V|AVX|FMA|F16C", "avx2": r"X86_V4|AVX512"}
_NUMPY = "NPY_DISABLE_CPU_FEATURES"
_NEEDED = {"avx2": ("AVX2", "AVX512"), "avx512": ("AVX512",)}  # as torch names what it found


def environment(name: str) -> dict[str, str]:
    """The variables that make kernels compute as on the named processor.

    Raises ValueError when the name is unknown or this machine lacks the processor's instructions.
    """
    if name not in PROCESSORS:
        raise ValueError(f"unknown processor {name!r}; there are: {', '.join(PROCESSORS)}")
    if name in _NEEDED and (found := capability()) not in _NEEDED[name]:
        raise ValueError(
            f"processor {name} cannot be simulated: this machine's has {found}; "
            "choose from: native, default, threads1, threads2"
        )
    if name not in _NUMPY_WITHOUT:
        return dict(PROCESSORS[name])
    without = [entry for entry in _numpy_features() if re.match(_NUMPY_WITHOUT[name], entry)]
    return {**PROCESSORS[name], _NUMPY: " ".join(without)}


def apply(name: str) -> None:
    """Set the variables of a processor for everything that this process starts from now on."""
    os.environ.update(environment(name))


def apply_asked() -> None:
    """Set the variables of the processor that ATTRIBOOK_PROCESSOR names, if it names one."""
    if name := os.environ.get(ASKED):
        apply(name)


@contextmanager
def simulated(name: str | None) -> Iterator[None]:
    """Kernels started within it compute as on the named processor; None changes nothing."""
    before = dict(os.environ)
    if name is not None:
        apply(name)
    try:
        yield
    finally:
        for variable in os.environ.keys() - before.keys():
            del os.environ[variable]
        os.environ.update(before)


def capability() -> str:
    """What torch finds in this machine's processor, uncapped: "DEFAULT", "AVX2", "AVX512", ..."""
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    uncapped = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=uncapped, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _numpy_features() -> list[str]:
    """The features among which numpy chooses on this machine, those already disabled included."""
    import numpy

    found = numpy.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return list(dict.fromkeys([*os.environ.get(_NUMPY, "").split(), *found]))
