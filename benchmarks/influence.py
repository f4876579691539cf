"""Time 200 x 1,000 influences at 2,048 features and a bias, here and by dattri's conjugate gradients, and compare them.

The same inputs in the same run: seeded features of two overlapping classes, one last layer, double precision. Needs one
package beyond this project's own: `pip install dattri` (tried with 0.3.0). Some minutes on one core; `--tests 5` for a
quick look. Exit status 1 unless the two agree to a relative 1e-4.
"""

import argparse
import sys
import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from fragility.influence.last_layer import LastLayerInfluence

try:
    from dattri.algorithm.influence_function import IFAttributorCG
    from dattri.task import AttributionTask
except ImportError as error:
    sys.exit(f"{error}. This benchmark compares with dattri: pip install dattri")

L2 = 1e-2

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--tests", type=int, default=200, help="number of test images")
parser.add_argument("--features", type=int, default=2048, help="number of features, without the bias")
arguments = parser.parse_args()

generator = torch.Generator().manual_seed(0)
labels = torch.arange(1000 + arguments.tests) % 2
features = torch.randn(len(labels), arguments.features, generator=generator, dtype=torch.float64)
features[:, 0] += 2.0 * labels
train, test = (features[:1000], labels[:1000]), (features[1000:], labels[1000:])

start = time.perf_counter()
layer = LastLayerInfluence(*train, l2=L2, num_classes=2)
fitted = time.perf_counter()
mine = layer.influence(*test)
done = time.perf_counter()
print(
    f"{arguments.tests} x 1000 influences, p = {layer.theta.shape[1]}, l2 = {L2:g}, {torch.get_num_threads()} thread(s)"
)
print(f"fragility ({layer.form}): fit {fitted - start:.2f} s, influences {done - fitted:.3f} s", flush=True)

model = nn.Linear(arguments.features, 2).double().eval()
model.load_state_dict({"weight": layer.theta[:, :-1], "bias": layer.theta[:, -1]})


def loss(parameters: dict[str, torch.Tensor], data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The mean cross entropy, as dattri wants it; one example comes without its batch dimension."""
    x, y = data
    logits = torch.func.functional_call(model, parameters, (x.reshape(-1, arguments.features),))
    return cross_entropy(logits, y.reshape(-1))


task = AttributionTask(loss_func=loss, model=model, checkpoints=[model.state_dict()])
attributor = IFAttributorCG(task=task, max_iter=60, tol=1e-8, regularization=L2)
training = DataLoader(TensorDataset(*train), batch_size=1000)
start = time.perf_counter()
attributor.cache(training)
theirs = attributor.attribute(training, DataLoader(TensorDataset(*test), batch_size=arguments.tests)).T / 1000
seconds = time.perf_counter() - start
error = ((theirs - mine).abs().max() / mine.abs().max()).item()
print(f"dattri, conjugate gradients: {seconds:.1f} s, given the fitted layer")
print(f"largest difference, relative to the largest influence: {error:.1e}")
sys.exit(not error < 1e-4)
