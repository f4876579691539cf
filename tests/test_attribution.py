"""Attributions: sums, second derivatives by finite differences, Captum where it is right, bad input."""

from contextlib import nullcontext

import captum.attr
import pytest
import torch
import torchvision.models
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import randomise, scores, second_derivative_error, total
from fragility._checks import trusting
from fragility.attribution import ATTRIBUTIONS, deeplift, importance, integrated_gradients, simple_gradient
from fragility.surrogate import softplus

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "leaky relu": nn.LeakyReLU(0.1),
    "hard tanh": nn.Hardtanh(-0.7, 0.9),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu, tanh": nn.GELU(approximate="tanh"),
    "softplus": nn.Softplus(beta=3.0),
}


METHODS = ("simple_gradient", "integrated_gradients", "deeplift")  # LRP has no rule for batch norms

CHANGES = {
    "the mode of the model": lambda model: model.train(),
    "the mode of norm": lambda model: model.norm.train(),
    "third.weight": lambda model: model.third.weight.data.mul_(1.5),
    "first.bias": lambda model: model.first.load_state_dict({"weight": model.first.weight, "bias": torch.zeros(6)}),
    "head.weight": lambda model: setattr(model, "head", nn.Linear(8, 4).double()),
    "norm.running_mean": lambda model: model.norm.running_mean.add_(0.1),
}


class TestSimpleGradient:
    def test_finite_differences(self, every_relu, images, labels):
        gradient = simple_gradient(every_relu, images, labels)
        direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        h = 1e-7
        slope = scores(every_relu, images + h * direction, labels) - scores(every_relu, images - h * direction, labels)
        torch.testing.assert_close(total(gradient * direction), slope / (2 * h), rtol=1e-6, atol=1e-7)


