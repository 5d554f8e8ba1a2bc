"""Class-conditional models of clouds: labels, dropping, guidance, priors, and what is refused."""

import numpy as np
import pytest
import torch

import pcdiff
from pcdiff.config import CloudObjectiveConfig, ModelConfig, ProcessConfig
from pcdiff.data import Batches, load_clouds
from pcdiff.diffusion import ClassifierFreeGuidance
from pcdiff.errors import InputError
from pcdiff.flows import PRIORS
from pcdiff.flows.base import Flow
from pcdiff.models import Direct, Latent, build_model
from pcdiff.models.classes import Classes, in_proportion, spread
from pcdiff.models.upsampling import upsample
from pcdiff.nets import NETS, PointwiseConfig
from pcdiff.runtime.cloud_batch import CloudBatch
from pcdiff.training.micro_batches import MicroBatches

NAMES = ("airplane", "chair")
SIZES = {"net_options": PointwiseConfig(widths=(8, 8)), "class_dim": 5}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(kind, seed=0, names=NAMES, objective=None, **options):
    torch.manual_seed(seed)
    config = ModelConfig(kind=kind, latent_dim=4, **SIZES | options)
    cls = {"latent": Latent, "direct": Direct}[kind]
    return cls(config, ProcessConfig(name="vp"), objective, class_names=names)


def batch(count=6, points=8):
    return CloudBatch(torch.randn(count, points, 3, generator=seeded(7)), torch.arange(count) % 2)


both = pytest.mark.parametrize("kind", ["direct", "latent"])


def test_labels_are_drawn_in_proportion():
    """Right counts where they divide evenly, never more than one off, each list the beginning of the next."""
    counts = [40, 13, 7, 0]
    assert np.bincount(in_proportion(counts, 60), minlength=4).tolist() == counts
    labels = in_proportion(counts, 120)
    for number in range(120):
        shares = np.bincount(labels[:number], minlength=4) - number * np.array(counts) / 60
        assert np.abs(shares).max() <= 1
    assert in_proportion(counts, 33) == labels[:33]


def test_the_first_of_each_class_are_chosen_in_proportion():
    labels = torch.tensor([1] * 8 + [0] * 4)
    assert spread(labels, 6).tolist() == [0, 1, 2, 3, 8, 9]
    assert spread(labels, 99).tolist() == list(range(12))
    assert spread(torch.zeros(5, dtype=torch.long), 3).tolist() == [0, 1, 2]


@both
def test_the_net_is_conditioned_on_code_and_class(kind):
    model = make(kind)
    width = 4 if kind == "latent" else 0
    assert model.denoiser.net.cond_dim == width + 5
    z, labels = torch.randn(3, width), torch.tensor([1, 0, 2])  # the last of no class
    cond = model.net_condition(z, labels)
    assert torch.equal(cond, torch.cat([z, model.class_embedding.weight[labels]], dim=1))


@both
def test_a_batch_may_be_cut_up(kind):
    """Labels are dropped by draws of the whole batch: the parts' losses average to the whole's."""
    model = make(kind, objective=CloudObjectiveConfig(label_dropout=0.5)).double().eval()
    clouds = CloudBatch(batch().points.double(), batch().labels)
    draws = model.draw(clouds, 6, seeded(1))
    assert (draws["dropped"] < 0.5).any()
    assert (draws["dropped"] >= 0.5).any()
    parts = MicroBatches(model, 6, 3, torch.device("cpu"))
    losses = [
        parts.terms(CloudBatch(*(part[rows] for part in clouds)), draws, k)["loss"]
        for k, rows in enumerate(parts.rows)
    ]
    whole = model.loss_terms(clouds, **draws)["loss"]
    torch.testing.assert_close(torch.stack(losses).mean(), whole, rtol=1e-12, atol=0)
    changed = draws | {"dropped": torch.ones(6)}
    assert model.loss_terms(clouds, **changed)["loss"] != whole


def test_labels_are_dropped_where_the_draw_says_so():
    labels = Classes(2, label_dropout=0.3).dropped(torch.tensor([0, 1, 1]), torch.tensor([0.3, 0.29, 0.9]))
    assert labels.tolist() == [0, 2, 1]


