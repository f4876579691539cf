"""Coarser inputs as a defense, with gradients that an adaptive attack can use."""

import torch
from torch import Tensor, nn

from fragility._checks import check_choice, check_count, check_images
from fragility._derivative import smooth_inputs

ENCODINGS = ("depth", "thermometer")


def discretize(images: Tensor, *, levels: int, encoding: str = "depth") -> Tensor:
    """Round pixels to a few levels, or encode them as thermometers [Buckman2018], [Xu2018].

    A step function has gradient zero, which blinds an attack without stopping it. The backward pass therefore replaces
    it, as backward pass differentiable approximation does [Athalye2018]: rounding by the identity (the straight-through
    estimator [Bengio2013]), thermometer channel l by a ramp from l / levels to (l + 1) / levels.

    Args:
        images: (B, C, H, W) in [0, 1].
        levels: how many values a pixel can take; 2^b for a bit depth of b.
        encoding: `"depth"` rounds to the nearest of `levels` equally spaced values from 0 to 1; `"thermometer"` gives
            levels - 1 channels per channel, the l-th saying whether the pixel exceeds l / levels, l = 1 to levels - 1.

    Returns:
        (B, C, H, W), or (B, C (levels - 1), H, W) with channel c's thermometer in one block.

    Raises:
        ValueError: if there are fewer than two levels or the encoding is unknown.
    """
    if not smooth_inputs():
        check_images(images)
    check_count("levels", levels, least=2)
    check_choice("encoding", encoding, ENCODINGS)
    if encoding == "depth":
        backward = images
        forward = (images.detach() * (levels - 1)).round() / (levels - 1)
    else:
        marks = torch.arange(1, levels, dtype=images.dtype, device=images.device).view(1, 1, -1, 1, 1) / levels
        pixels = images.unsqueeze(2)
        ramp = levels * (pixels - marks)
        backward = (ramp if smooth_inputs() else ramp.clamp(0, 1)).flatten(1, 2)
        forward = (pixels.detach() > marks).to(images.dtype).flatten(1, 2)
    if smooth_inputs():  # a surrogate is being checked, and steps are unknown to its derivatives
        return backward
    return forward + (backward - backward.detach())  # the value of the first, exactly, with the gradient of the second


class Discretized(nn.Module):
    """A network that sees discretised images; differentiable as `discretize` is."""

    def __init__(self, model: nn.Module, *, levels: int, encoding: str = "depth") -> None:
        super().__init__()
        self.model, self.levels, self.encoding = model, levels, encoding
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the discretised images.

        Args:
            images: (B, C, H, W) in [0, 1].

        Returns:
            (B, K).
        """
        # Points on a path, or with noise, may lie outside [0, 1]; a clamp has kinks of its own: none while checked.
        inside = images if smooth_inputs() else images.clamp(0, 1)
        output: Tensor = self.model(discretize(inside, levels=self.levels, encoding=self.encoding))
        return output

    def extra_repr(self) -> str:
        """Show the discretisation in the network's `repr`, and so in its fingerprint.

        Returns:
            For example `levels=4, encoding=depth`.
        """
        return f"levels={self.levels}, encoding={self.encoding}"
