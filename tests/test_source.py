"""From a public source to a loaded data set: tiny archives of the real layout, over real HTTP or put there by hand."""

import gzip
import hashlib
import io
import pickle  # the official CIFAR-10 files are pickles; torchvision reads them after an md5
import tarfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST

from conftest import rows_of
from fragility.data import sources
from fragility.data.datasets import LOADERS, cifar10, flowers, imagenet, load, mnist
from fragility.data.download import Unreachable, data_folder, download, install, staging, unpack
from fragility.data.sources import SOURCES, ensure, find

CLOSED = "http://127.0.0.1:9/"
DOWNLOADED = ["mnist", "fashion_mnist", "cifar10", "imagenet", "flowers"]
CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(data_folder, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    (data_folder / "downloads").mkdir(parents=True)
    return data_folder


class Site(ThreadingHTTPServer):
    """Serves `pages` by their paths, /cut with less than it promises, and counts what was asked for."""

    def __init__(self) -> None:
        self.pages, self.seen = {"/file": CONTENT, "/cut": CONTENT}, list[str]()
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        if self.path not in self.server.pages:
            self.send_error(404)
            return
        content = self.server.pages[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + 10 * (self.path == "/cut")))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site(folder):
    with Site() as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def jpeg(color: tuple[int, int, int]) -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (10, 6), color).save(packed, "JPEG", quality=95)
    return packed.getvalue()


def pack(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo("link")
            member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member)
    return path


# --- how a file gets into the data folder ---


def test_the_data_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    default = tmp_path / ".cache" / "fragility"
    for value, expected in {str(tmp_path / "a"): tmp_path / "a", "~/mine": tmp_path / "mine", "": default}.items():
        monkeypatch.setenv("FRAGILITY_DATA", value)
        assert data_folder() == expected
    monkeypatch.delenv("FRAGILITY_DATA")
    assert data_folder() == default


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_file_is_downloaded_once_with_a_progress_bar(site, folder, capsys, sha256):
    for _ in range(2):
        path = download(f"{site.address}file", "some.bin", sha256)
        assert path == folder / "downloads" / "some.bin"
        assert path.read_bytes() == CONTENT
    assert "100%" in capsys.readouterr().err
    assert site.seen == ["/file"]
    path.write_bytes(CONTENT[:-1])
    assert download(f"{site.address}file", "some.bin", SHA256).read_bytes() == CONTENT
    assert everything_in(folder) == ["some.bin"]


@pytest.mark.parametrize(
    ("page", "sha256", "message"),
    [
        ("cut", None, r"some\.bin is missing and cannot be downloaded"),
        ("absent", None, r"some\.bin is missing and cannot be downloaded"),
        ("file", "0" * 64, rf"/file: .*damaged or has changed.*{SHA256}"),
    ],
)
def test_a_download_that_fails_leaves_nothing_behind(site, folder, page, sha256, message):
    with pytest.raises(OSError, match=message):
        download(site.address + page, "some.bin", sha256)
    assert everything_in(folder) == []


def test_without_a_network_the_error_names_the_source_the_path_and_the_alternative(folder):
    path = folder / "downloads" / "some.bin"
    for state in ("missing", "damaged"):
        with pytest.raises(ConnectionError) as caught:
            download(f"{CLOSED}some.bin", "some.bin", SHA256)
        for part in (f"{CLOSED}some.bin", str(path), f"is {state}", "digits"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(b"damaged")
    path.write_bytes(CONTENT)  # put there by hand
    assert download(f"{CLOSED}some.bin", "some.bin", SHA256) == path


@pytest.mark.parametrize(("member", "link"), [("../evil", ""), ("/../../evil", ""), ("good", "../../evil")])
def test_a_malicious_archive_is_refused(tmp_path, member, link):
    packed = pack(tmp_path / "a.tgz", {member: b"boo"}, link)
    with pytest.raises(OSError, match=r"a\.tgz: damaged or unsafe archive .*outside the destination"):
        unpack(packed, tmp_path / "deep" / "out")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "deep" / "evil").exists()


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_truncated_archive_is_an_error_that_names_it(tmp_path, size):
    whole = pack(tmp_path / "whole.tgz", {"one": bytes(hashlib.sha512(b"noise").digest() * 99)})
    (tmp_path / "cut.tgz").write_bytes(whole.read_bytes()[:size])
    with pytest.raises(OSError, match=r"cut\.tgz: damaged or unsafe archive"):
        unpack(tmp_path / "cut.tgz", tmp_path / "out")


