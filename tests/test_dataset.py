"""Pixels, labels, splits and samples against scikit-learn, Pillow and counting."""

import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from conftest import rows_of
from fragility.data.datasets import (
    ImageDataset,
    cifar10,
    digits,
    fashion_mnist,
    flowers,
    folder,
    imagenet,
    mnist,
    mnist_5k,
    photographs,
    sample,
)
from fragility.data.download import read_image
from fragility.data.sources import find

pytestmark = pytest.mark.usefixtures("data_folder")


# --- digits ---


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_scikit_learns(split: str) -> None:
    published = load_digits()
    dataset = digits(split, size=8)
    rows = rows_of(dataset)
    assert np.array_equal(dataset.images[:, 0].numpy() * 16, published.images[rows])
    assert np.array_equal(dataset.labels.numpy(), published.target[rows])
    assert (dataset.images.dtype, dataset.labels.dtype) == (torch.float32, torch.int64)


def test_digits_are_scaled_as_pillow_scales() -> None:
    published = load_digits()
    dataset = digits("test", limit=20)
    for image, row in zip(dataset.images, rows_of(dataset), strict=True):
        small = Image.fromarray(published.images[row].astype(np.float32) / 16)
        large = np.asarray(small.resize((32, 32), Image.Resampling.BILINEAR))
        # Four weighted numbers up to 1 in single precision, by each of the two: 8 roundings of 2^-24 at most.
        assert np.allclose(image[0].numpy(), large, rtol=0, atol=8 * 2**-24)


def test_the_split_of_the_digits_is_disjoint_complete_stratified_and_fixed() -> None:
    train, test = digits(size=8), digits("test", size=8)
    assert sorted(rows_of(train) + rows_of(test)) == list(range(1797))
    assert (len(train), len(test)) == (1437, 360)
    for label, count in Counter(load_digits().target.tolist()).items():
        assert abs(int((test.labels == label).sum()) - 360 * count / 1797) < 1
    assert rows_of(test)[:5] == [2, 3, 11, 13, 15]  # stored results rest on it


# --- samples ---


def numbered(labels: list[int]) -> ImageDataset:
    """Images that hold their own number."""
    images = (torch.arange(len(labels)) / 1024).reshape(-1, 1, 1, 1)
    files = tuple(f"row {number}" for number in range(len(labels)))
    return ImageDataset("numbered", images, torch.tensor(labels), tuple("abcdef"), "made here", files)


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=60), seed=st.integers(0, 2**32), data=st.data())
def test_a_sample_keeps_every_class_s_share(labels: list[int], seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(labels)))
    drawn = sample(numbered(labels), n, seed=seed)
    rows = rows_of(drawn)
    assert len(set(rows)) == len(drawn) == n
    assert (drawn.images.flatten() * 1024).tolist() == rows
    assert drawn.labels.tolist() == [labels[row] for row in rows]
    total, taken = Counter(labels), Counter(drawn.labels.tolist())
    for a in total:
        for b in total:
            slack = 1 / total[a] + 1 / total[b]
            assert abs(taken[a] / total[a] - taken[b] / total[b]) < slack + 1e-9
    assert rows_of(sample(numbered(labels), len(labels), seed=seed))[:n] == rows


def test_a_sample_is_random_within_a_class() -> None:
    dataset = numbered([0, 1] * 10)
    first = Counter(row for seed in range(2000) for row in rows_of(sample(dataset, 2, seed=seed)))
    assert set(first) == set(range(20))  # each row is drawn in 200 of 2,000 seeds, give or take 13
    assert all(130 < count < 270 for count in first.values())


def test_limit_draws_the_same_as_sample() -> None:
    drawn = sample(digits("test", size=8), 30, seed=4)
    limited = digits("test", size=8, limit=30, seed=4)
    assert limited.files == drawn.files
    assert torch.equal(limited.images, drawn.images)


@pytest.mark.parametrize("n", [0, -1, 21])
def test_a_sample_larger_than_the_data_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=rf"n: expected an integer from 1 to 20, got {n}"):
        sample(numbered([0, 1] * 10), n, seed=0)
    with pytest.raises(ValueError, match=rf"limit: expected an integer from 1 to 360, got {n + 340 * (n > 0)}"):
        digits("test", limit=n + 340 * (n > 0))


