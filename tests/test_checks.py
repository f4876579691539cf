"""Models that are not functions of one image, and arguments in the wrong unit: refused, with what to do about it."""

import threading
import warnings
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from conftest import randomise
from fragility._alone import check_alone
from fragility._checks import check_model, is_trusted, trusting
from fragility.attack import iterative, random_sign, random_walk
from fragility.attribution import deeplift, integrated_gradients, simple_gradient
from fragility.curvature import input_hvp, top_direction
from fragility.defense import smooth_gradient
from fragility.defense.loss_attribution import loss_attributions
from fragility.defense.training import adversarial_loss, curvature_loss, ig_norm_loss, input_gradient_loss
from fragility.objective import top_k
from fragility.surrogate import softplus

STEPS = {"epsilon": 0.05, "step_size": 0.02, "iterations": 2}
EXPLANATIONS = {
    "simple gradient": simple_gradient,
    "integrated gradients": partial(integrated_gradients, steps=6),
    "DeepLIFT": deeplift,
    "SmoothGrad": partial(smooth_gradient, sigma=0.1, samples=4),
    "Hessian": lambda model, images, labels: input_hvp(model, images, labels, images),
    "direction": lambda model, images, labels: top_direction(model, images, labels, mode="forward_over_reverse")[1],
    "attack": partial(iterative, attribution=simple_gradient, objective=top_k(5), surrogate_beta=3.0, **STEPS),
    "walk": partial(random_walk, attribution=simple_gradient, objective=top_k(5), **STEPS),
}


class Around(nn.Module):
    """A usual network around a function of the network itself and the images."""

    def __init__(self, function, *extra: nn.Module, activation: nn.Module | None = None) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 6, 3), activation or nn.Tanh(), *extra, nn.Flatten(), nn.Linear(216, 4)]
        self.net, self.function = nn.Sequential(*layers), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.net, x)


def around(function=lambda net, x: net(x), *extra: nn.Module, **options) -> nn.Module:
    return randomise(Around(function, *extra, **options))


def part_in_training_mode(kind: type[nn.Module], *arguments) -> nn.Module:
    model = around(lambda net, x: net(x), kind(*arguments))
    model.net[2].train()
    return model


def in_inference_mode(net, x: Tensor) -> Tensor:
    with torch.inference_mode():
        h = net[0](x)
    return net[1:](h)


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(around().float(), {nn.Linear})


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, training=self.training)


# How a model depends on more than the image, and what the error says.
DEPENDENT = {
    "dropout": (part_in_training_mode(nn.Dropout, 0.5), r"training mode in its part 'net.2' \(Dropout\)"),
    "batch norm": (part_in_training_mode(nn.BatchNorm2d, 6), r"training mode in its part 'net.2' \(BatchNorm2d\)"),
    "a module of one's own": (part_in_training_mode(Own), r"training mode in its part 'net.2' \(Own\)"),
    "no running statistics": (
        around(lambda net, x: net(x), nn.BatchNorm2d(6, track_running_stats=False)),
        r"'net.2' \(BatchNorm2d\) has no running statistics",
    ),
    "batch norm by function": (
        around(lambda net, x: net(F.batch_norm(x, None, None, training=True))),
        "depend on one image each",
    ),
    "mean of the batch": (around(lambda net, x: net(x - x.mean())), "depend on one image each"),
    "largest of the batch": (around(lambda net, x: net(x / x.amax())), "depend on one image each"),
    "reversed": (around(lambda net, x: net(x.flip(0))), "depend on one image each"),
    "softmax over the batch": (around(lambda net, x: net(x).softmax(0)), "depend on one image each"),
    "chance": (around(lambda net, x: net(F.dropout(x, training=True))), "or by chance|draws random numbers"),
    "quantised weights": (quantised(), "'net.3' .* has quantised weights"),
}


@pytest.mark.parametrize("explanation", EXPLANATIONS)
@pytest.mark.parametrize("kind", DEPENDENT)
def test_models_of_more_than_one_image(kind, explanation, images, labels):
    model, message = DEPENDENT[kind]
    x = images.to(next(model.parameters()).dtype)
    with pytest.raises(ValueError, match=message):
        EXPLANATIONS[explanation](model, x, labels)


