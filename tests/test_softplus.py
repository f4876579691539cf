"""Softplus for every kink: closed forms for all spellings, guards left alone, and where no mode reaches by itself.

More kinds of layers are those of test_random_networks.py.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fragility._convolution import twice_differentiable
from fragility._softplus import SoftplusNetwork, active_beta, capture, softplus
from fragility.attribution import simple_gradient

Z = torch.linspace(-9, 9, 181, dtype=torch.float64)


def smooth(z: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(z * beta, torch.zeros_like(z)) / beta


def bounded(z: Tensor, beta: float, low: float, high: float) -> Tensor:
    return smooth(z - low, beta) - smooth(z - high, beta) + low


def leaky(z: Tensor, beta: float, slope: float) -> Tensor:
    return slope * z + (1 - slope) * smooth(z, beta)


def assigned(z: Tensor) -> Tensor:
    z.masked_fill_(z < 0, 0)
    return z


def gated(z: Tensor) -> Tensor:
    z *= z > 0
    return z


RELUS = {
    "module": nn.ReLU(),
    "in-place module": nn.ReLU(inplace=True),
    "functional": F.relu,
    "functional in place": lambda z: F.relu(z, inplace=True),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": lambda z: z.relu(),
    "method in place": lambda z: z.relu_(),
    "aten": torch.ops.aten.relu.default,
    "clamp": lambda z: z.clamp(min=0),
    "clamp by position": lambda z: torch.clamp(z, 0.0),
    "clamp in place": lambda z: z.clamp_(0),
    "clamp by a tensor": lambda z: z.clamp(min=torch.zeros_like(z)),
    "clamp_min": lambda z: torch.clamp_min(z, 0),
    "clip": lambda z: torch.clip(z, min=0),
    "maximum": lambda z: torch.maximum(z, torch.zeros_like(z)),
    "maximum, the other way round": lambda z: torch.maximum(torch.tensor(0.0), z),
    "max": lambda z: z.max(torch.zeros(())),
    "fmax": lambda z: torch.fmax(z, torch.zeros(1)),
    "minus minimum": lambda z: -torch.minimum(-z, torch.zeros_like(z)),
    "where": lambda z: torch.where(z > 0, z, 0),
    "where not": lambda z: torch.where(z <= 0, torch.zeros_like(z), z),
    "where, a method": lambda z: z.where(z.ge(0), 0.0),
    "where of a detached comparison": lambda z: torch.where(z.detach() > 0, z, 0),
    "masked_fill": lambda z: z.masked_fill(~(z > 0), 0.0),
    "masked_fill in place": assigned,
    "product": lambda z: z * (z > 0),
    "product with a float": lambda z: (z > 0).to(z) * z,
    "product in place": gated,
    "threshold": lambda z: F.threshold(z, 0.0, 0.0),
    "threshold in place": lambda z: F.threshold_(z, 0.0, 0.0),
    "threshold module": nn.Threshold(0, 0),
    "half of abs": lambda z: (z + z.abs()) / 2,
}

LEAKY = {
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "maximum": lambda z: torch.maximum(z, 0.2 * z),
    "where": lambda z: torch.where(z > 0, z, 0.2 * z),
    "where, divided": lambda z: torch.where(z < 0, z / 5, z),
    "prelu": lambda z: F.prelu(z, torch.tensor([0.2], dtype=z.dtype)),
    "rrelu": lambda z: F.rrelu(z, 0.1, 0.3),
    "difference": lambda z: z.clamp(min=0) + 0.2 * z.clamp(max=0),
}

OTHERS = {
    "clamp to 6": (lambda z: z.clamp(0, 6), lambda z, beta: bounded(z, beta, 0, 6)),
    "hard sigmoid by hand": (lambda z: F.relu6(z + 3) / 6, lambda z, beta: bounded(z + 3, beta, 0, 6) / 6),
    "threshold at 2": (lambda z: F.threshold(z, 2.0, 2.0), lambda z, beta: 2 + smooth(z - 2, beta)),
    "minimum of two layers": (lambda z: torch.min(2 * z, 1 - z), lambda z, beta: 2 * z - smooth(3 * z - 1, beta)),
    "SELU": (
        torch.selu,
        lambda z, beta: 1.0507009873554805 * (1.6732632423543772 * (F.elu(z) - smooth(z, beta)) + smooth(z, beta)),
    ),
}

SMOOTH_ALREADY = (torch.tanh, F.gelu, F.silu, F.elu, F.celu, F.softplus, F.softsign, torch.sigmoid)

GUARDS = {
    "the image's range": lambda z: z.clamp(0, 1),
    "a floor above 0": lambda z: z.clamp(min=1e-6),
    "a logit's range": lambda z: z.clamp(-10, 10),
    "no division by 0": lambda z: torch.where(z > 0, z, 1.0),
    "largest of a dimension": lambda z: z.max(1, keepdim=True).values,
    "indices": lambda z: torch.where(z > 0)[0].to(z),
}


class Layer(nn.Module):
    """The identity, as a layer with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z[:, None], self.weight)


