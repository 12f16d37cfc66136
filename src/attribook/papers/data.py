"""Data sets in memory: digits, clothes, clutter, photos as tensors, with what they show."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from jaxtyping import Bool, Float, Int
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from attribook.papers.sources import locate, read, read_packaged

Box = tuple[
    float, float, float, float
]  # left, top, right, bottom in pixels; right, bottom excluded

PHOTO_SIZE = 224
GREY, PIXEL_SCALE = 127.0, 128.0  # a photo's 0 is grey: (pixel - 127) / 128
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
N_TRAIN = 4000
CANVAS, CROPS, CROP = 56, 6, 10  # sides in pixels of a canvas and of each of its pieces of clutter
INK = 0.1  # a brighter pixel belongs to the object
IDX_AXES = 3  # the byte of an idx file that says how many axes follow, each a big-endian integer

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class Pictures(NamedTuple):
    """Grey pictures, in [0, 1] on black, and the class of what they show."""

    train_images: Float[Tensor, "train 1 28 28"]
    train_labels: Int[Tensor, " train"]
    test_images: Float[Tensor, "test 1 28 28"]
    test_labels: Int[Tensor, " test"]


class Clutter(NamedTuple):
    """Canvases with one object each among clutter, the object's class and its exact box.

    A box is left, top, right, bottom in pixels, the last two excluded.
    """

    images: Float[Tensor, "n 1 56 56"]
    labels: Int[Tensor, " n"]
    boxes: Int[Tensor, "n 4"]

    def masks(self) -> Bool[Tensor, "n 56 56"]:
        """True for the pixels in the box."""
        return _inside(self.boxes, CANVAS)


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


def mnist5k() -> Pictures:
    """5,000 MNIST digits, 500 of each class, as 4,000 to train on and 1,000 to test on.

    The file is sorted by class; the split is NumPy's legacy permutation of seed 0, which NumPy
    promises never to change.
    """
    (content,) = read("mnist5k")
    table = np.loadtxt(io.BytesIO(content), np.uint8, delimiter=",")
    table = torch.from_numpy(table[np.random.RandomState(0).permutation(len(table))])
    images = table[:, :-1].reshape(-1, 1, 28, 28).float() / 255
    labels = table[:, -1].long()
    return Pictures(images[:N_TRAIN], labels[:N_TRAIN], images[N_TRAIN:], labels[N_TRAIN:])


@cache
def fashion_mnist() -> Pictures:
    """All of Fashion-MNIST, 60,000 clothes to train on and 10,000 to test on, in ten classes.

    `FASHION_CLASSES` names them. The tensors take 220 MB, and every call in a process returns the
    same ones: copy before changing them in place.   [integrated, Sec. 7]
    """
    arrays = list(map(_from_idx, read("fashion-mnist")))
    train_images, test_images = (
        torch.from_numpy(array.astype(np.float32)).unsqueeze(1).div_(255) for array in arrays[::2]
    )
    train_labels, test_labels = (torch.from_numpy(array.astype(np.int64)) for array in arrays[1::2])
    return Pictures(train_images, train_labels, test_images, test_labels)


def clutter(n: int = 1000, seed: int = 0) -> Clutter:
    """The localisation toy: `n` of the 10,000 test clothes, each once, somewhere among clutter.

    What `cluttered` makes of them. The same `n` and seed give the same bits.   [taylor, Fig. 5(b)],
    where the paper has ImageNet and its boxes
    """
    clothes, generator = fashion_mnist(), torch.Generator().manual_seed(seed)
    if not 0 < n <= len(clothes.test_labels):
        raise ValueError(f"n must be 1 to {len(clothes.test_labels)}, the test clothes, got {n}")
    rows = torch.randperm(len(clothes.test_labels), generator=generator)[:n]
    images, boxes = cluttered(clothes.test_images, rows, generator)
    return Clutter(images, clothes.test_labels[rows], boxes)


def cluttered(
    images: Float[Tensor, "all 1 height width"],
    rows: Int[Tensor, " n"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n 1 56 56"], Int[Tensor, "n 4"]]:
    """The objects of `images[rows]`, each on a canvas of 56 x 56 with clutter, and their boxes.

    Clutter is six pieces of 10 x 10 pixels cut anywhere from other ones of `images`. The object, in
    the tightest box around its pixels above 0.1, goes on top: nothing covers it, and its box shows
    nothing else. All places are uniform among those inside the canvas.
    """
    n, (height, width) = len(rows), images.shape[-2:]
    canvases = images.new_zeros(n, CANVAS, CANVAS)
    for _ in range(CROPS):
        others = (rows + torch.randint(1, len(images), (n,), generator=generator)) % len(images)
        room = torch.tensor([width - CROP + 1, height - CROP + 1]).expand(n, 2)
        corners = _uniform(room, generator)
        places = _uniform(torch.full((n, 2), CANVAS - CROP + 1), generator)
        _paste(canvases, images[others, 0], torch.cat([corners, corners + CROP], 1), places)
    objects = images[rows, 0]
    boxes = tight_boxes(objects)
    extents = boxes[:, 2:] - boxes[:, :2]
    places = _uniform(CANVAS - extents + 1, generator)
    _paste(canvases, objects, boxes, places)
    return canvases.unsqueeze(1), torch.cat([places, places + extents], 1)


def tight_boxes(images: Float[Tensor, "n height width"]) -> Int[Tensor, "n 4"]:
    """The smallest boxes that hold all pixels above 0.1: left, top, right, bottom."""
    ink = images > INK
    if not ink.flatten(1).any(1).all():
        raise ValueError(f"an image without a pixel above {INK} shows no object; leave it out")
    columns, rows = ink.any(1).int(), ink.any(2).int()
    first = [line.argmax(1) for line in (columns, rows)]  # argmax: the first of several
    last = [line.shape[1] - line.flip(1).argmax(1) for line in (columns, rows)]
    return torch.stack([*first, *last], 1)


def photos20(size: int = PHOTO_SIZE) -> Photos:
    """20 ImageNet-labelled photos with boxes around their subjects, drawn by the project.

    `size` is the side in pixels; boxes are drawn at 224 and scale with it.
    """
    paths = locate("photos20")
    annotations = yaml.safe_load(read_packaged("photos20.yml"))
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


def _uniform(counts: Int[Tensor, "*shape"], generator: torch.Generator) -> Int[Tensor, "*shape"]:
    """Whole numbers, each uniform below its count."""
    return (torch.rand(counts.shape, generator=generator, dtype=torch.float64) * counts).long()


def _inside(boxes: Int[Tensor, "n 4"], size: int) -> Bool[Tensor, "n size size"]:
    left, top, right, bottom = boxes[:, :, None].unbind(1)  # (n, 1) each
    pixel = torch.arange(size)
    rows, columns = (top <= pixel) & (pixel < bottom), (left <= pixel) & (pixel < right)
    return rows[:, :, None] & columns[:, None, :]


def _paste(
    canvases: Float[Tensor, "n canvas canvas"],
    pictures: Float[Tensor, "n size size"],
    boxes: Int[Tensor, "n 4"],
    places: Int[Tensor, "n 2"],
) -> None:
    """Copy the box of each picture onto its canvas, its upper left corner at its place."""
    which, row, column = _inside(boxes, pictures.shape[-1]).nonzero(as_tuple=True)
    right, down = (places - boxes[:, :2])[which].unbind(1)
    canvases[which, row + down, column + right] = pictures[which, row, column]


@cache
def _imagenet() -> dict[str, str]:
    """Synset to name for the 1,000 classes; their order is the class index."""
    return yaml.safe_load(read_packaged("imagenet.yml"))


def _label(path: Path) -> int:
    synsets = list(_imagenet())
    for word in (path.stem.split("_")[0], path.absolute().parent.name):
        if word in synsets:
            return synsets.index(word)
    raise ValueError(
        f"{path} names no ImageNet class; wanted a class folder (n01440764/any.jpg) "
        "or a file that starts with its synset (n01440764_tench.jpg)"
    )


def _from_idx(content: bytes) -> np.ndarray:
    """The array of bytes in an idx file."""
    start = IDX_AXES + 1
    shape = np.frombuffer(content, ">i4", content[IDX_AXES], start)
    return np.frombuffer(content, np.uint8, offset=start + shape.nbytes).reshape(shape)


# What trains a network, and where it comes from: the hash of its file is known without reading it.
SOURCE_OF = {mnist5k: "mnist5k", fashion_mnist: "fashion-mnist"}
