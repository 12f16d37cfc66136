"""Data sets: shapes, values, boxes, and what a user sees when an image is not right."""

import gzip

import numpy as np
import pytest
import torch
from hearing import heard
from PIL import Image

from attribook.papers.data import (
    CANVAS,
    CROP,
    CROPS,
    FASHION_CLASSES,
    clutter,
    cluttered,
    fashion_mnist,
    image_folder,
    imagenet_names,
    mnist5k,
    photos20,
    tight_boxes,
)
from attribook.papers.sources import locate

DIFFICULTIES = {"easy", "many", "cropped", "hidden", "small", "mislabelled"}


def save_image(path, value=127, size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def test_digits_are_ink_in_zero_to_one_split_4000_to_1000(digits):
    assert digits.train_images.shape == (4000, 1, 28, 28)
    assert digits.test_images.shape == (1000, 1, 28, 28)
    for images in (digits.train_images, digits.test_images):
        assert images.dtype == torch.float32
        assert images.min() == 0 and images.max() == 1
        assert images[:, :, 0, 0].max() == 0  # the corner of a digit is paper, not ink


def test_the_split_has_500_of_each_digit_and_no_image_twice(digits):
    labels = torch.cat([digits.train_labels, digits.test_labels])
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert labels.bincount().tolist() == [500] * 10
    assert len(images.unique(dim=0)) == 5000
    assert digits.test_labels.bincount().min() > 80  # the file is sorted, the split is not


def test_the_split_is_the_same_every_time(digits):
    again = mnist5k()
    assert all(torch.equal(a, b) for a, b in zip(digits, again, strict=True))


def test_the_split_is_that_of_the_packaged_weights(digits):
    """Another one would test networks on digits that they were trained on."""
    assert digits.train_labels[:12].tolist() == [0, 7, 9, 9, 1, 5, 2, 4, 0, 5, 8, 2]
    assert digits.test_labels[:12].tolist() == [6, 0, 3, 3, 1, 5, 4, 8, 6, 7, 1, 4]


def test_clothes_are_60000_and_10000_with_every_class_as_often():
    clothes = fashion_mnist()
    assert clothes.train_images.shape == (60_000, 1, 28, 28)
    assert clothes.test_images.shape == (10_000, 1, 28, 28)
    for images, labels in (clothes[:2], clothes[2:]):
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert images.min() == 0 and images.max() == 1
        assert labels.bincount().tolist() == [len(images) // 10] * 10
    assert len(FASHION_CLASSES) == 10 and FASHION_CLASSES[7] == "Sneaker"
    assert FASHION_CLASSES[clothes.train_labels[0]] == "Ankle boot"


@pytest.mark.parametrize("n", [0, 100, 9999])
def test_clothes_are_the_bytes_of_their_files_over_255(n):
    images, labels = (gzip.decompress(path.read_bytes()) for path in locate("fashion-mnist")[-2:])
    image = np.frombuffer(images[16 + 784 * n :][:784], np.uint8).reshape(28, 28)
    ours = fashion_mnist()
    assert torch.equal(ours.test_images[n, 0], torch.from_numpy(image / np.float32(255)))
    assert ours.test_labels[n] == labels[8 + n]


def test_clothes_are_read_once_in_a_process():
    assert fashion_mnist() is fashion_mnist()


@pytest.fixture(scope="module")
def scenes():
    return clutter(300, seed=3)


def test_clutter_has_one_object_and_its_box_on_each_canvas(scenes):  # [taylor, Fig. 5(b)]
    assert scenes.images.shape == (300, 1, 56, 56) and scenes.images.dtype == torch.float32
    assert scenes.labels.shape == (300,) and set(scenes.labels.tolist()) == set(range(10))
    assert scenes.boxes.shape == (300, 4) and scenes.boxes.dtype == torch.int64
    for image, mask, box in zip(scenes.images[:, 0], scenes.masks(), scenes.boxes, strict=True):
        left, top, right, bottom = box.tolist()
        assert 0 <= left < right <= CANVAS and 0 <= top < bottom <= CANVAS
        assert mask[top:bottom, left:right].all()
        assert mask.sum() == (right - left) * (bottom - top) < CANVAS**2 / 3
        ink = image[top:bottom, left:right] > 0.1
        assert all(edge.any() for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))  # tight
        assert (image[~mask] > 0).any()  # clutter


def test_the_box_shows_the_object_and_nothing_else(scenes):
    clothes = fashion_mnist()
    rows = torch.randperm(10_000, generator=torch.Generator().manual_seed(3))[:300]
    assert torch.equal(scenes.labels, clothes.test_labels[rows])
    for n, row in enumerate(rows):
        image = clothes.test_images[row, 0]
        below, across = (image > 0.1).nonzero(as_tuple=True)
        by_hand = image[below.min() : below.max() + 1, across.min() : across.max() + 1]
        left, top, right, bottom = scenes.boxes[n].tolist()
        assert torch.equal(scenes.images[n, 0, top:bottom, left:right], by_hand)


def test_clutter_is_cut_from_other_images_than_the_object(generator):
    images = (torch.arange(1, 5) / 4).reshape(4, 1, 1, 1).repeat(1, 1, 12, 12)  # one grey each
    rows = torch.arange(4).repeat(200)
    canvases, boxes = cluttered(images, rows, generator)
    assert ((boxes[:, 2:] - boxes[:, :2]) == 12).all()
    for row, canvas, box in zip(rows, canvases[:, 0], boxes, strict=True):
        left, top, right, bottom = box.tolist()
        own = canvas == images[row, 0, 0, 0]
        assert own[top:bottom, left:right].all() and own.sum() == 144
        assert 0 < ((canvas > 0) & ~own).sum() <= CROPS * CROP**2
    assert len(canvases[rows == 0].unique()) == 5  # black, its own grey, and all three others


def test_objects_and_clutter_lie_anywhere_on_the_canvas(generator):
    images = torch.ones(2, 1, 12, 12)
    images[0] = 0.5
    canvases, boxes = cluttered(images, torch.zeros(2000, dtype=torch.long), generator)
    assert boxes[:, :2].amin(0).tolist() == [0, 0] and boxes[:, 2:].amax(0).tolist() == [56, 56]
    assert boxes[:, :2].float().mean(0).tolist() == pytest.approx([22, 22], abs=1.2)  # 4 sigma
    assert (canvases == 1).any(0).all()  # every pixel is clutter on some canvas


def test_clutter_follows_its_seed_alone():
    before = torch.get_rng_state()
    first, again, other = clutter(20, seed=1), clutter(20, seed=1), clutter(20, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)
    assert torch.equal(torch.get_rng_state(), before)


def test_clutter_shows_no_test_image_twice_and_no_more_than_there_are():
    labels = clutter(10_000).labels
    assert labels.bincount().tolist() == [1000] * 10
    for n in (0, 10_001):
        with pytest.raises(ValueError, match=f"1 to 10000, the test clothes, got {n}"):
            clutter(n)


def test_tight_boxes_hold_what_is_brighter_than_a_tenth():
    images = torch.zeros(2, 5, 6)
    images[0, 1, 4] = images[0, 3, 2] = 0.11
    images[0, 0, 0] = 0.1
    images[1, 4, 5] = 1
    assert tight_boxes(images).tolist() == [[2, 1, 5, 4], [5, 4, 6, 5]]
    with pytest.raises(ValueError, match="no object; leave it out"):
        tight_boxes(torch.zeros(1, 5, 6))


def test_photos_are_the_pixels_scaled_to_the_networks_range(photos):
    assert photos.images.shape == (20, 3, 224, 224)
    with Image.open(locate("photos20")[4]) as image:  # 512 x 512: nothing to crop
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float32)
    expected = (torch.from_numpy(pixels).permute(2, 0, 1) - 127) / 128
    assert torch.equal(photos.images[4], expected)
    assert photos.images.min() >= -127 / 128 and photos.images.max() <= 1


