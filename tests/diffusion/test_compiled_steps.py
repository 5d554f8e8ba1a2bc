"""What a step computes compiles without a break, and once for all steps, on clouds and on images."""

import itertools

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from pcdiff.diffusion import EpsDenoiser, ancestral_step, discrete_process, predictor, time_grid
from pcdiff.nets import PointwiseNet

PROCESS = discrete_process("linear", 20, 1e-3, 0.3)


class Pixels(nn.Module):
    """A net on images, told of time by a bias."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x, t, cond=None):
        return self.mix(x) + t.to(x.dtype).view(-1, 1, 1, 1)


@pytest.fixture(params=["cloud (B, N, 3)", "image (B, C, H, W)"])
def model(request):
    """Return a denoiser, its condition and a start."""
    torch.manual_seed(0)
    torch.compiler.reset()
    if request.param.startswith("cloud"):
        net, cond, shape = PointwiseNet(4, widths=(8,)), torch.randn(2, 4), (2, 5, 3)
    else:
        net, cond, shape = Pixels(), None, (2, 2, 4, 4)
    return EpsDenoiser(net, PROCESS), cond, torch.randn(shape)


def run(step, x, times):
    """Return the states that `step(x, t, s)` makes over the times."""
    states = []
    for t, s in itertools.pairwise(times):
        x = step(x, t.expand(len(x)), s.expand(len(x)))
        states.append(x)
    return torch.stack(states)


# the default backend's own import of torch.jit
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@torch.no_grad()
def test_one_graph_serves_all_steps(model):
    """Evaluation and ancestral step in one graph, by the default backend."""
    denoiser, cond, start = model
    frozen = torch.randn(start.shape)

    def step(x, t, s):
        return ancestral_step(denoiser, x, t, s, cond, lambda like: frozen)

    times = PROCESS.time_grid(6)
    expected = run(step, start, times)
    compiled = torch.compile(step, fullgraph=True)
    first = compiled(start, times[:1].expand(2), times[1:2].expand(2))
    with torch.compiler.set_stance("fail_on_recompile"):
        made = run(compiled, start, times)
    torch.testing.assert_close(first, expected[0])
    torch.testing.assert_close(made, expected)


@torch.no_grad()
def test_multistep_arithmetic_compiles_once_an_order(model):
    """DPM-Solver++'s update, whose memory grows to the order and no further."""
    denoiser, cond, start = model
    times, order = time_grid(PROCESS, 8, "log_snr"), 3

    def states(wrap):
        solver = predictor("dpmpp", order=order, lower_final=False).begin(PROCESS, times)
        solver.update = wrap(solver.update)
        return run(lambda x, t, s: solver(denoiser, x, t, s, cond, None), start, times)

    counters.clear()
    made = states(lambda update: torch.compile(update, fullgraph=True, backend="eager"))
    # one graph an order, and one for the step to the data, of order 1 with the memory full
    assert counters["stats"]["unique_graphs"] == order + 1
    torch.testing.assert_close(made, states(lambda update: update))
