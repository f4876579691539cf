"""Substitutions: softplus for every form of ReLU, and the Rescale rule's allow-list."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from conftest import randomise
from fragility._rescale import rescale
from fragility._softplus import active_beta, capture, softplus
from fragility.attribution import deeplift, integrated_gradients, simple_gradient

Z = torch.linspace(-9, 9, 181, dtype=torch.float64)


def smooth(z: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(z * beta, torch.zeros_like(z)) / beta


RELUS = {
    "module": nn.ReLU(),
    "in-place module": nn.ReLU(inplace=True),
    "functional": functional.relu,
    "functional in place": lambda z: functional.relu(z, inplace=True),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": lambda z: z.relu(),
    "method in place": lambda z: z.relu_(),
}


class TestSoftplus:
    @pytest.mark.parametrize("beta", [0.7, 3.0])
    @pytest.mark.parametrize("form", RELUS)
    def test_every_form_of_relu(self, form, beta):
        with softplus(beta):
            result = RELUS[form](Z.clone())
        torch.testing.assert_close(result, smooth(Z, beta), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("form", [form for form in RELUS if "place" in form])
    def test_in_place_is_in_place(self, form):
        z = Z.clone()
        with softplus(2.0):
            result = RELUS[form](z)
        assert result.data_ptr() == z.data_ptr()

    def test_relu6_hardtanh_and_leaky_relu(self):
        beta = 2.0
        expected = {
            nn.ReLU6(): smooth(Z, beta) - smooth(Z - 6, beta),
            nn.Hardtanh(-0.5, 2.0): smooth(Z + 0.5, beta) - smooth(Z - 2.0, beta) - 0.5,
            nn.LeakyReLU(0.2): 0.2 * Z + 0.8 * smooth(Z, beta),
        }
        for module, values in expected.items():
            with softplus(beta):
                torch.testing.assert_close(module(Z), values, rtol=0, atol=1e-13)

    def test_other_activations_are_left_alone(self):
        for function in (torch.tanh, functional.gelu, functional.silu, functional.elu):
            with softplus(2.0):
                inside = function(Z)
            assert torch.equal(inside, function(Z))

    def test_tends_to_relu(self, every_relu, images):
        with softplus(1e6):
            sharp = every_relu(images)
        torch.testing.assert_close(sharp, every_relu(images), rtol=0, atol=1e-5)

    def test_nests_and_restores(self):
        with softplus(1.0):
            with softplus(5.0):
                inner = functional.relu(Z)
            outer = functional.relu(Z)
            assert active_beta() is not None
        assert active_beta() is None
        torch.testing.assert_close(inner, smooth(Z, 5.0))
        torch.testing.assert_close(outer, smooth(Z, 1.0))
        assert torch.equal(functional.relu(Z), Z.clamp(min=0))

    def test_restores_after_an_error(self):
        with pytest.raises(RuntimeError), softplus(1.0):
            raise RuntimeError
        assert active_beta() is None

    def test_capture_re_enters_any_number_of_times(self):
        with softplus(3.0):
            again = capture()
        for _ in range(2):
            with again():
                torch.testing.assert_close(functional.relu(Z), smooth(Z, 3.0))
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


class TestRefusals:
    @pytest.mark.parametrize(
        ("layer", "name"),
        [
            (nn.LayerNorm(8), "layer_norm"),
            (nn.GroupNorm(3, 3), "group_norm"),
            (nn.Hardswish(), "hardswish"),
            (nn.Softmax(1), "softmax"),
            (nn.MultiheadAttention(8, 2), "multi_head_attention_forward"),
        ],
    )
    def test_no_rule_is_named(self, layer, name, images, labels):
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = layer
                self.head = nn.Linear(192, 4)

            def forward(self, x: Tensor) -> Tensor:
                if isinstance(self.layer, nn.MultiheadAttention):
                    x = x.mean(1)
                    x = self.layer(x, x, x, need_weights=False)[0].repeat(1, 3, 1)
                else:
                    x = self.layer(x)
                return self.head(x.flatten(1))

        model = Model().double().eval()
        with pytest.raises(ValueError, match=rf"no rule for .*{name}"):
            deeplift(model, images, labels)
        for attribution in (simple_gradient, integrated_gradients):
            assert attribution(model, images, labels).isfinite().all()

    @pytest.mark.parametrize(
        "nonlinear",
        [
            lambda x: x * x,
            lambda x: x * x.sigmoid(),
            lambda x: 1 / (x + 1),
            lambda x: x.square(),
            lambda x: x.pow(2),
            lambda x: x.detach() + x,
            lambda x: x.clamp(min=0.5),
            lambda x: x * (x > 0.5),
            lambda x: torch.einsum("bchw,bchw->bchw", x, x),
            lambda x: functional.dropout(x, 0.5, training=True),
            lambda x: x.transpose(0, 1).relu().transpose(0, 1),
        ],
    )
    def test_products_and_tricks(self, nonlinear, images, labels):
        class Model(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return nonlinear(x).mean(3).flatten(1)

        with pytest.raises(ValueError, match="model: "):
            deeplift(Model().eval(), images, labels)

    def test_constants_may_multiply(self, images, labels):
        class WeightNormed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.direction = nn.Parameter(torch.randn(4, 192, dtype=torch.float64))
                self.length = nn.Parameter(torch.ones(4, 1, dtype=torch.float64))

            def forward(self, x: Tensor) -> Tensor:
                weight = self.length * self.direction / self.direction.norm(dim=1, keepdim=True)
                return functional.linear(2 * x.flatten(1) / torch.ones_like(x).sum((1, 2, 3))[:, None], weight)

        model = WeightNormed().eval()
        difference = (model(images) - model(torch.zeros_like(images))).gather(1, labels[:, None]).flatten()
        torch.testing.assert_close(deeplift(model, images, labels).sum((1, 2, 3)), difference)

    def test_torchscript_and_compiled_models(self, every_relu, images, labels):
        with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
            scripted = torch.jit.trace(every_relu, images)
        compiled = torch.compile(every_relu, backend="eager")
        for model, kind in ((scripted, "TorchScript"), (compiled, "compiled"), (nn.Sequential(scripted), "'0'")):
            model.eval()
            with pytest.raises(TypeError, match=kind):
                deeplift(model, images, labels)
            with softplus(1.0), pytest.raises(TypeError, match=kind):
                simple_gradient(model, images, labels)
        expected = simple_gradient(every_relu, images, labels)
        torch.testing.assert_close(simple_gradient(scripted, images, labels), expected)

    def test_batch_that_is_no_stack(self):
        with rescale(), pytest.raises(ValueError, match="expected a stacked batch"):
            functional.relu(torch.rand(4, 2, requires_grad=True) * 2)


def test_rescale_needs_no_wrapper(every_relu, images, labels, baseline):
    """The context alone is DeepLIFT: the multipliers do not depend on the third part of the batch."""
    multipliers = []
    for seed in (0, 1):
        t = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        t.requires_grad_()
        stacked = torch.cat([images, baseline, t])
        with rescale():
            scores = every_relu(stacked)[4:].gather(1, labels[:, None])
        multipliers.append(torch.autograd.grad(scores.sum(), t)[0])
    torch.testing.assert_close(multipliers[0], multipliers[1], rtol=1e-12, atol=1e-13)
    expected = deeplift(every_relu, images, labels, baseline=baseline)
    torch.testing.assert_close(multipliers[0] * (images - baseline), expected, rtol=1e-12, atol=1e-13)


def test_randomise_leaves_no_zero_bias(every_relu):
    assert all(parameter.abs().min() > 0 for parameter in randomise(every_relu).parameters())
