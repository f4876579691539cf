"""The studies of chapter 2: their rows against direct calls of the library."""

from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from fragility import network, objective, train
from fragility.attack import iterative, random_walk
from fragility.attribution import ATTRIBUTIONS, importance
from fragility.data import datasets
from fragility.sensitivity import climb
from fragility.similarity import center_shift, spearman, top_k_intersection
from fragility.study.attacks import integrated_reasons, paper_sweep, sampling, surrogate_fidelity
from fragility.study.attacks.attack_sweep import STUDY
from fragility.study.attacks.evidence import differences
from fragility.study.attacks.setup import NETWORKS, RECIPES, SETUPS, Setup, prepare
from fragility.study.attacks.sweep import ATTACKS, Sweep, SweepProfile
from fragility.study.catalogue import STUDIES
from fragility.study.cifar_network import mixed_precision_loss
from fragility.study.piece import Plan, Row, generator
from fragility.surrogate import softplus, suggest_beta
from fragility.titles import METRICS

# The mean of the training images is the baseline: a constant one would be full of ties.
DIGITS = replace(SETUPS["digits"], baseline=None)
sweep = partial(
    Sweep, setup="digits", attacks=("top_k",), methods=("simple_gradient",), sizes={51.0: 10.0}, images=4, batch=4
)
noise = partial(sweep, attacks=("random",), sizes={51.0: None})


def plan(*sweeps: Sweep, seed: int = 0, setup: Setup = DIGITS) -> Plan:
    return STUDY.plan(SweepProfile(setups={"digits": setup}, sweeps=sweeps, seed=seed))


def rows_of(*sweeps: Sweep, **options: Any) -> list[Row]:
    made = plan(*sweeps, **options)
    return [row for piece in made.pieces for row in made.compute(piece)]