@pytest.mark.parametrize("kind", [kind for kind, (_, message) in DEPENDENT.items() if "one image" in message])
def test_an_attack_on_a_single_image_is_refused_too(kind, images, labels):
    with pytest.raises(ValueError, match="depend on one image each"):
        EXPLANATIONS["attack"](DEPENDENT[kind][0], images[:1], labels[:1])


SOUND = {
    "layer norm": around(lambda net, x: net(x), nn.LayerNorm([6, 6])),
    "instance norm": around(lambda net, x: net(x), nn.InstanceNorm2d(6)),
    "batch norm": around(lambda net, x: net(x), nn.BatchNorm2d(6)),
    "idle parts in training mode": around(),
    "batches of two": around(lambda net, x: net(x.view(2, 3, 8, 8))),
}
SOUND["idle parts in training mode"].net[1].train()


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_one_image_are_accepted(kind, dtype, images):
    model = SOUND[kind].to(dtype)
    check_model(model)
    check_alone(model, images.to(dtype))
    check_alone(model, images.repeat(3, 1, 1, 1).to(dtype)[:2])


def hooked(hook, place: str, *, ask: bool = True) -> nn.Module:
    """A hook of a module, or of a tensor, for which a model may ask first whether it has a gradient."""

    def forward(net, x):
        h = net[0](x)
        if place == "tensor" and (h.requires_grad or not ask):
            h.register_hook(lambda grad: hook((grad,)))
        if place == "node" and h.requires_grad:
            h.grad_fn.register_prehook(hook)
        if place == "node, after":
            h = h.tanh()
            if h.grad_fn is not None:
                h.grad_fn.register_hook(lambda grads, _: hook(grads))
        return net[1:](h)

    model = around(forward)
    if place == "module":
        model.net[1].register_full_backward_hook(lambda _, grads, __: hook(grads))
    if place == "before":
        model.net[1].register_full_backward_pre_hook(lambda _, grads: hook(grads))
    return model


REWRITING = {
    "scaled": hooked(lambda grads: (2 * grads[0],), "module"),
    "scaled before": hooked(lambda grads: (2 * grads[0],), "before"),
    "guided": hooked(lambda grads: (grads[0].clamp(min=0),), "module"),
    "tensor": hooked(lambda grads: 2 * grads[0], "tensor"),
    "tensor, unasked": hooked(lambda grads: 2 * grads[0], "tensor", ask=False),
    "node": hooked(lambda grads: (2 * grads[0],), "node"),
    "node, after": hooked(lambda grads: (2 * grads[0],), "node, after"),
    "second derivative": hooked(lambda grads: grads[0].detach(), "tensor"),
}
LOOKING = {
    "module": hooked(lambda _: None, "module"),
    "module, before": hooked(lambda grads: grads, "before"),
    "tensor": hooked(lambda _: None, "tensor"),
    "node": hooked(lambda _: None, "node"),
    "tensor, cloned": hooked(lambda grads: grads[0].clone(), "tensor"),
}


@pytest.mark.parametrize("explanation", EXPLANATIONS)
@pytest.mark.parametrize("kind", REWRITING)
def test_hooks_that_rewrite_gradients(kind, explanation, images, labels):
    with pytest.raises(ValueError, match=r"a backward hook rewrites them \(.*handle.remove"):
        EXPLANATIONS[explanation](REWRITING[kind], images, labels)


@pytest.mark.parametrize("explanation", sorted(EXPLANATIONS.keys() - {"direction", "walk"}))
@pytest.mark.parametrize("kind", LOOKING)
def test_hooks_that_look_at_gradients(kind, explanation, images, labels):
    images.requires_grad_().register_hook(lambda grad: 0 * grad)
    results = [EXPLANATIONS[explanation](model, images, labels) for model in (LOOKING[kind], around())]
    torch.testing.assert_close(*[getattr(result, "images", result) for result in results], rtol=1e-10, atol=1e-12)


