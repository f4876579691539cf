"""From a public source to a loaded data set: tiny archives of the real layout, served locally or put there by hand."""

import gzip
import hashlib
import io
import pickle  # the official CIFAR-10 files are pickles; torchvision reads them after an md5
import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST

from fragility.data import sources
from fragility.data.datasets import LOADERS, cifar10, flowers, imagenet, load, mnist
from fragility.data.download import Unreachable
from fragility.data.sources import SOURCES, ensure, find

DOWNLOADED = ["mnist", "fashion_mnist", "cifar10", "imagenet", "flowers"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAGILITY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "*")
    (tmp_path / "data" / "downloads").mkdir(parents=True)
    (tmp_path / "data" / "weights").mkdir()
    return tmp_path / "data"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    (tmp_path / "site").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path / "site", f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def jpeg(color: tuple[int, int, int]) -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (10, 6), color).save(packed, "JPEG", quality=95)
    return packed.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> str:
    """Write a tar archive and return its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_source_has_a_loader_and_says_what_it_is() -> None:
    assert set(SOURCES) == set(LOADERS)
    for entry in SOURCES.values():
        assert entry.licence
    assert [name for name, entry in SOURCES.items() if entry.megabytes > 0] == DOWNLOADED


def test_an_unknown_source_is_an_error_that_lists_the_names() -> None:
    for function in (find, ensure, load):
        with pytest.raises(ValueError, match=r"name: expected one of .*digits.*got 'cifar11'"):
            function("cifar11")


def test_in_an_empty_data_folder_only_the_embedded_sources_are_present(folder: Path) -> None:
    assert [name for name, entry in SOURCES.items() if not entry.present()] == DOWNLOADED


@pytest.mark.parametrize("name", DOWNLOADED)
def test_without_a_network_every_source_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    closed = "http://127.0.0.1:9/"
    monkeypatch.setattr(MNIST, "mirrors", [closed])
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.mirrors", [closed])
    monkeypatch.setattr(CIFAR10, "url", closed)
    for constant in ("_SYNSETS", "_IMAGENET", "_FLOWERS"):
        monkeypatch.setattr(sources, constant, (closed, *getattr(sources, constant)[1:]))
    with pytest.raises(Unreachable) as caught:
        load(name)
    for part in (closed, str(folder), "digits"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in folder.rglob("*") if path.is_file()] == []


# --- ImageNet ---

WNIDS = [f"n{10000000 + 7 * index}" for index in range(1000)]
COLORS = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]


def imagenet_archive(folder: Path, names: list[str]) -> Path:
    path = folder / "downloads" / "imagenet-sample-images.tar.gz"
    images = [jpeg(color) for color in COLORS]
    members = {f"imagenet-sample-images-0a1b/{name}": images[i % 3] for i, name in enumerate(names)}
    pack(path, members | {"imagenet-sample-images-0a1b/README.md": b"# hello"})
    return path


@pytest.fixture
def synsets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "".join(f"{wnid} name {index}, other name\n" for index, wnid in enumerate(WNIDS)).encode()
    (folder / "weights" / "synset_words.txt").write_bytes(words)
    sha256 = hashlib.sha256(words).hexdigest()
    monkeypatch.setattr(sources, "_SYNSETS", ("http://127.0.0.1:9/", "weights/synset_words.txt", sha256))


def test_the_imagenet_archive_becomes_labelled_images(folder: Path, synsets: None) -> None:
    suffixes = (".JPEG", ".jpeg", ".jpg", ".JPG")
    path = imagenet_archive(folder, [f"{wnid}_a_name{suffixes[i % 4]}" for i, wnid in enumerate(WNIDS)])
    dataset = imagenet(size=4, limit=50, seed=3)
    assert not path.exists()
    assert sorted(file.name for file in (folder / "imagenet").iterdir()) == [f"{w}_a_name.JPEG" for w in WNIDS]
    assert find("imagenet").present()
    assert find("imagenet").check() == "1000 of 1000 images read"
    assert dataset.images.shape == (50, 3, 4, 4)
    assert [file.split("_")[0] for file in dataset.files] == [WNIDS[label] for label in dataset.labels]
    expected = torch.tensor([COLORS[label % 3] for label in dataset.labels]) / 255
    assert torch.allclose(dataset.images.mean((2, 3)), expected, atol=0.02)
    assert len(dataset.class_names) == len(set(dataset.class_names)) == 1000
    assert "bc69043e" in dataset.source
    again = imagenet(size=4, limit=50, seed=3)
    assert again.files == dataset.files
    assert imagenet(size=4, limit=50, seed=4).files != dataset.files


def test_an_imagenet_archive_that_lacks_an_image_is_refused(folder: Path, synsets: None) -> None:
    path = imagenet_archive(folder, [f"{wnid}_name.JPEG" for wnid in WNIDS[1:]])
    with pytest.raises(OSError, match=r"expected 1000 images, found 999; delete it"):
        imagenet()
    assert path.exists()
    assert not (folder / "imagenet").exists()
    assert not find("imagenet").present()


def test_images_that_are_there_are_used_without_the_archive(folder: Path, synsets: None) -> None:
    (folder / "imagenet").mkdir()
    (folder / "imagenet" / f"{WNIDS[7]}_seven.JPEG").write_bytes(jpeg(COLORS[1]))
    assert imagenet().labels.tolist() == [7]
    assert find("imagenet").check() == "1 of 1000 images read"
    (folder / "imagenet" / f"{WNIDS[8]}_eight.JPEG").write_bytes(jpeg(COLORS[1])[:100])
    with pytest.raises(ValueError, match=r"eight\.JPEG: expected a readable image"):
        find("imagenet").check()
    (folder / "imagenet" / "n00000001_nothing.JPEG").write_bytes(jpeg(COLORS[1]))
    with pytest.raises(ValueError, match=r"expected a name that begins with an ImageNet WNID"):
        imagenet()


def test_only_the_list_of_classes_is_fetched_if_the_images_are_there(
    folder: Path, site: tuple[Path, str], synsets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "imagenet").mkdir()
    (folder / "imagenet" / f"{WNIDS[7]}_seven.JPEG").write_bytes(jpeg(COLORS[1]))
    (folder / "weights" / "synset_words.txt").rename(site[0] / "synset.txt")
    monkeypatch.setattr(sources, "_SYNSETS", (site[1] + "synset.txt", *sources._SYNSETS[1:]))
    monkeypatch.setattr(sources, "_IMAGENET", (site[1] + "absent", *sources._IMAGENET[1:]))
    assert not find("imagenet").present()
    assert imagenet().labels.tolist() == [7]


# --- flowers ---


@pytest.fixture
def garden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    counts = {"roses": 641, "sunflowers": 699, "tulips": 2}
    members = {f"flower_photos/{name}/{i}.jpg": jpeg(COLORS[0]) for name, n in counts.items() for i in range(n)}
    path = folder / "downloads" / "flower_photos.tgz"
    monkeypatch.setattr(sources, "_FLOWERS", (*sources._FLOWERS[:2], pack(path, members)))
    return path


def test_the_flowers_have_a_fixed_stratified_split(folder: Path, garden: Path) -> None:
    parts = {split: flowers(split, size=2) for split in ("train", "test", "validation")}
    assert not garden.exists()
    assert sorted(path.name for path in (folder / "flowers").iterdir()) == ["roses", "sunflowers"]
    assert {split: len(part) for split, part in parts.items()} == {"train": 1000, "test": 200, "validation": 140}
    files = [file for part in parts.values() for file in part.files]
    assert len(set(files)) == 1340
    for part in parts.values():
        assert [file.startswith("sunflowers/") for file in part.files] == [label == 1 for label in part.labels]
        assert abs(int((part.labels == 1).sum()) - len(part) * 699 / 1340) <= 1
    assert parts["test"].files[:3] == (
        "roses/101.jpg",
        "roses/107.jpg",
        "roses/109.jpg",
    )  # stored results rest on this split
    assert "10 x 6" in parts["train"].source
    assert find("flowers").check() == "1340 images read"


def test_flowers_that_lack_one_are_refused(folder: Path, garden: Path) -> None:
    ensure("flowers")
    next((folder / "flowers" / "roses").iterdir()).unlink()
    for function in (find("flowers").check, flowers):
        with pytest.raises(OSError, match=r"expected .*'roses': 641.* found .*'roses': 640"):
            function()


def test_a_flower_archive_with_another_checksum_is_refused(
    folder: Path, site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(site[0] / "flower_photos.tgz", {"flower_photos/roses/1.jpg": b"not the published one"})
    monkeypatch.setattr(sources, "_FLOWERS", (site[1] + "flower_photos.tgz", *sources._FLOWERS[1:]))
    with pytest.raises(OSError, match="damaged or has changed"):
        ensure("flowers")
    assert [path for path in folder.rglob("*") if path.is_file()] == []


# --- MNIST ---


def idx(values: np.ndarray) -> bytes:
    """The format of the MNIST files: a magic number with the rank, the sizes, the bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


