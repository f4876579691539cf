"""`fragility audit`: what it stores is what its files show, a killed run goes on, wrong requests, the report."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fragility.audit import Audit, audit
from fragility.audit.images import read_folder
from fragility.audit.summary import by_image
from fragility.cli import main
from fragility.network import mnist_cnn


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def small_audit(folder: Path, model: nn.Module | None = None, **options: Any) -> Audit:
    chosen: dict[str, Any] = {"methods": ["simple_gradient"], "epsilons": [8 / 255], "doublings": 0, "progress": False}
    return audit(model or mnist_cnn(), noise(2, 1, 28, 28), folder=folder, **(chosen | options))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return small_audit(tmp_path_factory.mktemp("audit"), doublings=1)


def test_the_files_show_the_stored_label_and_metric(found: Audit) -> None:
    model = mnist_cnn()

    def read(name: str) -> Tensor:
        return torch.from_numpy(np.array(Image.open(found.folder / name)))[None, None].float() / 255

    def top(x: Tensor, label: int) -> set[int]:
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(model(x)[0, label], x)
        return set(slope.abs().flatten().topk(15).indices.tolist())

    rows = found.rows[(found.rows.method == "simple_gradient") & found.rows.measure.isin(["top_k", "mass_center"])]
    assert len(rows) == 2 * 2 * 2
    for row in rows.itertuples():
        place = int(row.image.removeprefix("image "))
        before, after = read(f"images/{place:04d}-original.png"), read(row.file)
        label = int(model(before).argmax())
        assert int(model(after).argmax()) == row.prediction
        assert row.label_kept == (row.prediction == label)
        assert (after - before).abs().max() <= 8 / 255 + 1e-6
        shared = len(top(before, label) & top(after, label)) / 15
        assert row.top_k_intersection == pytest.approx(shared, abs=1 / 15 + 1e-6)  # a tie within rounding


def test_predictions_are_the_models_own_whatever_is_explained(found: Audit) -> None:
    with torch.no_grad():
        images = (255 * noise(2, 1, 28, 28)).round() / 255
        confidence = mnist_cnn()(images).softmax(1).amax(1).tolist()
    assert {"softplus", "smooth_gradient"} <= set(found.rows.method)
    for row in found.rows.itertuples():
        assert row.confidence_before == pytest.approx(confidence[int(row.image[-1])], abs=1e-5)


def test_noise_has_as_many_tries_as_the_attacks_have_steps(found: Audit) -> None:
    budgets = found.rows[found.rows.image == "image 0"].groupby(["method", "measure"]).budget.sum()
    for measure in ("draws", "sampling"):
        assert budgets["simple_gradient", measure] == budgets["simple_gradient"][["top_k", "mass_center"]].sum()
    assert found.summary["cells"][0]["draws"] == 2 * (40 + 80)


def test_the_report_says_what_the_rows_say(found: Audit) -> None:
    told = json.loads((found.folder / "report.json").read_text())
    rows = pd.read_csv(found.folder / "rows.csv")
    part = rows[rows.method == "simple_gradient"]
    worst = (
        part[part.measure.isin(["top_k", "mass_center"]) & part.label_kept].groupby("image").top_k_intersection.min()
    )
    cell = told["cells"][0]
    assert cell["worst_top_k_intersection"]["mean"] == pytest.approx(worst.mean())
    sampled, moved = (
        part[part.measure.isin(names)].groupby("image").relative_change.max()
        for names in (["sampling"], ["top_k", "mass_center"])
    )
    assert cell["understated_relative_change"] == pytest.approx((moved / sampled).median())
    assert (told["schema"], told["images"], set(told["columns"])) == ("fragility-audit/1", 2, set(rows.columns))
    page = (found.folder / "report.html").read_text()
    assert f"{1 - worst.mean():.0%} of the explanation replaced" in page
    assert all(sentence.replace("'", "&#x27;") in page for sentence in told["sentences"])
    assert "http" not in page.replace("http://www.w3.org", "")


def test_what_no_attack_kept_counts_as_unchanged_and_images_are_compared_with_themselves() -> None:
    def row(image: str, measure: str, shared: float, kept: bool = True) -> dict[str, Any]:
        names = ("recall", "spearman", "center_shift", "relative_change", "lipschitz")
        return {"image": image, "measure": measure, "top_k_intersection": shared, "label_kept": kept, "correct": "yes",
                "fidelity": 1.0, "file": f"{image}{shared}.png"} | dict.fromkeys(names, 0.5)  # fmt: skip

    rows = [row("a", "noise", 0.8), row("a", "top_k", 0.3), row("a", "mass_center", 0.1, kept=False)]
    rows += [row("b", "noise", 0.7), row("b", "top_k", 0.2, kept=False), row("c", "noise", 0.1)]
    frame = by_image(pd.DataFrame(rows))
    assert frame.worst_top_k_intersection.to_dict() == {"a": 0.3, "b": 1.0}
    assert frame.noise_top_k_intersection.to_dict() == {"a": 0.8, "b": 0.7}
    assert (frame.worst_center_shift["b"], frame.file["a"]) == (0.0, "a0.3.png")
    assert not isinstance(frame.file["b"], str)


class Patches(nn.Module):
    """A network whose weights say nothing of what it computes."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.first, self.last, self.power = nn.Conv2d(1, 4, 5), nn.Linear(4, 3), power

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.relu(self.first(x)).mean((2, 3))) * self.power