def column(rows: list[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


@pytest.fixture
def model(double_digits: None) -> nn.Module:
    training = datasets.digits("train")
    built = network.digits_cnn()
    train.fit_cached(built, training.images, training.labels, epochs=12, progress=False)
    return built


@pytest.fixture
def sample(model: nn.Module) -> tuple[Tensor, Tensor, list[str]]:
    """The first four correctly classified images of the seeded draw."""
    drawn = datasets.digits("test", limit=24, seed=0)
    right = (model(drawn.images).argmax(1) == drawn.labels).nonzero().flatten()[:4]
    return drawn.images[right], drawn.labels[right], [drawn.files[row] for row in right]


def attributions(method: str, steps: int) -> Any:
    options: dict[str, Any] = {"steps": steps} if method == "integrated_gradients" else {}
    if method != "simple_gradient":
        options["baseline"] = prepare(DIGITS, 1, 0, "cpu").baseline
    return partial(ATTRIBUTIONS[method], **options)


OBJECTIVES = {
    "top_k": objective.top_k(100),
    "mass_center": objective.mass_center(),
    "targeted": objective.targeted(objective.opposite_quadrant),
}


@pytest.mark.parametrize("attack", OBJECTIVES)
@pytest.mark.parametrize("method", ["simple_gradient", "deeplift", "integrated_gradients"])
def test_rows_are_what_the_library_says(model, sample, method: str, attack: str) -> None:
    images, labels, files = sample
    attacked, judged = attributions(method, 3), attributions(method, 7)
    rows = rows_of(sweep(attacks=(attack,), methods=(method,), iterations=6, attack_steps=3, evaluation_steps=7))
    before = importance(judged(model, images, labels))
    for prefix, iterations in (("", 6), ("first_", 1)):
        found = iterative(
            model, images, labels, attribution=attacked, objective=OBJECTIVES[attack], epsilon=51 / 255,
            step_size=10 / 255, surrogate_beta=4.0, iterations=iterations,
        )  # fmt: skip
        assert found.labels_kept.all()
        after = importance(judged(model, found.images, labels))
        metrics = (top_k_intersection(before, after, 100), spearman(before, after), center_shift(before, after))
        for name, values in zip(METRICS, metrics, strict=True):
            assert column(rows, prefix + name) == pytest.approx(values.tolist())
        if not prefix:
            assert column(rows, "objective") == pytest.approx(found.objective.tolist())
            assert column(rows, "iteration") == found.iteration.tolist()
            assert column(rows, "confidence_after") == pytest.approx(found.confidence_after.tolist())
            _check_gains(rows, attack, lambda x: importance(judged(model, x, labels)), images, found.images)
    assert [(row["image"], row["label"]) for row in rows] == list(zip(files, labels.tolist(), strict=True))
    steps = (3, 7) if method == "integrated_gradients" else (None, None)
    assert (rows[0]["attack_steps"], rows[0]["evaluation_steps"]) == steps


def _check_gains(rows: list[Row], attack: str, maps, images: Tensor, changed: Tensor) -> None:
    """What D gained, by its definition, and how much importance lies in the quadrant opposite the centre of mass."""

    def gain(before: Tensor, after: Tensor) -> Tensor:
        if attack == "mass_center":
            return center_shift(before, after)
        if attack == "top_k":
            region = before >= before.flatten(1).topk(100).values[:, -1].view(-1, 1, 1)
            return ((before - after) * region).sum((1, 2))
        return ((after - before) * quadrant(before)).sum((1, 2))

    def quadrant(before: Tensor) -> Tensor:
        above, left = ((before * torch.arange(32.0).view(shape)).sum((1, 2)) < 15.5 for shape in ((-1, 1), (1, -1)))
        region = torch.zeros_like(before)
        for one, up, aside in zip(region, above, left, strict=True):
            one[slice(16, None) if up else slice(16), slice(16, None) if aside else slice(16)] = 1
        return region

    before, after = maps(images), maps(changed)
    assert column(rows, "gain") == pytest.approx(gain(before, after).tolist())
    with softplus(4.0):
        smooth = gain(maps(images), maps(changed))
    assert column(rows, "surrogate_gain") == pytest.approx(smooth.tolist())
    for name, part in (("target_before", before), ("target_after", after)):
        inside = (part * quadrant(before)).sum((1, 2)).tolist()
        assert column(rows, name) == (pytest.approx(inside) if attack == "targeted" else [None] * 4)


def test_one_draw_moves_every_pixel_and_counts_as_unchanged_where_the_label_is_lost() -> None:
    rows = rows_of(noise(sizes={200.0: None}, images=16))
    lost = [row for row in rows if not row["labels_kept"]]
    assert 0 < len(lost) < len(rows)
    for row in rows:
        draw, best = ([row[prefix + name] for name in METRICS] for prefix in ("first_", ""))
        assert best == (draw if row["labels_kept"] else pytest.approx([1, 1, 0], abs=1e-9))
        assert draw[0] < 1
        assert row["iteration"] == int(bool(row["labels_kept"]))
    assert column(lost, "confidence_after") == column(lost, "confidence_before")


def test_noise_is_an_images_own_whatever_the_batch_and_the_company(double_digits: None) -> None:
    one = rows_of(noise())
    other = rows_of(noise(methods=("deeplift", "simple_gradient"), sizes={25.5: None, 51.0: None}, batch=2))[-4:]
    assert column(one, "image") == column(other, "image")
    for name in METRICS:
        assert column(one, name) == pytest.approx(column(other, name))
    assert column(rows_of(noise(), seed=1), "image") != column(one, "image")


def test_the_walk_is_the_librarys(model, sample) -> None:
    images, labels, files = sample
    rows = rows_of(sweep(attacks=("random_walk",), iterations=5))
    found = random_walk(
        model, images, labels, attribution=ATTRIBUTIONS["simple_gradient"], objective=objective.top_k(100),
        epsilon=51 / 255, step_size=10 / 255, iterations=5, generator=generator(0, *files),
    )  # fmt: skip
    assert column(rows, "objective") == pytest.approx(found.objective.tolist())
    assert rows[0]["surrogate_beta"] is None


def test_a_file_of_eight_bits_keeps_whole_steps_and_loses_small_ones() -> None:
    setup = replace(DIGITS, jpeg_quality=95)  # pixels that are multiples of 1 / 255, as in a file
    small, whole = (sweep(sizes={2.0: size}, iterations=steps) for size, steps in ((0.25, 1), (1.0, 2)))
    lost = rows_of(replace(small, rounded=True), setup=setup)
    assert column(lost, "top_k_intersection") == [1.0] * 4
    assert min(column(rows_of(small, setup=setup), "top_k_intersection")) < 1
    one, other = (rows_of(case, setup=setup) for case in (whole, replace(whole, rounded=True)))
    for name in ("top_k_intersection", "labels_kept"):
        assert column(one, name) == column(other, name)


def test_images_can_be_recompressed_before_anything_else(model) -> None:
    plain, fine, coarse = (
        prepare(replace(DIGITS, jpeg_quality=quality), 8, 0, "cpu").data for quality in (None, 95, 20)
    )
    assert "JPEG of quality 20" in coarse.source
    assert model(coarse.images).argmax(1).equal(coarse.labels)
    common = set(plain.files) & set(fine.files) & set(coarse.files)
    assert len(common) > 2
    for name in common:
        one, two, three = (data.images[data.files.index(name)] for data in (plain, fine, coarse))
        assert 0 < (one - two).abs().mean() < (one - three).abs().mean() < 0.2


def test_differences_are_taken_image_by_image() -> None:
    def row(image: str, setup: str, value: float) -> Row:
        key = {"image": image, "setup": setup, "method": "deeplift", "attack": "top_k", "epsilon": 8.0}
        return key | {"top_k_intersection": value, "spearman": 2 * value, "center_shift": 0.0}

    plain = pd.DataFrame([row("a", "plain", 0.1), row("b", "plain", 0.9)])
    changed = [row("b", "other", 0.95), row("a", "other", 0.2), row("without a partner", "other", 5.0)]
    found = differences(pd.DataFrame(changed), plain)
    assert (found.image.tolist(), set(found.setup)) == (["b", "a"], {"other"})
    assert found.top_k_intersection.tolist() == pytest.approx([0.05, 0.1])
    assert found.spearman.tolist() == pytest.approx([0.1, 0.2])
    with pytest.raises(ValueError, match="not unique"):
        differences(plain, pd.concat([plain, plain]))


def test_one_trajectory_is_judged_twice(model, sample) -> None:
    images, labels, _ = sample
    case = sweep(iterations=6)
    made = paper_sweep.STUDY.plan(SweepProfile(setups={"digits": DIGITS}, sweeps=(case,)))
    rows, attribution = made.compute(made.pieces[0]), ATTRIBUTIONS["simple_gradient"]
    before = importance(attribution(model, images, labels))
    choices = {"": None, "release_": lambda maps, reference: -top_k_intersection(maps, reference, 100)}
    for prefix, selection in choices.items():
        found = iterative(
            model, images, labels, attribution=attribution, objective=objective.top_k(100), selection=selection,
            epsilon=51 / 255, step_size=10 / 255, iterations=6, surrogate_beta=4.0,
        )  # fmt: skip
        after = importance(attribution(model, found.images, labels))
        assert column(rows, f"{prefix}iteration") == found.iteration.tolist()
        assert column(rows, f"{prefix}spearman") == pytest.approx(spearman(before, after).tolist())
        # The attack sweep makes either choice, and stores it alone.
        other = rows_of(replace(case, by_metric=selection is not None))
        assert column(other, "iteration") == found.iteration.tolist()
        if not prefix:
            last = [float(text.split()[-1]) for text in column(rows, "course_objective")]
            assert last == pytest.approx(found.objective.tolist(), rel=1e-4)  # of five digits
    assert rows[0]["course_steps"] == "1 2 3 6"


def test_fidelity_rows_are_the_maps_of_two_networks(model) -> None:
    fewer = {"setups": {"digits": asdict(DIGITS)}, "images": 4, "batch": 2, "multiples": (1.0, 1e6)}
    profile = surrogate_fidelity.STUDY.profiles["fast"] | fewer
    made = surrogate_fidelity.STUDY.plan(profile)
    rows = [row for piece in made.pieces for row in made.compute(piece)]
    assert len(rows) == 2 * 3 * 4
    test = datasets.digits("test")
    for row in rows:
        index = test.files.index(str(row["image"]))
        images, labels = test.images[index : index + 1], test.labels[index : index + 1]
        assert (labels.item(), row["beta"]) == (row["label"], 4.0 * row["multiple"])
        attribution = attributions(str(row["method"]), 10)
        own = importance(attribution(model, images, labels))
        with softplus(row["beta"]):
            smooth = importance(attribution(model, images, labels))
        assert row["spearman"] == pytest.approx(spearman(own, smooth).item())
        assert row["top_k_intersection"] == top_k_intersection(own, smooth, 100).item()
        assert row["center_shift"] == pytest.approx(center_shift(own, smooth).item())
        if row["multiple"] == 1e6:  # as good as the ReLU itself
            assert row["spearman"] > 0.999


def test_images_are_classified_correctly_and_more_of_them_begin_with_the_same(model) -> None:
    few, many = (plan(noise(images=images)) for images in (4, 16))
    assert few.pieces == many.pieces[:1]
    names = [name for piece in many.pieces for name in piece["images"]]
    test = datasets.digits("test")
    rows = [test.files.index(name) for name in names]
    assert (model(test.images[rows]).argmax(1) == test.labels[rows]).all()
    assert len(set(names)) == 16


def test_a_later_sweep_continues_an_earlier_one() -> None:
    whole, *parts = (sweep(images=images, start=start, batch=2) for images, start in ((8, 0), (4, 0), (8, 4)))
    assert plan(whole).pieces == plan(*parts).pieces


def test_a_plan_that_cannot_be_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"once per image, got \('top_k', .* \(51.0, 10.0\), 2, 'digits', 1, 'constant', None\) twice"
    ):
        plan(sweep(), sweep(images=8, start=2, batch=2))
    with pytest.raises(ValueError, match="expected 400 correctly classified images among 24, got"):
        plan(sweep(images=400))
    for images, start, batch, got in ((4, 0, 3, 4), (4, 5, 2, -1)):
        with pytest.raises(ValueError, match=f"images: expected a multiple of the batch of {batch}, got {got}"):
            sweep(images=images, start=start, batch=batch)


AT_SCALE = {
    f"{study}-{name}": profile
    for study in "attack_sweep cifar_sweep few_steps integrated_reasons paper_sweep relevance_sweep sensitivity".split()
    for name, profile in STUDIES[study].profiles.items()
    if name != "fast"
}


@pytest.mark.parametrize("profile", AT_SCALE.values(), ids=AT_SCALE)
def test_profiles_at_scale_name_what_there_is(profile: SweepProfile) -> None:
    # Without the data no plan can be made of them; what they name can be checked.
    for case in profile.sweeps:
        setup = profile.setups[case.setup]
        assert setup.data in datasets.LOADERS
        assert setup.network in NETWORKS | RECIPES
        assert setup.candidates > case.images
        assert set(case.methods) <= set(ATTRIBUTIONS)
        assert set(case.attacks) <= set(ATTACKS)
        if case.iterations > 1:
            assert all(step * case.iterations >= epsilon for epsilon, step in case.sizes.items())


def test_the_probability_can_be_explained_in_place_of_the_logit(model, sample) -> None:
    images, labels, _ = sample
    subject = prepare(DIGITS, 4, 0, "cpu")
    base, total = subject.baseline.to(images), torch.zeros_like(images)
    for step in (1, 2, 3):
        x = torch.lerp(base.expand_as(images), images, step / 3).requires_grad_()
        scores = model(x).exp()
        share = scores[range(4), labels] / scores.sum(1)
        total += torch.autograd.grad(share.sum(), x)[0] / 3
    explain = subject.attribution("integrated_gradients", 3, "probability")
    assert torch.allclose(explain(model, images, labels), (images - base) * total, rtol=1e-5, atol=1e-7)
    profile = SweepProfile(setups={"digits": DIGITS}, sweeps=(sweep(methods=("integrated_gradients",), iterations=3),))
    scores = [replace(profile.sweeps[0], attack_steps=3, evaluation_steps=3, score=s) for s in ("logit", "probability")]
    made = integrated_reasons.STUDY.plan(replace(profile, sweeps=(scores[1],)))
    found = iterative(
        model, images, labels, attribution=explain, objective=objective.top_k(100), epsilon=51 / 255,
        step_size=10 / 255, surrogate_beta=4.0, iterations=3,
    )  # fmt: skip
    before, after = (importance(explain(model, x, labels)) for x in (images, found.images))
    rows = made.compute(made.pieces[0])
    assert column(rows, "spearman") == pytest.approx(spearman(before, after).tolist())
    assert column(rows, "confidence_after") == pytest.approx(found.confidence_after.tolist())
    other = integrated_reasons.STUDY.plan(replace(profile, sweeps=(scores[0],)))
    assert column(other.compute(other.pieces[0]), "spearman") != column(rows, "spearman")


def test_a_change_explains_what_closes_half_of_the_gap() -> None:
    def rows(setup: str, value: float, spread: float) -> list[Row]:
        metrics = dict.fromkeys(METRICS, value)
        course = {f"course_{name}": f"{value + 0.4} {value}" for name in ("intersection", "spearman", "shift")}
        chosen = {f"release_{name}": value + 0.02 for name in METRICS} | course | {"course_steps": "3 20"}
        return [
            {"image": f"{i}", "setup": setup, "method": "integrated_gradients", "attack": "top_k", **chosen}
            | {name: number + spread * (i % 2 - 0.5) for name, number in metrics.items()}
            for i in range(16)
        ]

    table = [*rows("unchanged", 0.1, 0.0), *rows("much", 0.4, 0.1), *rows("little", 0.15, 0.1), *rows("open", 0.3, 0.4)]
    published = pd.DataFrame([{"attack": "top_k", "metric": name, "value": 0.5} for name in METRICS])
    found = integrated_reasons.explained(integrated_reasons.changes(pd.DataFrame(table)), published)
    spearman = found[found.metric == "spearman"].set_index("change")
    answers = {"much": "yes", "little": "no", "open": "undecided", "3 steps": "yes", "the release's iterate": "no"}
    assert spearman.follows.dropna().to_dict() == answers
    assert spearman.share.dropna().round(3).to_dict() == {
        "much": 0.75, "little": 0.125, "open": 0.5, "3 steps": 1.0, "the release's iterate": 0.05,
    }  # fmt: skip
    assert spearman.loc["unchanged", "mean"] == pytest.approx(0.1)
    assert set(spearman.n) == {16}


def test_what_a_setup_leaves_open_is_found_on_the_training_images(model) -> None:
    setup = replace(DIGITS, surrogate_beta=None)
    ready = prepare(setup, 4, 0, "cpu")
    training = datasets.digits("train")
    # Stored in single precision, whose numbers below 1 are 2^-24 apart.
    assert torch.allclose(ready.baseline.double(), training.images.mean(0), rtol=0, atol=2**-24)
    few = datasets.sample(training, 16, seed=0)
    assert ready.surrogate_beta == suggest_beta(model, few.images, few.labels)
    (piece,) = plan(sweep(), setup=setup).pieces
    measured = {"baseline": train.fingerprint(ready.baseline), "surrogate_beta": ready.surrogate_beta}
    assert piece | measured == piece


def test_the_loss_in_mixed_precision_is_the_cross_entropy() -> None:
    model = network.digits_cnn(seed=0).requires_grad_(True)
    test = datasets.sample(datasets.digits("test"), 32, seed=0)
    value = mixed_precision_loss(model, test.images, test.labels)
    exact = -model(test.images).double().log_softmax(1)[range(32), test.labels].mean()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=0.02)  # bfloat16 has eight bits
    (slope,) = torch.autograd.grad(value, next(model.parameters()))
    assert slope.isfinite().all()