def test_a_folder_is_installed_whole_over_an_incomplete_copy_or_not_at_all(folder):
    for content in (b"first", b"second"):
        with staging() as new:
            (new / "raw").mkdir()
            (new / "raw" / "a").write_bytes(content)
            install(new / "raw", folder / "kind" / "raw")
        assert (folder / "kind" / "raw" / "a").read_bytes() == content
        (folder / "kind" / "raw" / "b").write_bytes(b"kept")

    def fail_half_way() -> None:
        with staging() as new:
            (new / "half").write_bytes(b"")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert everything_in(folder) == ["a", "b"]


# --- all sources ---


def test_every_source_has_a_loader_and_an_unknown_one_lists_the_names(folder):
    assert set(SOURCES) == set(LOADERS) | {"compas"}  # a table
    assert [name for name, entry in SOURCES.items() if not entry.present()] == [*DOWNLOADED, "compas"]
    for function in (find, ensure, load):
        with pytest.raises(ValueError, match=r"name: expected one of .*digits.*got 'cifar11'"):
            function("cifar11")


@pytest.mark.parametrize("name", DOWNLOADED)
def test_without_a_network_every_source_says_what_to_do(folder, monkeypatch, name):
    monkeypatch.setattr(MNIST, "mirrors", [CLOSED])
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.mirrors", [CLOSED])
    monkeypatch.setattr(CIFAR10, "url", CLOSED)
    for constant in ("_IMAGENET", "_FLOWERS"):
        monkeypatch.setattr(sources, constant, (CLOSED, *getattr(sources, constant)[1:]))
    with pytest.raises(Unreachable) as caught:
        load(name)
    for part in (CLOSED, str(folder), "digits"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything_in(folder) == []


# --- ImageNet ---

WNIDS = {"n01440764": 0, "n02123045": 281, "n03085013": 508, "n15075141": 999}  # tench, tabby, keyboard, toilet tissue
COLORS = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]


def imagenet_archive(folder: Path, count: int) -> Path:
    """Photographs of the first classes, whose file names have one of four suffixes."""
    wnids = (Path(sources.__file__).parent / "wnids.txt").read_text(encoding="utf-8").split()
    suffixes, images = (".JPEG", ".jpeg", ".jpg", ".JPG"), [jpeg(color) for color in COLORS]
    names = [f"{wnid}_a_name{suffixes[i % 4]}" for i, wnid in enumerate(wnids[:count])]
    members = {f"imagenet-sample-images-0a1b/{name}": images[i % 3] for i, name in enumerate(names)}
    path = folder / "downloads" / "imagenet-sample-images.tar.gz"
    return pack(path, members | {"imagenet-sample-images-0a1b/README.md": b"# hello"})


def test_the_imagenet_archive_becomes_labelled_images(folder):
    path = imagenet_archive(folder, 1000)
    dataset = imagenet(size=4, limit=50, seed=3)
    assert not path.exists()
    assert {file.suffix for file in (folder / "imagenet").iterdir()} == {".JPEG"}
    assert find("imagenet").present()
    assert find("imagenet").check() == "1000 of 1000 images read"
    assert dataset.images.shape == (50, 3, 4, 4)
    expected = torch.tensor([COLORS[label % 3] for label in dataset.labels]) / 255
    assert torch.allclose(dataset.images.mean((2, 3)), expected, atol=0.02)
    assert len(dataset.class_names) == len(set(dataset.class_names)) == 1000
    assert "bc69043e" in dataset.source


def test_an_imagenet_archive_that_lacks_an_image_is_refused(folder):
    path = imagenet_archive(folder, 999)
    with pytest.raises(OSError, match=r"expected 1000 images, found 999; delete it"):
        imagenet()
    assert path.exists()
    assert not (folder / "imagenet").exists()


def test_imagenet_images_that_are_there_are_used_without_the_archive(folder):
    (folder / "imagenet").mkdir()
    for wnid in WNIDS:
        (folder / "imagenet" / f"{wnid}_name.JPEG").write_bytes(jpeg(COLORS[1]))
    dataset = imagenet(size=4)
    assert dataset.labels.tolist() == list(WNIDS.values())
    names = [dataset.class_names[label] for label in dataset.labels]
    assert names == ["tench", "tabby", "computer keyboard", "toilet tissue"]
    (folder / "imagenet" / "n01440764_eight.JPEG").write_bytes(jpeg(COLORS[1])[:100])
    with pytest.raises(ValueError, match=r"eight\.JPEG: expected a readable image"):
        find("imagenet").check()
    (folder / "imagenet" / "n00000001_nothing.JPEG").write_bytes(jpeg(COLORS[1]))
    with pytest.raises(ValueError, match=r"expected a name that begins with an ImageNet WNID"):
        imagenet()