@both
def test_guidance_goes_past_the_class_from_no_class(kind):
    """Ho & Salimans (2022), eq. 6, from two evaluations of the net by hand; the code stays in both."""
    model = make(kind).double().eval()
    z, labels, t = torch.randn(2, model.code_dim).double(), torch.tensor([0, 1]), torch.full((2,), 0.4)
    x = torch.randn(2, 6, 3, generator=seeded()).double()
    guided, cond = model.conditioned(z, labels, 2.5)
    assert isinstance(guided, ClassifierFreeGuidance)
    with_class, without = (model.denoiser(x, t, model.net_condition(z, y)) for y in (labels, torch.tensor([2, 2])))
    expected = without + 2.5 * (with_class - without)
    torch.testing.assert_close(guided(x, t, cond), expected, rtol=1e-12, atol=1e-12)
    assert model.conditioned(z, labels, 1.0)[0] is model.denoiser
    assert model.conditioned(z, None)[0] is model.denoiser


def test_a_direct_model_learns_its_classes():
    """Clouds of one class lie about +1, of the other about -1: samples of a class lie where its clouds do."""
    torch.manual_seed(0)
    config = ModelConfig(kind="direct", net_options=PointwiseConfig(widths=(32, 32)))
    process = ProcessConfig(name="vp", predicts="v")
    model = Direct(config, process, class_names=("plus", "minus"))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    labels = torch.arange(32) % 2
    place = 1 - 2 * labels[:, None, None].float()
    for step in range(40):
        clouds = CloudBatch(place + 0.1 * torch.randn(32, 4, 3, generator=seeded(step)), labels)
        optimizer.zero_grad()
        model.loss_terms(clouds, seeded(step))["loss"].backward()
        optimizer.step()
    model.eval()
    for scale in (1.0, 2.0):
        drawn = model.sample(8, 16, classes=["plus"] * 4 + ["minus"] * 4, guidance=scale, generator=seeded())
        means = drawn.mean(dim=(1, 2))
        assert (means[:4] > 0.5).all()
        assert (means[4:] < -0.5).all()


@both
def test_samples_are_of_the_classes_asked_for(kind):
    model = make(kind).eval()
    model.set_class_counts(torch.tensor([0, 0, 0, 1]))
    draw = {"num_steps": 2, "sampler": "dpmpp"}
    usual = model.sample(4, 8, generator=seeded(), **draw)
    assert torch.equal(usual, model.sample(4, 8, classes=[0, 0, 1, 0], generator=seeded(), **draw))
    named = ["airplane", "airplane", "chair", "airplane"]
    assert torch.equal(usual, model.sample(4, 8, classes=named, generator=seeded(), **draw))
    chairs = model.sample(4, 8, classes="chair", generator=seeded(), **draw)
    assert torch.equal(chairs[2], usual[2])
    assert not torch.equal(chairs[0], usual[0])


SMALL = {
    "coupling": {"depth": 2, "hidden_dim": 8},
    "cnf": {"widths": (8,), "tolerance": 1e-6},
    "diffusion": {"width": 8, "depth": 1, "tolerance": 1e-6},
}
CONDITIONAL = sorted(name for name, prior in PRIORS.items() if prior.conditional)


