"""PVD's completion from end to end: our loss and clouds against those of PVD's own code."""

from dataclasses import replace

import pytest
import torch
from exact_models import replay
from pvd_files import case_of, close

from pcdiff.models import Completion

pytestmark = pytest.mark.golden
NAME = "pvd/completion"


def test_the_loss_is_pvds(golden):
    case = case_of(golden, NAME)
    model, clouds = case.model(torch.float64), case.clouds("loss/x0", torch.float64)
    assert isinstance(model, Completion)
    model.config = replace(model.config, num_given=case.given)  # which the file does not hold
    drawn = {"t": case.io["loss/t"] + 1, "noise": case.clouds("loss/noise", torch.float64)}
    with torch.no_grad():
        loss = model.eval().loss_terms(clouds, **drawn)["loss"]
    close(loss, case.io["loss/mean_f64"].squeeze(), 1e-7)


@pytest.mark.slow
def test_the_clouds_are_pvds(golden):
    """By the recorded start and noise of every step; PVD's given points stay as they are."""
    case = case_of(golden, NAME)
    model = case.model(torch.float64, "short_schedule").eval()
    start = case.clouds("chain/x_T", torch.float64)
    given = case.clouds("x0", torch.float64)[: len(start), : case.given]
    noise = replay(case.clouds("chain/noise").numpy(), torch.float64)
    made = model.complete(given, case.given + start.shape[1], sampler="kernel", x_init=start, noise=noise)
    assert torch.equal(made[:, : case.given], given)
    close(made, case.clouds("chain/x0_f64", torch.float64), 1e-7)
