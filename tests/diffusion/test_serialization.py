"""Processes and denoisers go through JSON and come back the same, to the bit."""

import json

import pytest
import torch
from refusals import refused

from pcdiff import diffusion
from pcdiff.diffusion import (
    PARAMETRIZATIONS,
    VE,
    VP,
    DiscreteProcess,
    EDMProcess,
    NetDenoiser,
    NoiseLevels,
    Process,
    RectifiedFlow,
    SubVP,
    cosine_betas,
    denoiser_from_dict,
    denoiser_to_dict,
    geometric_sigmas,
    parametrization,
    process_from_dict,
    process_to_dict,
)
from pcdiff.errors import InputError, UnknownName

CHAIN = DiscreteProcess(cosine_betas(7))
PROCESSES = {
    "vp": VP(0.3, 7.1, 50),
    "subvp": SubVP(0.2, 9.7, 60),
    "ve": VE(0.07, 31.3, 11),
    "rectified_flow": RectifiedFlow(13),
    "edm": EDMProcess(0.003, 61.7, 19),
    "betas": DiscreteProcess(torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))),
    "float32 betas": DiscreteProcess(torch.linspace(1e-4, 0.1, 9)),
    "sigmas": NoiseLevels(geometric_sigmas(3.3, 0.01, 5)),
    "respaced": CHAIN.respaced(torch.tensor([1, 4, 7])),
    "respaced twice": CHAIN.respaced(torch.tensor([1, 4, 6, 7])).respaced(torch.tensor([2, 4])),
}


def through_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", PROCESSES)
def test_processes_come_back(name):
    process = PROCESSES[name]
    again = process_from_dict(through_json(process_to_dict(process)))
    assert type(again) is type(process)
    chain = process.num_steps is not None
    t = torch.arange(1, process.num_steps + 1) if chain else torch.linspace(0.1, 0.9, 5) * process.T
    for method in ("alpha", "sigma", "diffusion", "position"):
        assert torch.equal(getattr(again, method)(t), getattr(process, method)(t)), method
    assert (again.T, again.num_scales, again.train_eps, again.sample_eps) == (
        process.T,
        process.num_scales,
        process.train_eps,
        process.sample_eps,
    )
    for (parent, asked), (other, also) in ((process.trained_at(t), again.trained_at(t)),):
        assert torch.equal(asked, also)
        assert torch.equal(parent.sigma(asked), other.sigma(also))


def test_a_file_from_before_names_rectified_flow_straight():
    again = process_from_dict({"name": "straight", "num_scales": 13})
    assert (type(again), again.num_scales) == (RectifiedFlow, 13)


@pytest.mark.parametrize("predicts", PARAMETRIZATIONS)
def test_denoisers_come_back(predicts):
    says = parametrization("edm", sigma_data=0.3) if predicts == "edm" else predicts
    denoiser = NetDenoiser(torch.nn.Identity(), CHAIN, says, "step", "large")
    again = denoiser_from_dict(denoiser.net, through_json(denoiser_to_dict(denoiser)))
    assert type(again.parametrization) is PARAMETRIZATIONS[predicts]
    assert vars(again.parametrization) == vars(denoiser.parametrization)
    assert (again.time_input, again.variance) == ("step", "large")


def test_a_process_of_ones_own_is_saved_by_its_name_and_options(monkeypatch):
    class Mine(Process):
        T = 1.0

        def __init__(self, rate: float = 2.0):
            super().__init__()
            self.pace = self.rate = rate

    with pytest.raises(InputError, match=r"process must be one of ddpm, .* to be saved, got a Mine"):
        process_to_dict(Mine())
    monkeypatch.setitem(diffusion.PROCESSES, "mine", Mine)
    plain = through_json(process_to_dict(Mine(3.0)))
    assert plain == {"name": "mine", "rate": 3.0}
    assert process_from_dict(plain).rate == 3.0
    process = Mine()
    del process.rate
    with pytest.raises(InputError, match=r"process 'mine' must keep \['rate'\] as attributes to be saved"):
        process_to_dict(process)


def test_a_file_cannot_ask_for_a_chain_of_any_length():
    with refused(UnknownName, what="process", name="ddpm"):
        process_from_dict({"name": "ddpm", "num_steps": 10**15})


def test_what_is_no_denoiser_of_a_net_is_refused():
    with pytest.raises(InputError, match="denoiser must be a NetDenoiser to be saved, got a Identity"):
        denoiser_to_dict(torch.nn.Identity())


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"name": "vpp"}, r"process must be one of betas, edm.*got 'vpp'"),
        ({"name": "ve", "sigma": 1}, r"process 've' takes \['sigma_min'.*got \['sigma'\]"),
        ({"name": "betas"}, r"process 'betas' needs \['betas'\]"),
        ({"name": "betas", "betas": [2.0]}, r"betas must be in \(0, 1\)"),
        ([], r"process must be its options by name, got \[\]"),
    ],
)
def test_misfits(plain, message):
    with pytest.raises(InputError, match=message):
        process_from_dict(plain)


def test_a_denoiser_that_lacks_something():
    plain = denoiser_to_dict(NetDenoiser(torch.nn.Identity(), CHAIN, "eps", "step"))
    for bad in ({}, {**plain, "scale": 1}, {**plain, "predicts": "eps"}):
        with pytest.raises(InputError, match=r"denoiser must be a dict of \['predicts', 'process'"):
            denoiser_from_dict(torch.nn.Identity(), bad)
    with refused(UnknownName, what="predicts"):
        denoiser_from_dict(torch.nn.Identity(), {**plain, "predicts": {"name": "noise"}})