def test_a_method_of_ones_own_with_a_coarse_map(tmp_path: Path) -> None:
    """Grad-CAM of the digits' last convolution, and its rows go on while its source stays."""

    def grad_cam(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        kept: list[Tensor] = []
        layer = [part for part in model.modules() if isinstance(part, nn.Conv2d)][-1]
        handle = layer.register_forward_hook(lambda *call: kept.append(call[2]))
        with torch.enable_grad():
            x = images if images.requires_grad else images.clone().requires_grad_()
            score = model(x).gather(1, labels[:, None]).sum()
            handle.remove()
            (slope,) = torch.autograd.grad(score, kept[0], create_graph=True)
        return (slope.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()

    found = small_audit(tmp_path, methods={"grad_cam": grad_cam})
    attacked = found.rows[found.rows.measure == "top_k"]
    assert set(found.rows.method) == {"grad_cam"}
    assert attacked.label_kept.all()
    assert attacked.relative_change.min() > 0
    again = small_audit(tmp_path, methods={"grad_cam": grad_cam})
    pd.testing.assert_frame_equal(found.rows, again.rows)


def test_rows_of_a_model_that_answers_otherwise_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Patches(1.0).eval()
    small_audit(tmp_path, model)
    model.power = 3.0  # the same weights
    with pytest.raises(ValueError, match=r"folder: .* answered otherwise for image 0; name another folder"):
        small_audit(tmp_path, model)


MODELS = """import torch
from torch import nn

class Two(nn.Module):
    def forward(self, x):
        return {"logits": x.flatten(1)[:, :2]}

def a_dict():
    return Two().eval()

def training():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 2))

def single():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval()

def fails():
    raise OSError("no weights here")

def good():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("models_of_ours.py").write_text(MODELS)
    Path("photos").mkdir()
    for number in range(3):
        pixels = (255 * torch.rand(9, 7, 3, generator=torch.Generator().manual_seed(number))).byte()
        Image.fromarray(pixels.numpy()).save(f"photos/{number}.png")
    return tmp_path


OPTIONS = ["--images", "photos", "--size", "8", "--out", "out", "--epsilon", "16/255", "--method", "simple_gradient"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a_dict", "dict"),
        ("training", "training mode"),
        ("single", "two logits"),
        ("absent", "expected a function"),
        ("fails", "failed with OSError: no weights here"),
    ],
)
def test_a_wrong_model_gets_one_sentence_and_status_2(folder: Path, capfd: Any, name: str, message: str) -> None:
    status = main(["audit", "--model", f"models_of_ours.py:{name}", *OPTIONS])
    shown = capfd.readouterr().err
    assert (status, shown.count("\n")) == (2, 1)
    assert message in shown


def test_wrong_images_are_left_out_with_a_line_or_refused(folder: Path, capfd: Any) -> None:
    Path("empty").mkdir()
    assert main(["audit", "--images", "empty", "--out", "out"]) == 2
    assert "images: expected images" in capfd.readouterr().err
    whole = Path("photos/0.png").read_bytes()
    Path("photos/broken.png").write_bytes(whole[: len(whole) // 2])
    Path("photos/text.jpg").write_text("no image")
    assert main(["audit", "--model", "models_of_ours.py:good", *OPTIONS, "--doublings", "0", "--minutes", "0"]) == 0
    told = json.loads(Path("out/report.json").read_text())
    assert [line.split(":")[0] for line in told["left_out"]] == ["broken.png", "text.jpg"]
    assert told["images"] == 3
    assert "broken.png" in Path("out/report.html").read_text()
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    with pytest.raises(ValueError, match=r"images: expected pixels in \[0, 1\]"):
        audit(model, 255 * torch.ones(1, 3, 8, 8), folder=folder, progress=False)


def test_images_of_classes_are_taken_in_turn_and_the_wrong_ones_stand_apart(folder: Path) -> None:
    for number, name in enumerate(("cat", "dog", "owl")):
        Path(f"classes/{name}").mkdir(parents=True)
        for copy in range(2):
            Image.open(f"photos/{number}.png").rotate(90 * copy).save(f"classes/{name}/{copy}.png")
    given = read_folder(Path("classes"), size=8, limit=4)
    assert given.names == ("cat/0.png", "dog/0.png", "owl/0.png", "cat/1.png")
    assert (given.classes, given.labels.tolist()) == (("cat", "dog", "owl"), [0, 1, 2, 0])
    options = ["audit", "--model", "models_of_ours.py:good", *OPTIONS, "--doublings", "0", "--minutes", "0"]
    assert main([*options, "--images", "classes"]) == 0
    rows, told = pd.read_csv("out/rows.csv"), json.loads(Path("out/report.json").read_text())
    right = rows.groupby("image").correct.first()
    assert told["misclassified"] == (right == "no").sum() > 0
    assert told["cells"] == [] or told["cells"][0]["n"] == (right == "yes").sum()


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_ends_with_the_same_rows(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "fragility",
        "audit",
        "--model",
        "models_of_ours.py:good",
        *OPTIONS[:4],
        *OPTIONS[6:],
    ]
    command += ["--doublings", "0", "--minutes", "0", "--out"]
    start = time.monotonic()
    subprocess.run([*command, "whole"], check=True, capture_output=True)
    lasted = time.monotonic() - start
    moments = lasted * (0.5 + 0.5 * np.random.default_rng(0).random(5))  # half of it is imports
    killed = 0
    for moment in moments:
        run = subprocess.Popen([*command, "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            run.wait(moment)
        except subprocess.TimeoutExpired:
            os.kill(run.pid, signal.SIGKILL)
            killed += run.wait() == -signal.SIGKILL
    assert killed > 0
    last = subprocess.run([*command, "killed"], check=False, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert Path("killed/rows.csv").read_text() == Path("whole/rows.csv").read_text()


@pytest.mark.site
def test_the_report_opens_from_a_file_for_everybody(found: Audit) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from browser import chromium

    report = (found.folder / "report.html").resolve().as_uri()
    with chromium() as browser:
        for width, scheme in ((1280, "light"), (360, "light"), (1280, "dark"), (360, "dark")):
            page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(report)
            page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
            assert [url for url in asked if not url.startswith(("data:", report))] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            problems = Axe().run(page).response["violations"]
            assert [one["id"] for one in problems if one["impact"] in ("serious", "critical")] == []
            image = page.locator(".card .stack img").nth(1)
            assert not image.is_visible()
            page.get_by_role("button", name="Changed").first.click()
            assert image.is_visible()


def test_the_pages_lines_run_and_find_more_than_draws_do() -> None:
    page = (Path(__file__).parents[1] / "book" / "audit.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)  # noqa: S102 - the page's own text
    assert names["attacked"].labels_kept.all()
    assert names["top_k_intersection"](names["before"], names["after"], 17).max() < 0.8
    assert (names["worst"].change > 2 * names["sampled"].change).all()