def test_extremes_over_draws_and_an_attack_on_squares_of_pixels(model) -> None:
    """Against the changes of all points, computed one by one from the definition."""
    made = sampling.STUDY.plan(sampling.STUDY.profiles["fast"] | {"images": 2, "batch": 2, "draws": 12})
    piece = next(piece for piece in made.pieces if piece["block"] == 4)
    rows, ready = made.compute(piece), made.ready["digits"]
    images, labels = ready.batch(piece)

    def change(x: Tensor, row: int) -> tuple[float, float, float, bool]:
        one, label = images[row : row + 1], labels[row : row + 1]
        before, after = (ATTRIBUTIONS["simple_gradient"](model, point, label) for point in (one, x))
        moved, maps = (after - before).norm().item(), (importance(before), importance(after))
        kept = bool(model(x).argmax(1) == label)
        return (
            moved / before.norm().item(),
            moved / (x - one).norm().item(),
            top_k_intersection(*maps, 100).item(),
            kept,
        )

    for row, name in enumerate(piece["images"]):
        source, found = generator(0, "draws", name, 4), []
        for _ in range(12):
            squares = 51 / 255 * (2 * torch.rand(1, 1, 8, 8, generator=source, dtype=images.dtype) - 1)
            fine = torch.nn.functional.interpolate(squares, scale_factor=4, mode="nearest")
            found.append(change((images[row : row + 1] + fine).clamp(0, 1), row))
        kept = [values for values in found if values[3]]
        assert rows[row]["sampled_change"] == pytest.approx(max(values[0] for values in kept))
        assert rows[row]["sampled_lipschitz"] == pytest.approx(max(values[1] for values in kept))
        assert rows[row]["sampled_top_k"] == pytest.approx(min(values[2] for values in kept))
        assert rows[row]["sampled_10"] == pytest.approx(max(values[0] for values in found[:10] if values[3]))
        assert rows[row]["sampled_kept"] == pytest.approx(len(kept) / 12)
        assert rows[row]["directions"] == 64