class TestIntegratedGradients:
    @pytest.mark.parametrize("chunk", [1, 3, 7, 50])
    def test_chunks_do_not_matter(self, every_relu, images, labels, chunk):
        results = []
        for size in (None, chunk):
            x = images.clone().requires_grad_()
            with softplus(2.0):
                attributions = integrated_gradients(every_relu, x, labels, steps=7, chunk=size)
            results += [attributions.detach(), torch.autograd.grad(attributions.square().sum(), x)[0]]
        torch.testing.assert_close(results[0], results[2], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(results[1], results[3], rtol=1e-12, atol=1e-14)

    def test_two_passes_equal_one_graph(self, every_relu, images, labels, baseline):
        """Second derivative by images *and* by parameters, against plain autograd through the whole sum."""
        parameters = list(every_relu.parameters())

        def one_graph(x: Tensor) -> Tensor:
            gradients = [
                torch.autograd.grad(
                    scores(every_relu, baseline + k / 5 * (x - baseline), labels).sum(), x, create_graph=True
                )[0]
                * (5 / k)
                for k in range(1, 6)
            ]
            return (x - baseline) * sum(gradients) / 5

        derivatives = []
        for method in (one_graph, lambda x: integrated_gradients(every_relu, x, labels, baseline=baseline, steps=5)):
            x = images.clone().requires_grad_()
            with softplus(2.0):
                maps = importance(method(x))
            derivatives.append(torch.autograd.grad((maps**2).sum(), [x, *parameters], materialize_grads=True))
        for ours, expected in zip(derivatives[1], derivatives[0], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-13)

    def test_backward_outside_the_substitution_and_twice(self, every_relu, images, labels):
        x = images.clone().requires_grad_()
        with softplus(2.0):
            inside = torch.autograd.grad(integrated_gradients(every_relu, x, labels, steps=3).norm(), x)[0]
            norm = integrated_gradients(every_relu, x, labels, steps=3).norm()
        for _ in range(2):
            torch.testing.assert_close(torch.autograd.grad(norm, x, retain_graph=True)[0], inside, rtol=0, atol=0)

    def test_graphs_kept_do_not_grow_with_steps(self, every_relu, images, labels):
        """How many passes the second derivative takes: all but the last eight points of an image are computed anew."""
        passes = []
        every_relu.register_forward_hook(lambda *_: passes.append(1))
        for steps, forward, backward in ((8, 1, 0), (10, 2, 1), (100, 13, 12)):
            x = images[:1].clone().requires_grad_()
            passes.clear()
            with trusting(every_relu):  # the two passes that look for neighbours' influence do not count
                norm = integrated_gradients(every_relu, x, labels[:1], steps=steps).norm()
            assert len(passes) == forward
            norm.backward()
            assert len(passes) == forward + backward

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("steps", [2, 9])  # all graphs are kept, or not
    def test_a_model_changed_before_backward_is_refused(self, change, steps, every_relu, images, labels):
        norm = integrated_gradients(every_relu, images.requires_grad_(), labels, steps=steps).norm()
        CHANGES[change](every_relu)
        mean = every_relu.norm.running_mean.clone()
        with pytest.raises(ValueError, match=f"model: .*{change}.* changed in between"):
            norm.backward()
        assert torch.equal(every_relu.norm.running_mean, mean)

    def test_a_model_that_computes_something_else_is_refused(self, every_relu, images, labels):
        norm = integrated_gradients(every_relu, images.requires_grad_(), labels, steps=9).norm()
        every_relu.pool.stride = 3
        with pytest.raises(ValueError, match="what it computes changed in between"):
            norm.backward()

    def test_backward_outside_of_autocast(self, every_relu, images, labels):
        model, results = every_relu.float(), []
        for inside in (True, False):
            x = images.float().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16):
                norm = integrated_gradients(model, x, labels, steps=9).norm()
                if inside:
                    norm.backward()
            if not inside:
                norm.backward()
            results.append(x.grad)
        assert torch.equal(*results)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_summed_up_in_float32(self, dtype, images, labels):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).to(dtype).eval()
        x = images.to(dtype)
        weights = model[1].weight.detach()[labels].view_as(x)
        attributions = integrated_gradients(model, x, labels, steps=1000)
        torch.testing.assert_close(attributions, weights * x, rtol=torch.finfo(dtype).eps, atol=0)

    def test_attributions_and_convergence_delta_are_captums(self, every_relu, images, labels, baseline):
        options = {"n_steps": 7, "method": "riemann_right", "return_convergence_delta": True}
        theirs = captum.attr.IntegratedGradients(every_relu).attribute(images, baseline, labels, **options)
        options = {"baseline": baseline, "steps": 7}
        ours = integrated_gradients(every_relu, images, labels, **options, return_convergence_delta=True)
        # Captum computes the positions on the path in float32.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)
        assert torch.equal(ours[0], integrated_gradients(every_relu, images, labels, **options))