class Backward(torch.autograd.Function):
    """A function with a backward pass of one's own choice."""

    @staticmethod
    def forward(ctx, z, function, backward):
        ctx.save_for_backward(z)
        ctx.chosen = backward
        return function(z)

    @staticmethod
    def backward(ctx, grad):
        return ctx.chosen(grad, *ctx.saved_tensors), None, None


def cached(net, x: Tensor) -> Tensor:
    if getattr(net, "kept", x[:0]).shape[:1] != x.shape[:1]:
        net.kept = net[0](x)
    return net[1:](net.kept)


# Models whose gradient is not the derivative of what they compute.
HIDING = {
    "reversed": lambda net, x: net(Backward.apply(x, torch.clone, lambda grad, _: -grad)),
    "guided": lambda net, x: net[2:](Backward.apply(net[0](x), F.relu, lambda grad, z: grad.clamp(min=0) * (z > 0))),
    "straight through": lambda net, x: net(Backward.apply(x, lambda x: (8 * x).round() / 8, lambda grad, _: grad)),
    "straight through, detached": lambda net, x: net(x + ((8 * x).round() / 8 - x).detach()),
    "scaled": lambda net, x: net(0.1 * x + (0.9 * x).detach()),
    "detached statistic": lambda net, x: net(x / x.std((1, 2, 3), keepdim=True).detach()),
    "kept": cached,
}


def test_a_picture_of_one_pixel_has_a_gradient():
    layer = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double().eval()
    x = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    torch.testing.assert_close(simple_gradient(layer, x, torch.tensor([1])).flatten(), layer[1].weight[1].detach())


