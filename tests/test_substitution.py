"""The Rescale rule's allow-list, and what it cannot reach."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fragility._rescale import rescale
from fragility._softplus import softplus
from fragility.attribution import deeplift, integrated_gradients, simple_gradient


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