def test_photos_are_reported_with_the_boxes_that_were_drawn_on_them():
    with heard() as reads:
        photos20()
    assert [name for name, _ in reads] == ["photos20", "photos20.yml"]


def test_photos_are_cropped_not_squeezed(tmp_path):
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, 20:40] = 255
    Image.fromarray(stripes).save(tmp_path / "n01440764_wide.png")
    assert image_folder(tmp_path, size=20).images.unique().tolist() == [1.0]


def test_names_of_photos_are_those_of_their_labels(photos):
    names = imagenet_names()
    assert len(names) == 1000
    of_labels = [names[label] for label in photos.labels]
    assert [n.lower().replace(" ", "") for n in of_labels] == [
        n.replace(" ", "") for n in photos.names
    ]


def test_boxes_lie_in_the_photo_and_have_an_area(photos):
    assert len(photos.boxes) == len(photos.difficulty) == 20
    assert set(photos.difficulty) <= DIFFICULTIES
    for boxes in photos.boxes:
        assert boxes
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= 224 and 0 <= top < bottom <= 224


def test_only_photos_called_small_have_small_subjects(photos):
    covered = photos.masks().float().mean((1, 2))
    assert [d == "small" for d in photos.difficulty] == (covered < 0.1).tolist()


def test_masks_are_the_union_of_the_boxes(photos):
    expected = torch.zeros(20, 224, 224, dtype=torch.bool)
    for mask, boxes in zip(expected, photos.boxes, strict=True):
        for left, top, right, bottom in boxes:
            mask[int(top) : int(bottom), int(left) : int(right)] = True
    assert torch.equal(photos.masks(), expected)