def conditional(name, count):
    """Return a small prior on vectors (count, 2), conditions (count, 3), and both."""
    torch.manual_seed(0)
    flow = PRIORS[name](2, cond_dim=3, **SMALL[name]).double().eval()
    with torch.no_grad():  # some layers start at zero
        for p in flow.parameters():
            p += 0.1 * torch.randn(p.shape, generator=seeded(9))
    return flow, *(torch.randn(count, size, generator=seeded(size)).double() for size in (2, 3))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_conditional_prior_has_a_density_for_each_condition(name):
    """The log-determinant is that of finite differences at the condition, and there and back again is nothing."""
    flow, z, cond = conditional(name, 2)
    w, log_det = flow(z, cond=cond)
    torch.testing.assert_close(flow.inverse(w, cond=cond)[0], z, rtol=0, atol=5e-4)
    torch.testing.assert_close(flow.to_latent(flow.to_base(z, cond), cond), z, rtol=0, atol=5e-4)
    ways = 1e-2 * torch.eye(2, dtype=z.dtype)
    up, down = (flow.to_base(z[:1] + sign * ways, cond[:1].expand(2, -1)) for sign in (1, -1))
    jacobian = (up - down) / 2e-2
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian).logabsdet, rtol=0, atol=1e-3)
    assert (flow.exact_log_prob(z, cond) - flow.exact_log_prob(z, cond.flip(0))).abs().max() > 1e-3


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_conditional_priors_gradient_reaches_its_condition(name):
    """As finite differences have it: their error of second order, at steps of 1e-4, and the solver's over them."""
    flow, z, cond = conditional(name, 1)
    leaf = cond.clone().requires_grad_()
    probes = flow.train().draw_probes(1, seeded())
    flow.log_prob(z, probes=probes, cond=2 * leaf).sum().backward()
    with torch.no_grad():
        ways = torch.eye(3).double().view(3, 1, 3) * 1e-4
        up, down = (
            torch.stack([flow.log_prob(z, probes=probes, cond=2 * (cond + s * way)).sum() for way in ways])
            for s in (1, -1)
        )
    torch.testing.assert_close(leaf.grad.flatten(), (up - down) / 2e-4, rtol=1e-2, atol=2e-3)


def test_a_prior_refuses_conditions_of_another_size():
    flow = PRIORS["coupling"](4, cond_dim=3)
    with pytest.raises(InputError, match=r"cond must be \(2, 3\), got None"):
        flow(torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"cond must be None, got \(2, 3\)"):
        PRIORS["gaussian"](4)(torch.zeros(2, 4), cond=torch.zeros(2, 3))


def test_batches_carry_their_labels(dataset):
    clouds = load_clouds(dataset, "chair,airplane", "train")
    labels = clouds.labels(NAMES)
    assert labels.tolist() == [NAMES.index(name) for name in clouds.categories]
    plain, labeled = (Batches(clouds.points, 4, 8, seed=0, labels=given) for given in (None, labels))
    for step in range(6):
        found = labeled(step)
        assert torch.equal(found.points, plain(step))
        assert torch.equal(found.labels, labels[labeled.indices(step)])
        assert torch.equal(labeled(step, slice(1, 3)).labels, found.labels[1:3])
    with pytest.raises(InputError, match=r"classes must be among chair, mug, got clouds of airplane"):
        clouds.labels(("chair", "mug"))
    with pytest.raises(InputError, match=r"labels must be \(20,\), one for each cloud, got \(3,\)"):
        Batches(clouds.points, 4, 8, seed=0, labels=labels[:3])


def test_a_model_without_a_null_class():
    model = make("direct", objective=CloudObjectiveConfig(label_dropout=0.0)).eval()
    assert "dropped" not in model.draw(batch(), 6, seeded())
    with pytest.raises(InputError, match="guidance 2 needs a net conditioned on classes, with a null class"):
        model.sample(2, 8, classes="chair", guidance=2.0)
    with pytest.raises(InputError, match="this model needs a class, airplane, chair, for every cloud"):
        model.decode(torch.zeros(2, 0), 8)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["chair"], "classes must be 2, one for each cloud .or one name., got 1"),
        (["chair", "mug"], "classes must be of airplane, chair, got 'mug'"),
        ([0, 2], "classes must be of airplane, chair, got 2"),
        ([0, True], "classes must be of airplane, chair, got True"),
    ],
)
def test_classes_that_are_none(classes, message):
    with pytest.raises(InputError, match=message):
        make("direct").eval().sample(2, 8, classes=classes)


def test_clouds_without_labels_are_refused():
    with pytest.raises(InputError, match="conditioned on the classes airplane, chair; the clouds have none"):
        make("latent").loss_terms(batch().points, seeded())


def test_a_model_needs_two_names_or_more():
    config = ModelConfig(kind="direct", class_conditional=True)
    for names, got in (((), "none"), (("chair",), "chair"), (("chair", "chair"), "chair, chair")):
        with pytest.raises(InputError, match=f"needs two or more class_names, each once, got {got}"):
            build_model(ModelConfig(kind="direct", class_conditional=True, class_names=names))
    with pytest.raises(InputError, match="got chair, mug without class_conditional"):
        build_model(ModelConfig(kind="direct", class_names=("chair", "mug")))
    assert Direct(config, class_names=("chair", "mug")).classes.count == 2


