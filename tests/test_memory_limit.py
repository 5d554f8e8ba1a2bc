"""Settings that ask for more than a file's tensors fill are refused before memory or time is spent on them."""

import copy
import functools
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_models import small_model, small_run
from torch import nn

import pcdiff
from pcdiff.config import to_json
from pcdiff.diffusion import cosine_betas, linear_betas
from pcdiff.errors import InputError
from pcdiff.nets import UNetConfig
from pcdiff.runtime.memory_limit import Budget, budget_for, built_for, check_count, check_depth, within
from pcdiff.training import CheckpointManager, checkpoint

BILLION = 10**9
GREEDY = {
    "a wide layer": lambda: nn.Linear(BILLION, BILLION),
    "wider than any index": lambda: nn.Linear(10**30, 4),
    "a billion layers": lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(BILLION)),
    "a convolution": lambda: nn.Conv2d(10**5, 10**5, 3),
    "a table of classes": lambda: nn.Embedding(BILLION, 8),
    "a norm": lambda: nn.GroupNorm(1, BILLION),
    "betas": lambda: linear_betas(BILLION),
    "cosine betas": lambda: cosine_betas(BILLION),
    "arange": lambda: torch.arange(BILLION),
    "arange from one": lambda: torch.arange(1, BILLION, dtype=torch.float64),
    "random numbers": lambda: torch.randn(10**5, 10**5),
    "like another": lambda: torch.zeros(1).new_zeros(10**5, 10**5),
    "by keyword": lambda: torch.empty(size=(BILLION,)),
    "full": lambda: torch.full((10**5, 10**5), 1.0),
    "identity": lambda: torch.eye(10**5),
}


@pytest.mark.parametrize("make", GREEDY.values(), ids=GREEDY)
def test_what_is_too_much_is_refused_before_it_is_made(make):
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=r"^asks for a net of .* or more; the file holds 12 numbers in 1 tensors$"):
        built_for([torch.zeros(3, 4)], make)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_fits_is_built_and_costs_no_random_number():
    before = torch.get_rng_state()
    net = built_for({"a": torch.zeros(4, 4)}, lambda: nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3)))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(list(net.parameters())) == 4
    with budget_for([torch.zeros(10)]):
        assert len(torch.arange(2, 8, 2)) == 3


@pytest.mark.parametrize(
    "error", [ValueError("a\nb"), IndexError(), OverflowError("too large"), RecursionError("deep")]
)
def test_what_building_raises_becomes_one_line(error):
    def make():
        raise error

    with pytest.raises(InputError, match=r"^no net can be built of the config: "):
        within(Budget.of_machine(), make)


def test_numbers_of_steps():
    for value in (1, 1000, 10**6, None):
        check_count("num_scales", value)
    for value in (0, -1, 10**6 + 1, 1.0, True, "9", [1]):
        with pytest.raises(InputError, match=r"num_scales must be an integer in 1\.\.1000000, got"):
            check_count("num_scales", value)


SMALL = {
    "latent_dim": 4,
    "encoder_widths": (4, 8),
    "encoder_head_widths": (4,),
    "flow_depth": 1,
    "flow_hidden_dim": 4,
    "net_widths": (4, 8),
    "num_steps": 4,
}
FACTS = {
    "config": json.loads(to_json(small_run(SMALL))),
    "dataset": {"name": "made", "categories": ["chair"], "fingerprint": "ab"},
    "step": 3,
}


WIDTHS = ("encoder_options.widths", "encoder_options.head_widths", "net_options.widths")
SIZES = "latent_dim prior_options.depth prior_options.hidden_dim process.num_steps net_options.frequencies".split()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "small.safetensors"
    checkpoint.save(path, {f"model.{k}": v for k, v in small_model(SMALL).state_dict().items()}, FACTS)
    assert pcdiff.load(path).metadata["step"] == 3

    def write(facts):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        text = facts if isinstance(facts, str) else json.dumps(facts)
        save_file(tensors, path, {"format": checkpoint.FORMAT, "json": text})
        return path

    return write