@pytest.fixture
def z() -> Tensor:
    return Z[:, None]


def after_a_layer(form, beta: float, values: Tensor = Z) -> Tensor:
    layer = Layer()
    with softplus(beta):
        return form(layer(values))


class TestSpellings:
    @pytest.mark.parametrize("beta", [0.7, 3.0])
    @pytest.mark.parametrize("form", RELUS)
    def test_relu(self, form, beta, z):
        torch.testing.assert_close(after_a_layer(RELUS[form], beta), smooth(z, beta), rtol=0, atol=1e-14)
        assert torch.equal(RELUS[form](Layer()(Z)), F.relu(z))

    @pytest.mark.parametrize("form", LEAKY)
    def test_leaky_relu(self, form, z):
        torch.testing.assert_close(after_a_layer(LEAKY[form], 2.0), leaky(z, 2.0, 0.2), rtol=0, atol=1e-13)
        torch.testing.assert_close(LEAKY[form](Layer()(Z)), F.leaky_relu(z, 0.2), rtol=0, atol=1e-15)

    @pytest.mark.parametrize("form", OTHERS)
    def test_other_kinks(self, form, z):
        function, expected = OTHERS[form]
        torch.testing.assert_close(after_a_layer(function, 2.0), expected(z, 2.0), rtol=0, atol=1e-13)
        torch.testing.assert_close(function(Layer()(Z)), expected(z, 1e9), rtol=0, atol=1e-8)

    def test_prelu_has_a_slope_per_channel(self):
        slopes, maps = torch.tensor([0.1, 0.5, -1.0], dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
        with softplus(2.0):
            found = F.prelu(maps, slopes)
        torch.testing.assert_close(found, leaky(maps, 2.0, slopes.view(3, 1, 1)), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("function", SMOOTH_ALREADY)
    def test_what_is_smooth_is_left_alone(self, function, z):
        torch.testing.assert_close(after_a_layer(function, 2.0), function(z), rtol=0, atol=0)

    @pytest.mark.parametrize("guard", GUARDS)
    def test_guards_are_left_alone(self, guard, z):
        torch.testing.assert_close(after_a_layer(GUARDS[guard], 2.0), GUARDS[guard](z), rtol=0, atol=0)

    @pytest.mark.parametrize("form", [form for form in RELUS if "place" not in form and "threshold" not in form])
    def test_before_any_layer_only_activations_by_name_change(self, form):
        with softplus(2.0):
            found = RELUS[form](Z)
        named = form in ("module", "functional", "torch", "method", "aten")
        assert torch.equal(found, F.relu(Z)) != named

    def test_parameters_are_no_activations(self):
        weight = nn.Parameter(Z.clone())
        with softplus(2.0):
            clamped = (2 * weight).clamp(min=0)
        assert torch.equal(clamped, F.relu(2 * weight))

    def test_a_comparison_that_is_out_of_date_means_nothing(self, z):
        def form(values: Tensor) -> Tensor:
            gate = values > 0
            values += 1
            return torch.where(gate, values, 0)

        assert torch.equal(after_a_layer(form, 2.0), torch.where(z > 0, z + 1, 0))

    @pytest.mark.parametrize("form", [form for form in RELUS if "place" in form])
    def test_in_place_is_in_place(self, form):
        layer = Layer()
        with softplus(2.0):
            values = layer(Z)
            result = RELUS[form](values)
        assert result.data_ptr() == values.data_ptr()

    @pytest.mark.parametrize("form", [*RELUS, *LEAKY])
    def test_derivatives_of_both_orders(self, form):
        z, expected = Z.clone().requires_grad_(), smooth if form in RELUS else lambda z, beta: leaky(z, beta, 0.2)
        results = []
        for value in (after_a_layer(RELUS.get(form) or LEAKY[form], 2.0, z)[:, 0], expected(z, 2.0)):
            (first,) = torch.autograd.grad(value.sum(), z, create_graph=True)
            results.append((first, *torch.autograd.grad(first.sum(), z)))
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-13)

    def test_threshold_that_jumps(self):
        with pytest.raises(ValueError, match=r"threshold\(1, 0\) jumps"):
            after_a_layer(lambda z: F.threshold(z, 1.0, 0.0), 2.0)

    def test_rrelu_in_training_mode(self):
        with pytest.raises(ValueError, match="RReLU draws its slopes"):
            after_a_layer(lambda z: F.rrelu(z, training=True), 2.0)


class TestContext:
    def test_nests_and_restores(self):
        with softplus(1.0):
            with softplus(5.0):
                inner = F.relu(Z)
            outer = F.relu(Z)
            assert active_beta() is not None
        assert active_beta() is None
        torch.testing.assert_close(inner, smooth(Z, 5.0))
        torch.testing.assert_close(outer, smooth(Z, 1.0))
        assert torch.equal(F.relu(Z), Z.clamp(min=0))

    def test_restores_after_an_error(self):
        with pytest.raises(RuntimeError), softplus(1.0):
            raise RuntimeError
        assert active_beta() is None

    def test_capture_re_enters_any_number_of_times(self):
        with softplus(3.0):
            again = capture()
        for _ in range(2):
            with again():
                torch.testing.assert_close(F.relu(Z), smooth(Z, 3.0))
        with capture()():
            assert active_beta() is None

    def test_forward_over_reverse_is_double_backward(self, every_relu, images):
        direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

        def score(x: Tensor) -> Tensor:
            return every_relu(x)[:, 0].sum()

        with softplus(2.0):
            _, forward = torch.func.jvp(torch.func.grad(score), (images,), (direction,))
            x = images.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(score(x), x, create_graph=True)
            (backward,) = torch.autograd.grad(gradient, x, direction)
        torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
    def test_bad_beta(self, beta):
        with pytest.raises(ValueError, match="beta: expected a finite number > 0"):
            softplus(beta)


class Checkpointed(nn.Module):
    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body[4:](checkpoint(self.body[:4], x, use_reentrant=False))


class TestReach:
    def test_a_checkpoint_computes_its_part_again_as_before(self, stacked, images, labels):
        body = stacked(nn.ReLU())
        x = images.clone().requires_grad_()
        found = []
        for model in (Checkpointed(body).eval(), body):
            with softplus(5.0):
                first = simple_gradient(model, x, labels)
                found.append((first, *torch.autograd.grad(first.square().sum(), x)))
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)

    def test_a_checkpoint_computed_again_outside_is_noticed(self, stacked, images):
        logits = SoftplusNetwork(Checkpointed(stacked(nn.ReLU())).eval(), 5.0)(images.requires_grad_())
        with pytest.raises(RuntimeError, match="A different number of tensors was saved"):
            logits.sum().backward()

    def test_exported_and_traced_graphs(self, stacked, images):
        model = stacked(nn.Hardswish())
        with softplus(2.0):
            expected = model(images)
        for copy in (torch.export.export(model, (images,)).module(), torch.fx.symbolic_trace(model)):
            with softplus(2.0):
                torch.testing.assert_close(copy(images), expected)

    def test_vmap(self, stacked, images):
        model = stacked(nn.ReLU())
        with softplus(2.0):
            torch.testing.assert_close(torch.vmap(lambda x: model(x[None])[0])(images), model(images))

    def test_derivatives_inside_vmap(self):
        z = Z.clone().requires_grad_()
        with softplus(2.0):
            value = torch.vmap(F.relu)(z)
            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), z)
        gate = torch.sigmoid(2 * Z)
        for found, expected in ((value, smooth(Z, 2.0)), (slope, gate), (bend, 2 * gate * (1 - gate))):
            torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-14)

    def test_a_convolution_with_fixed_weights_is_no_layer_for_any_mode(self, images):
        """What comes after it is a guard: with frozen weights and without, with gradients and without."""
        blur = torch.full((3, 1, 3, 3), 1 / 9, dtype=images.dtype)
        expected = F.conv2d(images, blur, groups=3).clamp(0, 1)
        for points in (images, images.clone().requires_grad_()):
            with softplus(3.0), twice_differentiable():
                assert torch.equal(F.conv2d(points, blur, groups=3).clamp(0, 1), expected)

    def test_without_gradients(self, stacked, images):
        model = stacked(nn.Threshold(0, 0))
        expected = SoftplusNetwork(model, 2.0)(images)
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                torch.testing.assert_close(SoftplusNetwork(model, 2.0)(images), expected)
