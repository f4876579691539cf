"""Defenses that steady explanations: training losses, discretised inputs, smoothing, bounded operator norms."""

from fragility.defense.discretization import Discretized as Discretized
from fragility.defense.discretization import discretize as discretize
from fragility.defense.operator_norm import operator_norm as operator_norm
from fragility.defense.operator_norm import operator_norm_loss as operator_norm_loss
from fragility.defense.operator_norm import operator_norm_penalty as operator_norm_penalty
from fragility.defense.operator_norm import parseval_loss as parseval_loss
from fragility.defense.smoothing import smooth_gradient as smooth_gradient
from fragility.defense.smoothing import uniform_gradient as uniform_gradient
from fragility.defense.training import adversarial_loss as adversarial_loss
from fragility.defense.training import ascend as ascend
from fragility.defense.training import curvature_loss as curvature_loss
from fragility.defense.training import ig_norm_loss as ig_norm_loss
from fragility.defense.training import ig_sum_norm_loss as ig_sum_norm_loss
from fragility.defense.training import input_gradient_loss as input_gradient_loss
from fragility.defense.training import robust_attribution_loss as robust_attribution_loss