class Shift(Flow):
    """z = w + 1, which takes no condition."""

    def forward(self, z, generator=None):
        return z - 1, z.new_zeros(len(z))

    def inverse(self, w, generator=None):
        return w + 1, w.new_zeros(len(w))


def test_a_prior_of_ones_own_need_not_know_of_conditions():
    prior, z = Shift(2), torch.zeros(3, 2)
    assert torch.equal(prior.to_latent(prior.to_base(z)), z)
    assert prior.exact_log_prob(z).shape == (3,)
    with pytest.raises(InputError, match="takes no condition"):
        Latent(ModelConfig(latent_dim=2), prior=Shift, class_names=NAMES)


def test_a_notebook_trains_a_class_conditional_model(dataset, tmp_path):
    clouds = load_clouds(dataset, "chair,airplane", "train")
    settings = {"steps": 2, "batch_size": 4, "num_points": 8, "device": "cpu"}
    pcdiff.Trainer(make("direct"), clouds, tmp_path / "a", validation=None, **settings).fit()
    assert pcdiff.load(tmp_path / "a").class_counts.tolist() == [10, 10]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(clouds.points[:, :8], clouds.labels(NAMES)), batch_size=4, drop_last=True
    )
    trainer = pcdiff.Trainer(make("direct"), loader, tmp_path / "b", steps=2, device="cpu")
    assert trainer.fit().step == 2
    assert trainer.run.data.num_points == 8
    with pytest.raises(InputError, match="needs clouds with categories, a CloudDataset, got a Tensor"):
        pcdiff.Trainer(make("direct"), clouds.points, tmp_path / "c", **settings)
    alone = torch.utils.data.DataLoader(clouds.points[:, :8], batch_size=4)
    with pytest.raises(InputError, match=r"must be \(clouds, labels\) for a class-conditional model, got Tensor"):
        pcdiff.Trainer(make("direct"), alone, tmp_path / "d", steps=2, device="cpu")


def test_further_points_are_of_a_class():
    torch.manual_seed(0)
    made_from = NETS["set_transformer"].Config(width=16, depth=1, num_heads=2, num_inducers=4, norm_groups=2)
    net = NETS["set_transformer"](made_from, cond_dim=5)
    with torch.no_grad():  # some layers start at zero
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=seeded(1))
    config = ModelConfig(kind="direct", class_dim=5)
    model = Direct(config, ProcessConfig(name="edm", predicts="edm", time_input="edm"), net=net, class_names=NAMES)
    none, both, one = (
        upsample(model.eval(), batch(2).points, 3, 0, num_steps=2, labels=given)
        for given in (None, torch.tensor([0, 1]), torch.tensor([1, 1]))
    )
    torch.testing.assert_close(both[1], one[1], rtol=0, atol=1e-5)
    assert (both[0] - one[0]).abs().max() > 1e-3
    assert (none - one).abs().max() > 1e-3


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 5, 0, 1, 0], [0, -1, 1, 0, 1, 0], [0, 1], [0.5] * 6],
    ids=["no class", "below 0", "too few", "float"],
)
def test_labels_of_no_class_are_not_trained_on(labels):
    model, clouds = make("direct"), batch()
    with pytest.raises(InputError, match=r"classes must be 6 of .*, got \["):
        model.loss_terms(CloudBatch(clouds.points, torch.tensor(labels)), seeded())


def test_one_label_of_any_integer_type_is_for_all():
    model = make("direct").eval()
    for one in (np.int64(1), torch.tensor(1), 1):
        assert model.classes.labels(one, 2).tolist() == [1, 1]
    with pytest.raises(InputError, match=r"classes must be of .*, got 1\.5"):
        model.classes.labels(1.5, 2)


def test_further_points_are_not_guided():
    model = make("direct").eval()
    with pytest.raises(InputError, match="guidance must be 1 for further points of given clouds, got 2"):
        upsample(model, batch(2).points, 3, 0, labels=torch.tensor([0, 1]), guidance=2.0)