# --- flowers ---


@pytest.fixture
def garden(folder, monkeypatch):
    counts = {"roses": 641, "sunflowers": 699, "tulips": 2}
    members = {f"flower_photos/{name}/{i}.jpg": jpeg(COLORS[0]) for name, n in counts.items() for i in range(n)}
    path = pack(folder / "downloads" / "flower_photos.tgz", members)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "_FLOWERS", (*sources._FLOWERS[:2], sha256))
    return path


def test_the_flowers_have_a_fixed_stratified_split(folder, garden):
    parts = {split: flowers(split, size=2) for split in ("train", "test", "validation")}
    assert not garden.exists()
    assert sorted(path.name for path in (folder / "flowers").iterdir()) == ["roses", "sunflowers"]
    assert {split: len(part) for split, part in parts.items()} == {"train": 1000, "test": 200, "validation": 140}
    files = [file for part in parts.values() for file in part.files]
    assert len(set(files)) == 1340
    for part in parts.values():
        assert [file.startswith("sunflowers/") for file in part.files] == [label == 1 for label in part.labels]
        assert abs(int((part.labels == 1).sum()) - len(part) * 699 / 1340) <= 1
    # Stored results rest on this split.
    assert parts["test"].files[:3] == ("roses/101.jpg", "roses/107.jpg", "roses/109.jpg")
    assert "10 x 6" in parts["train"].source
    assert find("flowers").check() == "1340 images read"
    (folder / "flowers" / "roses" / "7.jpg").unlink()
    for function in (find("flowers").check, flowers):
        with pytest.raises(OSError, match=r"expected .*'roses': 641.* found .*'roses': 640"):
            function()


def test_a_flower_archive_with_another_checksum_is_refused(folder, site, monkeypatch):
    monkeypatch.setattr(sources, "_FLOWERS", (f"{site.address}file", *sources._FLOWERS[1:]))
    with pytest.raises(OSError, match="damaged or has changed"):
        ensure("flowers")
    assert everything_in(folder) == []


# --- MNIST ---