def test_the_climb_follows_the_slope_of_the_squares(model, sample) -> None:
    images, labels = sample[0][:1], sample[1][:1]
    options: dict[str, Any] = {"epsilon": 0.1, "beta": 4.0, "iterations": 1, "block": 8}
    source = [torch.Generator().manual_seed(3)]
    (x,) = climb(model, images, labels, attribution=ATTRIBUTIONS["simple_gradient"], generators=source, **options)
    start = 0.1 * (2 * torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=images.dtype) - 1)

    def moved(squares: Tensor) -> tuple[float, Tensor]:
        point = (images + torch.nn.functional.interpolate(squares, scale_factor=8)).clamp(0, 1)
        before = ATTRIBUTIONS["simple_gradient"](model, images, labels)
        with softplus(0.5):  # beta / 8, that of the first step
            after = ATTRIBUTIONS["simple_gradient"](model, point, labels)
        return (after - before).square().sum().item(), point

    expected = start.clone()
    for row, column in product(range(4), range(4)):
        step = torch.zeros_like(start)
        step[0, 0, row, column] = 1e-5
        slope = moved(start + step)[0] - moved(start - step)[0]
        expected[0, 0, row, column] += 0.1 / 8 * (1 if slope > 0 else -1 if slope < 0 else 0)
    torch.testing.assert_close(x, moved(expected.clamp(-0.1, 0.1))[1], rtol=0, atol=1e-9)