# --- the container ---


def test_a_dataset_that_does_not_fit_together_is_refused() -> None:
    images, labels, names, files = torch.rand(2, 1, 3, 3), torch.tensor([0, 1]), ("a", "b"), ("x", "y")
    assert len(ImageDataset("name", images, labels, names, "source", files)) == 2
    with pytest.raises(ValueError, match="files: expected 2 names, got 1"):
        ImageDataset("name", images, labels, names, "source", ("x",))
    with pytest.raises(ValueError, match=r"labels: expected shape \(2,\)"):
        ImageDataset("name", images, labels[:1], names, "source", files)
    with pytest.raises(ValueError, match=r"labels: expected classes in \[0, 1\)"):
        ImageDataset("name", images, labels, ("a",), "source", files)
    with pytest.raises(ValueError, match=r"images: expected pixels in \[0, 1\]"):
        ImageDataset("name", images * 255, labels, names, "source", files)


# --- a user's own images ---


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes; zebra/stripe.png is 8 x 4: a red left quarter, a green middle, a blue right quarter."""
    root = tmp_path / "pictures"
    for name in ("zebra", "ant", ".hidden"):
        (root / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("ant/b.png", "ant/a.PNG", ".hidden/c.png"):
        Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).save(root / name)
    stripes = np.zeros((4, 8, 3), np.uint8)
    stripes[:, :2, 0] = stripes[:, 2:6, 1] = stripes[:, 6:, 2] = 255
    Image.fromarray(stripes).save(root / "zebra" / "stripe.png")
    (root / "ant" / "folder.png").mkdir()
    (root / "ant" / ".thumbnails").mkdir()
    Image.new("RGB", (2, 2)).save(root / "ant" / ".thumbnails" / "a.png")
    (root / "ant" / "notes.txt").write_text("no image")
    (root / "ant" / "._a.PNG").write_text("what macOS leaves beside an image")
    (root / "readme.txt").write_text("no class")
    return root


def test_a_folder_of_class_folders_is_a_data_set(pictures: Path) -> None:
    dataset = folder(pictures, size=5)
    assert dataset.class_names == ("ant", "zebra")
    assert dataset.files == ("ant/a.PNG", "ant/b.png", "zebra/stripe.png")
    assert dataset.labels.tolist() == [0, 0, 1]
    for image, file in zip(dataset.images[:2], dataset.files[:2], strict=True):
        pixels = np.asarray(Image.open(pictures / file)).astype(np.float32)
        assert np.array_equal(image.permute(1, 2, 0).numpy() * 255, pixels)
    assert dataset.name == "folder"
    assert str(pictures) in dataset.source
    assert "squashed to 5 x 5" in dataset.source


def test_squashing_keeps_the_margins_and_cropping_cuts_them_off(pictures: Path) -> None:
    squashed, cropped = folder(pictures, size=4).images[2], folder(pictures, size=4, crop=True).images[2]
    assert torch.equal(cropped, torch.tensor([0.0, 1, 0]).reshape(3, 1, 1).expand(3, 4, 4))
    # halving: each output pixel weighs 8 input pixels by a triangle of half-width 2, cut off at the border
    triangle = [max(0.0, 1 - abs(2 * out + 0.5 - i) / 2) for out in range(4) for i in range(8)]
    weights = torch.tensor(triangle).reshape(4, 8)
    weights /= weights.sum(1, keepdim=True)
    stripes = torch.zeros(3, 8)
    stripes[0, :2] = stripes[1, 2:6] = stripes[2, 6:] = 1
    expected = (stripes @ weights.T)[:, None].expand(3, 4, 4)
    assert torch.allclose(squashed, expected, rtol=0, atol=1 / 255)


def test_what_is_no_folder_of_class_folders_is_refused(pictures: Path) -> None:
    empty = pictures / "empty class"
    empty.mkdir()
    for path, message in (
        (pictures / "absent", "expected a folder with one sub-folder per class"),
        (pictures / "readme.txt", "expected a folder with one sub-folder per class"),
        (pictures / "zebra", "expected one sub-folder per class in .*zebra.*got none"),
        (pictures, r"expected images \(.*\.jpg.*\) in .*empty class"),
    ):
        with pytest.raises(ValueError, match=f"path: {message}"):
            folder(path)
    empty.rmdir()
    for place in ("loose.png", "ant/folder.png/deep.png"):
        (pictures / place).write_bytes((pictures / "zebra" / "stripe.png").read_bytes())
        with pytest.raises(ValueError, match=rf"path: expected images directly in class .* got 1 .*\({place}\)"):
            folder(pictures)
        (pictures / place).unlink()
    (pictures / "zebra" / "bad.jpg").write_text("hello")
    with pytest.raises(ValueError, match=r"bad\.jpg: expected a readable image"):
        folder(pictures)
    with pytest.raises(ValueError, match="size: expected an integer >= 1, got 0"):
        folder(pictures, size=0)


@pytest.mark.parametrize("loader", [digits, mnist, fashion_mnist, cifar10, flowers])
def test_an_unknown_split_is_refused_before_anything_is_downloaded(loader: Any, data_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"split: expected one of train, test.*, got 'training'"):
        loader("training")
    assert not data_folder.exists()


# --- files of images ---


# Pixels against NumPy, which shares no code with Pillow's conversions.

COLOURS = np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[90, 90, 0], [0, 90, 90], [90, 0, 90]]], np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_a_photograph_stands_upright(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation, by the EXIF standard: to be shown turned clockwise
    Image.fromarray(COLOURS).save(tmp_path / f"a.{suffix}", exif=exif, lossless=True)
    assert np.array_equal(np.asarray(read_image(tmp_path / f"a.{suffix}")), np.rot90(COLOURS, -1))


def translucent(alpha: int) -> Image.Image:
    return Image.fromarray(np.dstack([COLOURS, np.full((2, 3), alpha, np.uint8)]))


def palette(transparency: int | bytes | None = None) -> Image.Image:
    """One pixel of each of six palette colours."""
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
    image.putpalette(COLOURS.tobytes())
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def deep(kind: str) -> Image.Image:
    return Image.fromarray(np.array([[0, 257, 65535], [32896, 25700, 300]], kind))


def on_white(alpha: float) -> np.ndarray:
    return alpha * COLOURS + (1 - alpha) * 255


GREY = np.array([[0, 1, 255], [128, 100, 1]])
HALF = np.array([0, 255, 255, 255, 255, 51], np.uint8)
PIXELS = {
    "opaque.png": (translucent(255), COLOURS),
    "clear.png": (translucent(0), on_white(0)),
    "half.png": (translucent(51), on_white(0.2)),
    "half.webp": (translucent(51), on_white(0.2)),
    "half.tiff": (translucent(51), on_white(0.2)),
    "palette.png": (palette(), COLOURS),
    "palette.gif": (palette(), COLOURS),
    "keyed.gif": (palette(1), np.where(np.arange(6).reshape(2, 3, 1) == 1, 255, COLOURS)),
    "table.png": (palette(HALF.tobytes()), 255 + (COLOURS - 255.0) * HALF.reshape(2, 3, 1) / 255),
    "grey.png": (Image.fromarray(GREY.astype(np.uint8)), GREY[:, :, None].repeat(3, 2)),
    "deep.png": (deep("<u2"), GREY[:, :, None].repeat(3, 2)),
    "deep.tiff": (deep("<u2"), GREY[:, :, None].repeat(3, 2)),
    "big-endian.tiff": (deep(">u2"), GREY[:, :, None].repeat(3, 2)),
    "bits.png": (Image.fromarray(GREY > 99), 255 * (GREY > 99)[:, :, None].repeat(3, 2)),
    "ink.tiff": (Image.frombytes("CMYK", (3, 2), np.dstack([255 - COLOURS, 0 * COLOURS[:, :, :1]]).tobytes()), COLOURS),
}


@pytest.mark.parametrize("name", PIXELS)
def test_every_kind_of_image_shows_its_colours(tmp_path: Path, name: str) -> None:
    image, expected = PIXELS[name]
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    found = read_image(tmp_path / name)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(float) - expected).max() <= 1  # a level for rounding


def test_an_unreadable_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    for name, content in {"cut": whole[:-400], "text": b"hello", "empty": b""}.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    for number, kind in enumerate((np.int32, np.float32)):
        Image.fromarray(np.ones((2, 2), kind)).save(tmp_path / f"scan{number}.tiff")
    for name in ("cut.jpg", "text.jpg", "empty.jpg", "absent.jpg", "scan0.tiff", "scan1.tiff"):
        with pytest.raises(ValueError, match=rf"{name}: expected a readable image"):
            read_image(tmp_path / name)


# --- photographs ---


def test_photographs_come_with_installed_packages_and_imagenet_labels(data_folder: Path) -> None:
    dataset = photographs()
    assert dataset.images.shape == (4, 3, 227, 227)
    names = [dataset.class_names[label] for label in dataset.labels]
    assert names == ["Egyptian cat", "espresso", "stupa", "bow tie"]
    assert dataset.files == ("chelsea", "coffee", "china.jpg", "grace_hopper.jpg")
    assert not data_folder.exists()


def test_photographs_are_scikit_images_own_and_load_no_downloader() -> None:
    whole = photographs(size=300)
    for image, name in zip(whole.images, ("chelsea", "coffee"), strict=False):
        pixels = Image.fromarray(getattr(import_module("skimage.data"), name)())
        expected = np.asarray(pixels.resize((300, 300), Image.Resampling.BILINEAR))
        assert np.array_equal(image.permute(1, 2, 0) * 255, expected)
    code = (
        "import sys; from fragility.data.datasets import photographs; photographs(); assert 'pooch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # it warns in a notebook without ipywidgets


def test_photographs_name_the_extra_if_scikit_image_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("skimage", "skimage.data"):
        monkeypatch.setitem(sys.modules, module, None)  # what Python sees as not installed
    assert not find("photographs").present()
    with pytest.raises(ImportError, match=r"scikit-image: pip install 'fragility\[data\]'"):
        photographs()


# --- the real data ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "imagenet", "flowers"])
def test_the_real_files_are_undamaged(name: str) -> None:
    assert find(name).present()
    assert "verified" in find(name).check() or "read" in find(name).check()


@pytest.mark.slow
def test_mnist_has_its_published_class_counts_and_statistics() -> None:
    train, test = mnist(), mnist("test")
    published = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # Y. LeCun's test set
    assert test.labels.bincount().tolist() == published
    assert train.images.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert train.images.std().item() == pytest.approx(0.3081, abs=5e-5)
    clothes = fashion_mnist("test")
    assert clothes.labels.bincount().tolist() == [1000] * 10
    assert clothes.class_names[9] == "Ankle boot"


def test_five_thousand_digits_come_without_a_download(data_folder: Path) -> None:
    train, test = mnist_5k(), mnist_5k("test")
    assert (train.images.shape, test.images.shape) == ((4000, 1, 28, 28), (1000, 1, 28, 28))
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([400] * 10, [100] * 10)
    assert not set(train.files) & set(test.files)
    assert mnist_5k("test", limit=10).labels.bincount().tolist() == [1] * 10
    assert not data_folder.exists()


@pytest.mark.slow
def test_the_five_thousand_digits_are_mnists_bit_for_bit() -> None:
    published = mnist()
    known = {image.numpy().tobytes(): label for image, label in zip(published.images, published.labels, strict=True)}
    for split in ("train", "test"):
        chosen = mnist_5k(split)
        for image, label in zip(chosen.images, chosen.labels, strict=True):
            assert known[image.numpy().tobytes()] == label


@pytest.mark.slow
def test_cifar10_has_its_published_mean() -> None:
    dataset = cifar10(limit=5000)
    assert dataset.labels.bincount().tolist() == [500] * 10
    assert dataset.images.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)


@pytest.mark.slow
def test_imagenet_file_names_agree_with_the_class_names() -> None:
    dataset = imagenet(size=8)
    names = [file[10:].removesuffix(".JPEG").replace("_", " ") for file in dataset.files]
    classes = [dataset.class_names[label].replace(" bird", "") for label in dataset.labels]
    assert [pair for pair in zip(names, classes, strict=True) if pair[0] != pair[1]] == []
