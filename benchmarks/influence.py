"""Time 200 x 1,000 influences at 2,048 features and a bias, here and by dattri's conjugate gradients, and compare them.

The same inputs in the same run: seeded features of two overlapping classes, one last layer, double precision. Needs one
package beyond this project's own: `pip install dattri` (tried with 0.3.0). `python -m benchmarks.influence` takes some
minutes on one core; `make bench` measures fewer test images and scales.
"""

import time
from itertools import pairwise

import torch
from dattri.algorithm.influence_function import IFAttributorCG
from dattri.task import AttributionTask
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Row
from fragility.influence.last_layer import LastLayerInfluence

L2, FEATURES = 1e-2, 2048


def compare(tests: int = 200) -> list[Row]:
    """Return how many times faster than dattri, scaled to 200 test images, and the largest difference."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000 + tests) % 2
    features = torch.randn(len(labels), FEATURES, generator=generator, dtype=torch.float64)
    features[:, 0] += 2.0 * labels
    train, test = (features[:1000], labels[:1000]), (features[1000:], labels[1000:])
    times = [time.perf_counter()]
    layer = LastLayerInfluence(*train, l2=L2, num_classes=2)
    times.append(time.perf_counter())
    ours = layer.influence(*test)
    times.append(time.perf_counter())
    model = nn.Linear(FEATURES, 2).double().eval()
    model.load_state_dict({"weight": layer.theta[:, :-1], "bias": layer.theta[:, -1]})

    def loss(parameters: dict[str, torch.Tensor], data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = data  # one example comes without its batch dimension
        return cross_entropy(torch.func.functional_call(model, parameters, (x.reshape(-1, FEATURES),)), y.reshape(-1))

    task = AttributionTask(loss_func=loss, model=model, checkpoints=[model.state_dict()])
    attributor = IFAttributorCG(task=task, max_iter=60, tol=1e-8, regularization=L2)
    training = DataLoader(TensorDataset(*train), batch_size=1000)
    attributor.cache(training)
    theirs = attributor.attribute(training, DataLoader(TensorDataset(*test), batch_size=tests)).T / 1000
    times.append(time.perf_counter())
    fit, influences, seconds = (later - earlier for earlier, later in pairwise(times))
    ratio = 200 / tests * seconds / (fit + 200 / tests * influences)
    error = ((theirs - ours).abs().max() / ours.abs().max()).item()
    name, note = "influence, 200 x 1,000 at p = 2,049: speed over dattri", f"{tests} test images, scaled to 200"
    return [
        Row("peers", name, ratio, "x", ">= 100", f"{note}; ours includes the fit; wall time"),
        Row("peers", "influence: largest difference to dattri", error, "relative", "<= 1e-4"),
    ]


if __name__ == "__main__":
    print(*compare(), sep="\n")