def idx(values: np.ndarray) -> bytes:
    """The format of the MNIST files: a magic number with the rank, the sizes, the bytes."""
    sizes = np.array(values.shape, ">i4").tobytes()
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def digits_site(site, monkeypatch):
    """Four files as MNIST's mirrors have them."""
    random, published = np.random.default_rng(0), {}
    for split, count in (("train", 60), ("t10k", 20)):
        published[f"{split}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        published[f"{split}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    site.pages |= {f"/{name}.gz": gzip.compress(idx(values)) for name, values in published.items()}
    monkeypatch.setattr(MNIST, "mirrors", [site.address])
    monkeypatch.setattr(MNIST, "resources", [(f"{name}.gz", md5(site.pages[f"/{name}.gz"])) for name in published])
    sha256 = [hashlib.sha256(idx(values)).hexdigest() for values in published.values()]
    monkeypatch.setitem(SOURCES, "mnist", sources._idx("MNIST", 1, "none", *sha256))
    return published


def test_mnist_is_downloaded_verified_and_loaded(folder, digits_site):
    dataset, raw = mnist(), folder / "MNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(digits_site)
    assert find("mnist").present()
    assert find("mnist").check() == "4 files, sha256 verified"
    expected = digits_site["train-images-idx3-ubyte"].astype(np.float32)[:, None] / 255
    assert np.array_equal(dataset.images.numpy(), expected)
    assert dataset.labels.tolist() == [*range(10)] * 6
    assert dataset.class_names == tuple("0123456789")
    few = mnist("test", limit=10, seed=1)
    assert sorted(few.labels.tolist()) == list(range(10))
    assert np.array_equal(few.images[:, 0].numpy() * 255, digits_site["t10k-images-idx3-ubyte"][rows_of(few)])

    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    for function in (find("mnist").check, mnist):
        with pytest.raises(OSError, match=r"train-images-idx3-ubyte: damaged \(wrong sha256\)"):
            function()
    path.unlink()
    assert len(mnist()) == 60


# --- CIFAR-10 ---

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_the_official_cifar10_is_downloaded_verified_and_loaded(folder, site, tmp_path, monkeypatch):
    """The files of cifar-10-python.tar.gz with two batches of ten images."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, 10, 3072), np.uint8)
    files = {"batches.meta": pickle.dumps({"label_names": CLASSES})}
    for name, batch in zip(("data_batch_1", "test_batch"), pixels, strict=True):
        files[name] = pickle.dumps({"data": batch, "labels": list(range(10))})
    members = {f"cifar-10-batches-py/{name}": content for name, content in files.items()}
    site.pages["/cifar-10-python.tar.gz"] = pack(tmp_path / "cifar.tar.gz", members).read_bytes()
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(files["batches.meta"])}
    for name, value in {
        "train_list": [["data_batch_1", md5(files["data_batch_1"])]],
        "test_list": [["test_batch", md5(files["test_batch"])]],
        "meta": meta,
        "url": f"{site.address}cifar-10-python.tar.gz",
        "tgz_md5": md5(site.pages["/cifar-10-python.tar.gz"]),
    }.items():
        monkeypatch.setattr(CIFAR10, name, value)
    dataset = cifar10("test")
    assert find("cifar10").present()
    assert find("cifar10").check() == "10 + 10 images, md5 verified"
    assert {path.name for path in folder.iterdir()} == {"cifar-10-batches-py", "downloads"}
    assert np.array_equal(dataset.images.numpy(), pixels[1].reshape(10, 3, 32, 32).astype(np.float32) / 255)
    assert dataset.labels.tolist() == list(range(10))
    assert dataset.class_names == tuple(CLASSES)
    assert "official" in dataset.source
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(b"damaged")
    for function in (find("cifar10").check, cifar10):
        with pytest.raises(OSError, match=r"cifar-10-batches-py: damaged"):
            function()


@pytest.fixture
def class_folders(folder):
    """CIFAR-10 as class folders of three images, whose colours tell class and number."""

    def path(split: str, name: str, index: int) -> Path:
        return folder / "cifar10" / split / name / f"{index}.jpg"

    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            path(split, name, 0).parent.mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (32, 32), (25 * label, 100, 80 * index)).save(path(split, name, index))
    return path


def test_cifar10_from_class_folders_says_that_it_was_recompressed(class_folders):
    dataset = cifar10("test", limit=20, seed=5)
    assert Counter(dataset.labels.tolist()) == dict.fromkeys(range(10), 2)
    assert dataset.class_names == tuple(CLASSES)
    assert "JPEG" in dataset.source
    for image, label, file in zip(dataset.images, dataset.labels.tolist(), dataset.files, strict=True):
        split, name, number = file.split("/")
        expected = torch.tensor([25.0 * label, 100, 80 * int(number[0])]) / 255
        assert (split, name) == ("test", CLASSES[label])
        assert torch.allclose(image.mean((1, 2)), expected, atol=0.02)
    assert find("cifar10").check() == "30 + 30 JPEG files read"
    class_folders("test", "ship", 1).unlink()
    with pytest.raises(OSError, match=r"test: expected 10 classes of one size, found \[.*2.*\] images"):
        find("cifar10").check()


# --- the table ---


def test_of_the_public_records_only_what_the_book_reads_is_kept(folder, site, monkeypatch):
    kept = pd.DataFrame({name: ["a", "b"] for name in sources._COMPAS_COLUMNS})
    public = pd.concat([kept.assign(name=["Ada", "Grace"]), kept[["decile_score"]]], axis=1)  # which stands there twice
    site.pages["/compas.csv"] = public.to_csv(index=False).encode()
    monkeypatch.setattr(sources, "_COMPAS", (f"{site.address}compas.csv", "compas.csv", None))
    with pytest.raises(OSError, match="damaged or changed"):
        ensure("compas")
    assert not sources.compas_file().exists()
    monkeypatch.setattr(sources, "_COMPAS_SHA256", hashlib.sha256(kept.to_csv(index=False).encode()).hexdigest())
    ensure("compas")
    assert find("compas").check() == "1 file, sha256 verified"
    assert everything_in(folder) == ["compas-two-years.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(sources.compas_file()), kept)
    monkeypatch.setattr(sources, "_COMPAS", (CLOSED, "compas.csv", None))
    ensure("compas")
    sources.compas_file().unlink()
    with pytest.raises(Unreachable, match=r"compas\.csv is missing and cannot be downloaded"):
        ensure("compas")