@pytest.fixture
def digits_site(site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    published = {}
    for split, count in (("train", 60), ("t10k", 20)):
        published[f"{split}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        published[f"{split}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    resources = []
    for name, values in published.items():
        packed = gzip.compress(idx(values))
        (site[0] / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed, usedforsecurity=False).hexdigest()))
    sha256 = {name: hashlib.sha256(idx(values)).hexdigest() for name, values in published.items()}
    monkeypatch.setattr(MNIST, "mirrors", [site[1]])
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setitem(sources._IDX_SHA256, "MNIST", sha256)
    return published


def test_mnist_is_downloaded_verified_and_loaded(folder: Path, digits_site: dict[str, np.ndarray]) -> None:
    dataset = mnist()
    assert sorted(path.name for path in (folder / "MNIST" / "raw").iterdir()) == sorted(digits_site)
    assert find("mnist").present()
    assert find("mnist").check() == "4 files, sha256 verified"
    expected = digits_site["train-images-idx3-ubyte"].astype(np.float32)[:, None] / 255
    assert np.array_equal(dataset.images.numpy(), expected)
    assert dataset.labels.tolist() == [*range(10)] * 6
    assert dataset.class_names == tuple("0123456789")
    few = mnist("test", limit=10, seed=1)
    rows = [int(file.removeprefix("row ")) for file in few.files]
    assert sorted(few.labels.tolist()) == list(range(10))
    assert np.array_equal(few.images[:, 0].numpy() * 255, digits_site["t10k-images-idx3-ubyte"][rows])


