"""Weight files: written whole with a digest of their tensors, read only if it and the shapes agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attribook.papers.sources import sha256_of

State = dict[str, Tensor]


class Packing(NamedTuple):
    """How a network's tensors become those of its file, and back, without loss."""

    pack: Callable[[State], State]
    unpack: Callable[[State], State]
    form: str  # what a file of it holds; another form is another file


AS_IT_IS = Packing(dict, dict, "tensors as they are")


def write(model: nn.Module, path: Path, packing: Packing = AS_IT_IS) -> None:
    """Write the weights with their digest; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = packing.pack(model.state_dict())
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(stored, part, metadata={"sha256": digest(stored)})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def fill(model: nn.Module, path: Path, packing: Packing = AS_IT_IS) -> str:
    """Give the model the weights of a file; the digest of what the file holds."""
    if not path.exists():
        raise ValueError(f"{path} is missing from the package; install attribook again")
    try:
        with safe_open(path, framework="pt") as weights:
            stored = {key: weights.get_tensor(key) for key in weights.keys()}  # noqa: SIM118
        expected, found = stored_digest(path), digest(stored)
    except SafetensorError as error:
        raise ValueError(f"weights {path} are damaged ({error}); {_way_out(path)}") from error
    if found != expected:
        raise ValueError(
            f"weights {path} are damaged (sha256 expected {expected}, found {found}); "
            f"{_way_out(path)}"
        )
    state = _unpacked(stored, path, packing)
    _check_fit(state, model.state_dict(), path)
    model.load_state_dict(state)
    return found


def stored_digest(path: Path) -> str:
    """The digest that stands in a file's header; its tensors are not read."""
    with safe_open(path, framework="pt") as weights:
        return (weights.metadata() or {}).get("sha256", "none stored")


def digest(state: State) -> str:
    """The sha256 of tensors: their names and bytes, in order of name."""
    return sha256_of(part for key in sorted(state) for part in _bytes(key, state[key]))


def _bytes(key: str, tensor: Tensor) -> tuple[bytes, bytes]:
    return key.encode(), tensor.contiguous().cpu().numpy().tobytes()


def shapes(state: State) -> dict[str, str]:
    """Shape and type of every tensor, as text."""
    return {key: f"{tuple(value.shape)} {value.dtype}" for key, value in state.items()}


def _unpacked(stored: State, path: Path, packing: Packing) -> State:
    try:
        return packing.unpack(stored)
    except (KeyError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"weights {path} are of another architecture (they cannot be unpacked: {error!r}); "
            f"{_way_out(path)}"
        ) from error


def _check_fit(state: State, wanted: State, path: Path) -> None:
    """The same tensors by name, shape and type; torch by itself would convert types silently."""
    found, expected = shapes(state), shapes(wanted)
    for key in sorted(found.keys() | expected.keys()):
        here, there = found.get(key, "nothing"), expected.get(key, "nothing")
        if here != there:
            raise ValueError(
                f"weights {path} are of another architecture: {key} is {here} in the file, "
                f"the network wants {there}; {_way_out(path)}"
            )


def _way_out(path: Path) -> str:
    return f"remove {path.name} if it is in a cache, install attribook again if in the package"