def test_boxes_scale_with_the_photo(photos):
    half = photos20(size=112)
    assert half.images.shape == (20, 3, 112, 112)
    assert half.boxes[0][0] == tuple(edge / 2 for edge in photos.boxes[0][0])
    coarse = torch.nn.functional.avg_pool2d(photos.masks().float(), 2)
    assert torch.equal(half.masks()[coarse == 1], torch.ones(int((coarse == 1).sum())).bool())
    assert not half.masks()[coarse == 0].any()


def test_photos_without_boxes_have_no_masks(tmp_path):
    save_image(tmp_path / "n01440764_tench.jpg")
    with pytest.raises(ValueError, match="no boxes"):
        image_folder(tmp_path).masks()


@pytest.mark.parametrize(
    "paths",
    [
        ["n01440764_tench.jpg", "n02110341_4711.JPEG"],
        ["n01440764/a.png", "n02110341/deep.jpg"],
        ["val/n01440764/a.png", "val/n02110341/b_c.jpg"],
    ],
)
def test_an_image_folder_is_labelled_by_synset(tmp_path, paths):
    for path in paths:
        save_image(tmp_path / path, value=255)
    (tmp_path / "notes.txt").write_text("not an image")
    photos = image_folder(tmp_path)
    assert photos.labels.tolist() == [0, 251]
    assert photos.names == ["tench", "dalmatian"]
    assert photos.images.shape == (2, 3, 224, 224) and photos.images.min() == 1
    assert photos.boxes == []


def test_an_image_folder_says_what_is_wrong_with_it(tmp_path):
    with pytest.raises(ValueError, match="nowhere is no folder"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no image in"):
        image_folder(tmp_path)
    save_image(tmp_path / "cat.jpg")
    with pytest.raises(ValueError, match=r"cat\.jpg names no ImageNet class.*n01440764_tench"):
        image_folder(tmp_path)
    (tmp_path / "cat.jpg").unlink()
    (tmp_path / "n01440764_broken.jpg").write_bytes(b"\xff\xd8 this is no jpeg")
    with pytest.raises(ValueError, match=r"n01440764_broken\.jpg cannot be read"):
        image_folder(tmp_path)


def test_a_truncated_image_is_an_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "n01440764_cut.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(ValueError, match="n01440764_cut"):
        image_folder(tmp_path)