def test_a_damaged_mnist_is_noticed_and_a_missing_file_fetched(
    folder: Path, digits_site: dict[str, np.ndarray]
) -> None:
    ensure("mnist")
    path = folder / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    for function in (find("mnist").check, mnist):
        with pytest.raises(OSError, match=r"train-images-idx3-ubyte: damaged \(wrong sha256\)"):
            function()
    path.unlink()
    assert len(mnist()) == 60


# --- CIFAR-10 ---

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of cifar-10-python.tar.gz with two batches of ten images."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (2, 10, 3072), np.uint8)
    files = {"batches.meta": pickle.dumps({"label_names": CLASSES})}
    for name, batch in zip(("data_batch_1", "test_batch"), pixels, strict=True):
        files[name] = pickle.dumps({"data": batch, "labels": list(range(10))})
    md5 = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in files.items()}
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return files


def test_the_official_cifar10_is_downloaded_verified_and_loaded(
    folder: Path, site: tuple[Path, str], official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site[0] / "cifar-10-python.tar.gz"
    pack(path, {f"cifar-10-batches-py/{name}": content for name, content in official.items()})
    monkeypatch.setattr(CIFAR10, "url", site[1] + path.name)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())
    dataset = cifar10("test")
    assert find("cifar10").present()
    assert find("cifar10").check() == "10 + 10 images, md5 verified"
    assert {path.name for path in folder.iterdir()} == {"cifar-10-batches-py", "downloads", "weights"}
    pixels = pickle.loads(official["test_batch"])["data"].reshape(10, 3, 32, 32)  # noqa: S301 - written above
    assert np.array_equal(dataset.images.numpy(), pixels.astype(np.float32) / 255)
    assert dataset.labels.tolist() == list(range(10))
    assert dataset.class_names == tuple(CLASSES)
    assert "official" in dataset.source
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(b"damaged")
    for function in (find("cifar10").check, cifar10):
        with pytest.raises(OSError, match=r"cifar-10-batches-py: damaged"):
            function()


def test_cifar10_from_class_folders_says_that_it_was_recompressed(folder: Path) -> None:
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            (folder / "cifar10" / split / name).mkdir(parents=True)
            for index in range(3):
                color = (25 * label, 100, 80 * index)
                Image.new("RGB", (32, 32), color).save(folder / "cifar10" / split / name / f"{index}.jpg")
    dataset = cifar10("test", limit=20, seed=5)
    assert Counter(dataset.labels.tolist()) == dict.fromkeys(range(10), 2)
    assert dataset.class_names == tuple(CLASSES)
    assert "JPEG" in dataset.source
    for image, label, file in zip(dataset.images, dataset.labels.tolist(), dataset.files, strict=True):
        split, name, number = file.split("/")
        expected = torch.tensor([25.0 * label, 100, 80 * int(number[0])]) / 255
        assert (split, name) == ("test", CLASSES[label])
        assert torch.allclose(image.mean((1, 2)), expected, atol=0.02)
    with pytest.raises(OSError, match=r"expected 10 classes of \{5000\} images, found 10 of \{3\}"):
        find("cifar10").check()