class TestDeepLift:
    @pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "mobilenet_v2", "densenet121", "googlenet"])
    @pytest.mark.parametrize("beta", [None, 2.0])
    def test_sums_to_the_difference_on_real_architectures(self, name, beta):
        options = {"init_weights": False} if name == "googlenet" else {}
        model = getattr(torchvision.models, name)(weights=None, **options)
        for module in model.modules():  # alive at random weights, with biases
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=torch.Generator().manual_seed(0))
        model = model.double().eval()
        generator = torch.Generator().manual_seed(1)
        x, x0 = torch.rand(2, 1, 3, 40, 40, generator=generator, dtype=torch.float64)
        with softplus(beta) if beta else nullcontext():
            labels = (model(x) - model(x0)).abs().argmax(1)  # SqueezeNet's last ReLU leaves some classes at zero
            gap = scores(model, x, labels) - scores(model, x0, labels)
            attributions = deeplift(model, x, labels, baseline=x0)
        error = (total(attributions) - gap).abs() / gap.abs()
        assert error.max() < 1e-10, (error, gap)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-9])
    def test_sums_for_every_activation(self, stacked, activation, distance, images, labels, baseline):
        """Also where activations hardly differ: against the derivative, which needs no difference of scores."""
        model = stacked(ACTIVATIONS[activation])
        near = baseline + distance * (images - baseline)
        attributions = deeplift(model, near, labels, baseline=baseline)
        gap = scores(model, near, labels) - scores(model, baseline, labels)
        assert (total(attributions) - gap).abs().max() < 1e-13
        if distance < 1e-6:
            gradient = simple_gradient(model, baseline, labels)
            torch.testing.assert_close(attributions, gradient * (near - baseline), rtol=1e-5, atol=1e-16)

    def test_small_activations(self, every_relu, images, labels, baseline):
        """No absolute threshold: a network whose activations are tiny sums just as well."""
        with torch.no_grad():
            every_relu.first.weight *= 1e-9
            every_relu.first.bias *= 1e-9
            for module in (every_relu.second, every_relu.third, every_relu.norm):
                module.bias.zero_()
            every_relu.norm.running_mean.zero_()
            every_relu.head.bias.zero_()
        gap = scores(every_relu, images, labels) - scores(every_relu, baseline, labels)
        attributions = deeplift(every_relu, images, labels, baseline=baseline)
        torch.testing.assert_close(total(attributions), gap, rtol=1e-10, atol=0)

    def test_one_layer_by_hand(self):
        """The secants of relu at kinks crossed, not crossed and touched."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1)).double().eval()
        with torch.no_grad():
            model[1].weight[:] = torch.tensor([[2.0], [-2.0], [1.0], [-1.0], [1.0]])
            model[1].bias[:] = torch.tensor([-1.0, 1.0, 0.0, -3.0, -0.25])
            model[3].weight[:] = torch.tensor([[1.0, 10.0, 100.0, 1000.0, 10000.0]])
        x, x0 = torch.full((1, 1, 1, 1), 0.75).double(), torch.full((1, 1, 1, 1), 0.25).double()
        # relu goes 0 -> .5, .5 -> 0, .25 -> .75, 0 -> 0, 0 -> .5 over a run of .5
        expected = 0.5 * 1 - 0.5 * 10 + 0.5 * 100 + 0 + 0.5 * 10000
        assert deeplift(model, x, torch.tensor([0]), baseline=x0).item() == pytest.approx(expected, rel=1e-14)

    def test_as_captum_where_captum_is_right(self, images, labels, baseline):
        # Captum 0.9 misses the sum wherever there is a max-pool.
        model = randomise(
            nn.Sequential(
                nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 5, 2), nn.Sigmoid(), nn.Flatten()
            )
        )
        model.append(nn.Linear(20, 4).double()).eval()
        with pytest.warns(UserWarning, match="Setting forward, backward hooks"):
            expected = captum.attr.DeepLift(model).attribute(images.requires_grad_(), baseline, labels)
        ours = deeplift(model, images, labels, baseline=baseline)
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)


class TestSecondDerivatives:
    @pytest.mark.parametrize("method", METHODS)
    def test_surrogate_of_every_form_of_relu(self, method, every_relu, images, labels, baseline):
        options = {"simple_gradient": {}, "deeplift": {"baseline": baseline}}
        options["integrated_gradients"] = {"baseline": baseline, "steps": 5}  # few kinks of the max-pools on the path
        options = options[method]
        error = second_derivative_error(ATTRIBUTIONS[method], every_relu, images, labels, 2.0, **options)
        assert error < 1e-7

    @pytest.mark.parametrize("activation", ["sigmoid", "tanh", "silu", "gelu", "gelu, tanh", "softplus"])
    def test_deeplift_near_its_reference(self, stacked, activation, images, labels, baseline):
        """Where secants turn into slopes."""
        model = stacked(ACTIVATIONS[activation])
        near = baseline.clamp(0.1, 0.9) + 0.02 * (images - 0.5)
        error = second_derivative_error(deeplift, model, near, labels, None, baseline=baseline.clamp(0.1, 0.9))
        assert error < 1e-6

    @pytest.mark.parametrize("method", [integrated_gradients, deeplift])
    def test_a_third_one_is_refused(self, method, every_relu, images, labels):
        x = images.clone().requires_grad_()
        with softplus(2.0):
            norm = method(every_relu, x, labels).square().sum()
            (gradient,) = torch.autograd.grad(norm, x, create_graph=True)
            with pytest.raises(RuntimeError, match="once_differentiable"):
                gradient.sum().backward()

    @pytest.mark.parametrize("method", ATTRIBUTIONS)
    def test_graph_exactly_when_images_require_it(self, method, stacked, images, labels):
        model = stacked(nn.ReLU())
        assert not ATTRIBUTIONS[method](model, images, labels).requires_grad
        with torch.no_grad():
            assert not ATTRIBUTIONS[method](model, images, labels).requires_grad
        assert ATTRIBUTIONS[method](model, images.requires_grad_(), labels).requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())


class TestImportance:
    def test_by_hand(self):
        attributions = torch.tensor([[[[1.0, -2.0]], [[-3.0, 2.0]]]])
        assert importance(attributions).tolist() == [[[0.5, 0.5]]]

    @given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(0, 9))
    @settings(max_examples=50, deadline=None)
    def test_sums_to_one(self, b, c, h, w, seed):
        attributions = torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        maps = importance(attributions)
        assert maps.shape == (b, h, w)
        assert (maps >= 0).all()
        torch.testing.assert_close(maps.sum((1, 2)), torch.ones(b, dtype=torch.float64))

    @pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
    def test_rows_without_importance_are_named(self, value):
        attributions = torch.ones(4, 1, 2, 2)
        attributions[1], attributions[3] = value, value
        with pytest.raises(ValueError, match=r"attributions: .* rows \[1, 3\]"):
            importance(attributions)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_finite_half_precision_has_a_finite_map(self, dtype):
        attributions = torch.full((1, 3, 200, 200), torch.finfo(dtype).max, dtype=dtype) / 4
        maps = importance(attributions if dtype == torch.float16 else attributions * 1e-30)
        torch.testing.assert_close(maps, torch.full((1, 200, 200), 1 / 40000), rtol=1e-5, atol=0)

    def test_wrong_type_and_shape(self):
        with pytest.raises(TypeError, match="attributions: expected a floating-point tensor"):
            importance(torch.ones(1, 1, 2, 2, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"attributions: expected shape \(B, C, H, W\)"):
            importance(torch.ones(1, 2, 2))


@pytest.mark.parametrize("method", [integrated_gradients, deeplift])
class TestBaseline:
    def test_number_tensor_and_none_agree(self, method, every_relu, images, labels):
        expected = method(every_relu, images, labels, baseline=torch.full_like(images, 0.25))
        for baseline in (0.25, torch.tensor(0.25), torch.full((3, 1, 1), 0.25), torch.full((1, 1, 8, 8), 0.25)):
            assert torch.equal(method(every_relu, images, labels, baseline=baseline), expected)
        assert torch.equal(method(every_relu, images, labels), method(every_relu, images, labels, baseline=0.0))

    def test_wrong_shape_and_nan(self, method, every_relu, images, labels):
        with pytest.raises(ValueError, match="baseline: expected a shape broadcastable"):
            method(every_relu, images, labels, baseline=torch.zeros(5, 1, 1))
        with pytest.raises(ValueError, match="baseline: expected finite values"):
            method(every_relu, images, labels, baseline=float("nan"))


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("chunk", -1)])
def test_bad_counts(name, value, every_relu, images, labels):
    with pytest.raises(ValueError, match=f"{name}: expected an integer >= 1, got {value}"):
        integrated_gradients(every_relu, images, labels, **{name: value})


def test_vanishing_differences_have_finite_derivatives(every_relu, images, labels):
    """Differences near the smallest float, as a sharp softplus makes them, give no inf - inf."""
    model, x = every_relu.float(), images.float().requires_grad_()
    with torch.no_grad():
        for module in (model.first, model.second):
            module.bias -= 6.0
    with softplus(12.0):
        maps = importance(deeplift(model, x, labels))
        (gradient,) = torch.autograd.grad(maps.square().sum(), x)
    assert gradient.isfinite().all()