@pytest.mark.parametrize("explanation", sorted(EXPLANATIONS.keys() - {"DeepLIFT"}))  # whose sum tells
@pytest.mark.parametrize("kind", HIDING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_that_are_no_derivatives(kind, explanation, dtype, images, labels):
    with pytest.raises(ValueError, match=r"but along a random direction|not reach all of its kinks|the same layers"):
        EXPLANATIONS[explanation](around(HIDING[kind]).to(dtype), images.to(dtype), labels)


def test_a_hook_of_all_modules(images, labels):
    handle = nn.modules.module.register_module_full_backward_hook(lambda _, grads, __: tuple(map(torch.neg, grads)))
    try:
        with pytest.raises(ValueError, match="one of a tensor, or of all modules"):
            simple_gradient(around(), images, labels)
    finally:
        handle.remove()
    assert simple_gradient(around(), images, labels).isfinite().all()


def test_a_model_is_checked_once_in_an_attack(images):
    model, passes = around(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    with trusting(model):
        assert is_trusted(model)
        assert not is_trusted(SOUND["batch norm"])
        simple_gradient(model, images, torch.tensor([0, 1]))
    assert len(passes) == 1
    assert not is_trusted(model)


class Products(TorchDispatchMode):
    """Counts the multiplications of convolutions and matrices, forward and backward."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result


@pytest.mark.parametrize(("batch", "alone"), [(1, 3), (2, 7), (8, 7)])
def test_what_the_guards_of_an_attack_cost(batch, alone):
    """In forward passes of one image. A gradient costs another one, and a product with the Hessian two."""
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    images = torch.rand(batch, 3, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"attribution": simple_gradient, "objective": top_k(5), "surrogate_beta": 3.0, **STEPS}

    def passes(function) -> float:
        with Products() as products:
            function()
        return products.count / single

    single = 1.0
    model = randomise(nn.Sequential(*layers))
    single = passes(lambda: model(images[:1]))
    labels = model(images).argmax(1)
    attacks = [passes(lambda: iterative(model, images, labels, **options | {"iterations": n})) for n in (1, 3)]  # noqa: B023
    step = (attacks[1] - attacks[0]) / 2
    assert step == 6 * batch  # a gradient's gradient, and a gradient of the network itself to judge by
    # The network's gradient at the images; how large the first step's gradient is if nothing cancels; is an image's
    # answer its own; and for kinks a gradient, a product, a step's size and the gradients at both ends of the step.
    guards = alone + 2 + 2 + 1 + 4
    assert attacks[0] - step == 2 * batch + 2 * batch + guards
    assert guards <= 0.1 * 20 * step


def test_a_model_is_checked_again_when_something_about_it_has_changed(images, labels):
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.mix, self.seen = nn.Linear(192, 4).double().eval(), 0.0, []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(len(x))
            z: Tensor = self.net(x.flatten(1))
            return z + self.mix * z.flip(0)

    model = Counting().eval()

    def shown() -> int:
        model.seen.clear()
        simple_gradient(model, images, labels)
        return sum(model.seen)

    assert [shown(), shown()] == [9, 2]  # both images, and before that two, two and three
    with torch.no_grad():
        model.net.weight[0, 0] += 1
    assert [shown(), shown()] == [9, 2]
    model.net.register_forward_hook(lambda *_: None)
    assert [shown(), shown()] == [9, 2]
    model.mix = 0.5
    with pytest.raises(ValueError, match="depend on one image each"):
        shown()
    with pytest.raises(ValueError, match="depend on one image each"):
        shown()


def test_a_model_that_cannot_be_copied(images, labels):
    """Its gradient is compared with coarser differences."""
    model, turned = around(activation=nn.ReLU()).float(), around(HIDING["reversed"]).float()
    model.lock = turned.lock = threading.Lock()
    assert simple_gradient(model, images.float(), labels).isfinite().all()
    with pytest.raises(ValueError, match="but along a random direction"):
        simple_gradient(turned, images.float(), labels)


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("lead", [9, 13, 17])
def test_a_probability_close_to_one(lead, wrong, images):
    """Its slope is no larger than its curvature over the first of the steps that are tried."""
    model, image = around(HIDING["reversed"]) if wrong else around(activation=nn.ReLU()), images[:1]
    least = model(image).sort(1).values.diff()[0, -1].item()
    sure = around(lambda _, x: (lead / least * model(x)).softmax(1))
    label = sure(image).argmax(1)
    with pytest.raises(ValueError, match="but along a random direction") if wrong else nullcontext():
        assert simple_gradient(sure, image, label).any()


def test_an_exported_network_needs_no_eval(images, labels):
    model = around(activation=nn.ReLU())
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(simple_gradient(exported, images, labels), simple_gradient(model, images, labels))


@pytest.mark.parametrize("explanation", EXPLANATIONS)
def test_a_model_that_overwrites_its_input_gets_a_copy(explanation, images, labels):
    model = around(lambda net, x: net(x.sub_(0.5).div_(0.25)), activation=nn.ReLU())
    plain = around(lambda net, x: net((x - 0.5) / 0.25), activation=nn.ReLU())
    before = images.clone()
    results = []
    for network in (model, plain):
        torch.manual_seed(0)  # of the walk
        with softplus(3.0) if explanation in ("Hessian", "direction") else nullcontext():
            result = EXPLANATIONS[explanation](network, images, labels)
        results.append(getattr(result, "images", result))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    assert torch.equal(images, before)


@pytest.mark.parametrize("explanation", ["attack", "walk"])
def test_one_logit(explanation, images):
    model, zeros = around(lambda net, x: net(x)[:, :1]), torch.tensor([0, 0])
    with pytest.raises(ValueError, match=r"two logits or more, got one.*torch.cat"):
        EXPLANATIONS[explanation](model, images, zeros)
    two = around(lambda net, x: torch.cat([-net(x)[:, :1], net(x)[:, :1]], 1) / 2)
    torch.testing.assert_close(two(images).softmax(1)[:, 1], model(images)[:, 0].sigmoid())
    assert EXPLANATIONS[explanation](two, images, zeros).images.shape == images.shape


class TestTraining:
    """Losses that differentiate a loss with respect to an image."""

    LOSSES = (
        partial(ig_norm_loss, steps=2, **STEPS),
        partial(input_gradient_loss, weight=1.0),
        partial(curvature_loss, weight=1.0),
        lambda model, images, labels: loss_attributions(model, images, images / 2, labels),
    )

    @pytest.mark.parametrize("loss", LOSSES)
    def test_batch_norm_is_refused_until_it_is_frozen(self, loss, images, labels):
        model = around(lambda net, x: net(x), nn.BatchNorm2d(6)).train()
        with pytest.raises(ValueError, match=r"batch norm in training mode in its part 'net.2'.*call eval\(\)"):
            loss(model, images, labels)
        model.net[2].eval()
        before = model.net[2].running_mean.clone()
        assert loss(model, images, labels).isfinite().all()
        assert torch.equal(model.net[2].running_mean, before)

    def test_dropout_is_another_network_at_every_point_of_a_path(self, images, labels):
        model = around(lambda net, x: net(x), nn.Dropout(0.5)).train()
        with pytest.raises(ValueError, match=r"dropout in training mode in its part 'net.2'"):
            loss_attributions(model, images, images / 2, labels)
        assert input_gradient_loss(model, images, labels, weight=1.0).isfinite()

    def test_adversarial_training_takes_no_attributions(self, images, labels):
        model = around(lambda net, x: net(x), nn.BatchNorm2d(6)).train()
        assert adversarial_loss(model, images, labels, **STEPS).isfinite()


class TestBadImages:
    """One image with nothing to follow does not cost the others of the batch."""

    @pytest.mark.parametrize("attribution", [partial(integrated_gradients, steps=4), deeplift])
    def test_a_black_one(self, attribution, every_relu, images):
        black = torch.cat([images, torch.zeros_like(images[:1])])
        labels = every_relu(black).argmax(1)
        options = {"objective": top_k(6), "surrogate_beta": 2.0, "attribution": attribution, **STEPS}
        found, alone = (iterative(every_relu, black[:n], labels[:n], **options) for n in (3, 2))
        assert found.attackable.tolist() == [True, True, False]
        assert not found.labels_kept[2]
        assert found.objective[2].isnan()
        assert torch.equal(found.images[2], black[2])
        torch.testing.assert_close(found.images[:2], alone.images, rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match="not all zero"):
            iterative(every_relu, black[2:], labels[2:], **options)

    @pytest.mark.parametrize("when", [0.0, 0.03])
    def test_an_infinite_gradient_at_first_or_midway(self, when, every_relu, images):
        """The second image's score bends infinitely as soon as its first pixel has moved by so much."""

        class Edge(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                logits = every_relu(x)
                if len(x) != 2 or (x[1, 0, 0, 0] - images[1, 0, 0, 0]).abs() < when:
                    return logits
                pole = (x[1:] - x[1:].detach()).abs().pow(1.5).sum()  # 0 with slope 0
                return logits + torch.stack([0 * pole.detach(), pole])[:, None]

        labels = every_relu(images).argmax(1)
        options = {"objective": top_k(6), "attribution": simple_gradient, **STEPS, "iterations": 4}
        found = iterative(Edge().eval(), images, labels, surrogate_beta=2.0, **options)
        alone = iterative(every_relu, images[:1], labels[:1], surrogate_beta=2.0, **options)
        assert found.attackable.tolist() == [True, False]
        torch.testing.assert_close(found.images[:1], alone.images, rtol=0, atol=1e-12)
        assert found.images.isfinite().all()
        assert bool(found.labels_kept[1]) == (when > 0)


@pytest.mark.parametrize("explanation", EXPLANATIONS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.update(images=a["images"] * 3), ValueError, r"images: expected pixels in \[0, 1\]"),
        (lambda a: a.update(images=a["images"] - 1), ValueError, r"images: expected pixels in \[0, 1\]"),
        (lambda a: a["images"].__setitem__((0, 0, 0, 0), torch.nan), ValueError, r"images: .* nan"),
        (lambda a: a.update(images=a["images"][:0]), ValueError, "images: expected at least one image"),
        (lambda a: a.update(images=a["images"][0]), ValueError, r"images: expected shape \(B, C, H, W\)"),
        (lambda a: a.update(images=a["images"].round().long()), TypeError, "images: expected a floating-point"),
        (lambda a: a.update(images=a["images"].numpy()), TypeError, "images: expected a tensor, got ndarray"),
        (lambda a: a.update(labels=a["labels"] + 2), ValueError, r"labels: expected classes in \[0, 4\)"),
        (lambda a: a.update(labels=a["labels"] - 2), ValueError, r"labels: expected classes in \[0, 4\)"),
        (lambda a: a.update(labels=a["labels"][:1]), ValueError, r"labels: expected shape \(2,\)"),
        (lambda a: a.update(labels=a["labels"].int()), TypeError, "labels: expected dtype torch.int64"),
        (lambda a: a.update(labels=[1, 3]), TypeError, "labels: expected a tensor"),
        (lambda a: a["model"].train(), ValueError, "model: expected evaluation mode"),
        (lambda a: a.update(model=lambda x: x), TypeError, "model: expected an nn.Module"),
        (lambda a: a.update(model=nn.Conv2d(3, 3, 3).double().eval()), ValueError, "model: expected logits"),
    ],
)
def test_wrong_images_labels_and_models_are_named(change, error, message, explanation, every_relu, images, labels):
    arguments = {"model": every_relu, "images": images, "labels": labels}
    change(arguments)
    with pytest.raises(error, match=message), softplus(3.0):
        EXPLANATIONS[explanation](*arguments.values())


@pytest.mark.parametrize("explanation", EXPLANATIONS)
def test_a_constant_model(explanation, images, labels):
    with pytest.raises(ValueError, match="model: expected logits that depend differentiably"):
        EXPLANATIONS[explanation](around(lambda net, x: net(x).detach()), images, labels)


class TestMessages:
    def test_numpy_integers_are_integers(self, images, labels):
        assert top_k(np.int64(5))(torch.rand(1, 4, 4), torch.rand(1, 4, 4)).shape == (1,)
        exact, numpy = (integrated_gradients(around(), images, labels, steps=n) for n in (3, np.int32(3)))
        assert torch.equal(exact, numpy)
        with pytest.raises(TypeError, match="k: expected an integer, got float64"):
            top_k(np.float64(5))
        with pytest.raises(TypeError, match="k: expected an integer, got bool"):
            top_k(True)

    @pytest.mark.parametrize(("epsilon", "hint"), [(8, "8 / 255 for 8 of 255"), (1000.0, "8 / 255, say")])
    def test_epsilon_in_grey_levels(self, epsilon, hint, images, labels):
        for call in (
            lambda: random_sign(images, epsilon),
            lambda: EXPLANATIONS["attack"](around(), images, labels, epsilon=epsilon),
            lambda: adversarial_loss(around(), images, labels, **STEPS | {"epsilon": epsilon}),
        ):
            with pytest.raises(ValueError, match=rf"epsilon: expected at most 1.*pass {hint}"):
                call()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"epsilon": "8/255"}, "epsilon: expected a number, got str"),
            ({"epsilon": True}, "epsilon: expected a number, got bool"),
            ({"step_size": [0.01]}, "step_size: expected a number, got list"),
            ({"surrogate_beta": "3"}, "surrogate_beta: expected a number, got str"),
            ({"surrogate_beta": (1.0, 2.0, 3.0)}, r"surrogate_beta: expected a number or a pair .* got 3"),
            ({"attribution": partial(deeplift, baseline="mean")}, "baseline: expected a number or a tensor, got str"),
        ],
    )
    def test_what_is_not_a_number(self, options, message, images, labels):
        with pytest.raises((TypeError, ValueError), match=message):
            iterative(
                around(), images, labels, **{"attribution": simple_gradient, "objective": top_k(5), **STEPS, **options}
            )

    @pytest.mark.parametrize("explanation", EXPLANATIONS)
    def test_inference_mode(self, explanation, images, labels):
        explain = EXPLANATIONS[explanation]
        with torch.inference_mode():
            made = images.clone()
            with pytest.raises(ValueError, match=r"got torch.inference_mode\(\); torch.no_grad\(\) is allowed"):
                explain(around(), images, labels)
        with pytest.raises(ValueError, match=r"images: .* made in torch.inference_mode\(\); clone\(\) it"):
            explain(around(), made, labels)
        with torch.no_grad():
            found = explain(around(), images, labels)
        assert getattr(found, "images", found).isfinite().all()

    @pytest.mark.parametrize("pixel", [1 + 1e-7, -1e-9])
    def test_a_pixel_just_outside(self, pixel, images, labels):
        images[0, 0, 0, 0] = pixel
        with pytest.raises(ValueError, match=str(pixel)):
            simple_gradient(around(), images, labels)

    @pytest.mark.parametrize("explanation", EXPLANATIONS)
    @pytest.mark.parametrize(
        "kind", [torch.Tensor.long, partial(torch.Tensor.to, dtype=torch.complex128), Tensor.tolist]
    )
    def test_what_is_not_logits(self, kind, explanation, images, labels):
        with pytest.raises(TypeError, match="model: expected"):
            EXPLANATIONS[explanation](around(lambda net, x: kind(net(x))), images, labels)

    @pytest.mark.parametrize("explanation", sorted(EXPLANATIONS.keys() - {"Hessian"}))  # which takes a direction too
    @pytest.mark.parametrize(
        ("convert", "message"),
        [
            (Tensor.numpy, "expected a tensor, got ndarray"),
            (Tensor.float, "expected the dtype of the model's weights, torch.float64, got torch.float32"),
            (Tensor.to_sparse, "expected a dense tensor, got torch.sparse_coo"),
            (partial(Tensor.to, device="meta"), "expected a tensor with values"),
        ],
    )
    def test_images_of_another_kind(self, convert, message, explanation, images, labels):
        with pytest.raises((TypeError, ValueError), match=f"images: {message}"):
            EXPLANATIONS[explanation](around(), convert(images), labels)

    @pytest.mark.parametrize("explanation", ["attack", "DeepLIFT", "direction"])
    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (in_inference_mode, "inference_mode"),
            (lambda net, x: torch.cdist(net(x), torch.eye(4, dtype=x.dtype)), "of cdist|no rule for cdist"),
            (lambda net, x: net(x) * float("nan"), r"NaN for every image|S\(x0\) = nan|got NaN"),
        ],
    )
    def test_models_without_derivatives(self, function, message, explanation, images, labels):
        with pytest.raises(ValueError, match=f"model: .*({message})"):
            EXPLANATIONS[explanation](around(function), images, labels)

    @pytest.mark.parametrize("explanation", ["attack", "walk"])
    @pytest.mark.parametrize(
        "change",
        [
            lambda a: a.sum(1),
            lambda a: a.flatten(1),
            lambda a: a[:1],
            lambda a: (a, a),
            lambda a: None,
            Tensor.long,
            lambda a: a.detach().numpy(),
        ],
    )
    def test_what_is_not_an_attribution(self, change, explanation, images, labels):
        with pytest.raises((TypeError, ValueError), match=r"attribution: expected .*\bgot (shape|\w+)"):
            EXPLANATIONS[explanation](
                around(), images, labels, attribution=lambda *arguments: change(simple_gradient(*arguments))
            )

    @pytest.mark.parametrize("explanation", ["integrated gradients", "SmoothGrad"])
    def test_a_model_for_batches_of_one_size(self, explanation, images, labels):
        model, plain = SOUND["batches of two"].double(), around()
        with pytest.raises(ValueError, match=r"takes 2 and fails with others \(shape.*chunk=1"):
            EXPLANATIONS[explanation](model, images, labels)
        for call in (partial(integrated_gradients, steps=6, chunk=1), EXPLANATIONS["attack"], EXPLANATIONS["walk"]):
            torch.manual_seed(0)
            found = call(model, images, labels)
            torch.manual_seed(0)
            expected = call(plain, images, labels)
            torch.testing.assert_close(*[getattr(each, "images", each) for each in (found, expected)])
