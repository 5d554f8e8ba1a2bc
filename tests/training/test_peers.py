"""What two processes do together (gloo) is what one would: normalization, decisions, clouds."""

import pytest
import torch
from peers import VOTES, clouds, join_two, normalized, refused
from torch import nn

from pcdiff.runtime import distributed
from pcdiff.runtime.sync_batchnorm import SyncedBatchNorm1d, synchronize


@pytest.fixture(scope="module")
def found(nursery, tmp_path_factory):
    return join_two(nursery, tmp_path_factory.mktemp("peers"))


def test_batch_normalization_sees_the_rows_of_both(found):
    whole, halves = normalized(slice(None), synced=False), [one["normalized"] for one in found]
    assert whole.keys() == halves[0].keys()
    for name, expected in whole.items():
        here, there = (half[name] for half in halves)
        if name[0] in "ye" or name.startswith("dx"):  # rows
            made = torch.cat([here, there])
        elif name.startswith("d"):  # gradients of weights are sums over rows
            made = here + there
        else:
            torch.testing.assert_close(here, there, rtol=0, atol=0)
            made = here
        torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


def test_conversion_keeps_names_weights_and_mode():
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4, eps=1e-3, momentum=0.2), nn.ReLU()))
    net[1].eval()
    before, names = {name: value.clone() for name, value in net.state_dict().items()}, list(net.state_dict())
    assert synchronize(net, torch.device("cpu")) is net
    norm = net[1][0]
    assert type(norm) is SyncedBatchNorm1d
    assert (norm.eps, norm.momentum, norm.training) == (1e-3, 0.2, False)
    assert list(net.state_dict()) == names
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_votes_are_heard_by_all_one_step_later(found):
    highest = [max(pair) for pair in zip(*VOTES, strict=True)]
    assert [one["agreed"] for one in found] == [[0, *highest[:-1]]] * 2


def test_what_one_is_refused_all_are(found):
    assert [one["refused"] for one in found] == [[None, "of one", "of the first"]] * 2


def test_values_reach_everybody(found):
    for one in found:
        assert torch.equal(one["mean"], torch.tensor([1.5, 15.0]))
        assert one["gathered"] == ["from 0", "from 1"]
        assert one["broadcast"] == "from 0"


def test_shared_clouds_are_those_of_one_process(found):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of floats depend on it
    try:
        alone = clouds()
    finally:
        torch.set_num_threads(threads)
    for one in found:
        for name, expected in alone.items():
            assert expected.shape == (70, 16, 3)
            assert torch.equal(one["clouds"][name], expected), name


def test_alone_nothing_is_sent():
    assert distributed.Agreement()(2) == 2
    assert refused("mine") == "mine"
    assert refused(None) is None
    assert torch.equal(distributed.mean(torch.ones(2)), torch.ones(2))
    assert distributed.gather(1) == [1]