@pytest.mark.parametrize(
    ("field", "value"),
    [(name, value) for name in SIZES for value in (BILLION, 10**30)]
    + [(name, [BILLION] * 4) for name in WIDTHS]
    + [("net_options.widths", [4] * 10**5)],
)  # fmt: skip
def test_a_checkpoint_that_asks_for_too_much(saved, field, value):
    config = copy.deepcopy(FACTS["config"])
    *parts, name = field.split(".")
    part = functools.reduce(dict.__getitem__, parts, config if parts[:1] == ["process"] else config["model"])
    assert name in part
    part[name] = value
    path = saved(FACTS | {"config": config})
    with pytest.raises(InputError, match=r"small\.safetensors: its config is damaged: ") as caught:
        pcdiff.load(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("[" * 10**5, "nested deeper than 64 levels"),
        ('{"step": ' + "9" * 5000 + "}", "an integer of 5000 digits"),
        ("[1]", r"its metadata is \[1\], not named facts"),
        ({**FACTS, "step": "3"}, "step must be a count, got '3'"),
        ({**FACTS, "dataset": "chairs"}, "dataset must be a data set's identity, got 'chairs'"),
        ({**FACTS, "dataset": {"name": "x", "fingerprint": [1]}}, "dataset must be a data set's identity"),
        ({**FACTS, "statistics": [1]}, "statistics must be named facts"),
        ({**FACTS, "dataset": {"categories": "chair"}}, "dataset must be a data set's identity"),
        ({**FACTS, "dataset": {"categories": [1]}}, "dataset must be a data set's identity"),
        (
            {**FACTS, "config": {**FACTS["config"], "model": "x" * 10**5}},
            "expected the fields of ModelConfig, got 'xx",
        ),
    ],
)
def test_a_checkpoint_whose_facts_are_of_another_kind(saved, facts, message):
    with pytest.raises(InputError, match=rf"small\.safetensors: .*{message}") as caught:
        pcdiff.load(saved(facts))
    assert len(str(caught.value)) < 1000


def test_lists_of_levels():
    check_depth("channel_mult", [1] * 32)
    check_depth("channel_mult", None)
    for odd in (math.inf, -math.inf, math.nan):
        with pytest.raises(InputError, match=r"channel_mult must be finite numbers, got \[1, (inf|-inf|nan)\]"):
            check_depth("channel_mult", [1, odd])
    with pytest.raises(InputError, match=r"channel_mult must name at most 32 levels, got 100000"):
        UNetConfig(channel_mult=(1,) * 100_000)


def test_a_run_that_goes_on_is_bounded_by_its_checkpoint_and_a_new_one_by_the_machine(tmp_path):
    machine, manager = Budget.of_machine(), CheckpointManager(tmp_path / "checkpoints")
    assert manager.budget().numbers == machine.numbers
    checkpoint.save(manager.path("last"), {"model.a": torch.zeros(1000)}, {"step": 0})
    assert 10**7 < manager.budget().numbers < 10**7 + 20_000 < machine.numbers
    with pytest.raises(InputError, match=r"asks for a net of .* or more; the file holds"):
        within(manager.budget(), lambda: small_model(SMALL | {"latent_dim": 10**12}))
    with pytest.raises(InputError, match=r"asks for a net of .* or more; this machine has .* GiB of memory"):
        within(machine, lambda: small_model(SMALL | {"latent_dim": 10**12}))


def test_facts_that_are_needed_of_a_data_set():
    checkpoint.check_facts({}, "x")
    checkpoint.check_facts({"dataset": {}, "step": None}, "x")
    checkpoint.check_facts(FACTS, "x", ("name", "fingerprint"))
    with pytest.raises(InputError, match=r"no record of what it was trained on: its dataset lacks fingerprint"):
        checkpoint.check_facts({"step": 3, "dataset": {"name": "made"}}, "x", ("name", "fingerprint"))
    with pytest.raises(InputError, match=r"x: damaged: step must be a count, got None"):
        checkpoint.check_facts({"dataset": FACTS["dataset"]}, "x", ("name",))
