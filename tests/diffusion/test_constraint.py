"""Constraints on clouds and images: what is known holds exactly, the rest nears the Gaussian's own conditional."""

import math

import pytest
import torch
from cases import first
from exact_gaussian import gaussian

from pcdiff.diffusion import (
    CONSTRAINTS,
    Colorize,
    ConstrainedCorrector,
    Inpaint,
    Linear,
    average,
    build_process,
    constraint,
    corrector,
    sample,
)
from pcdiff.errors import InputError

COUNT = 3000
# what the discretization may add to the Monte-Carlo error, in standard deviations
BIAS = 0.05


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def chain(num_steps=20):
    return build_process("ddpm", schedule="cosine", num_steps=num_steps)


def half(dims):
    """Return a mask of the first points, or of the upper rows."""
    rows = 2 if len(dims) == 2 else 1
    mask = torch.zeros(dims[-2], 1, dtype=torch.bool)
    mask[:rows] = True
    return mask


def cases(process, dims, count, dtype):
    """Return constraints by name, each with the map of samples to what it knows and the known itself."""
    x = normal(count, *dims, dtype=dtype)
    matrix = normal(4, x[0].numel(), seed=2, dtype=dtype)
    dim, factor = len(dims), dims[-1]

    def channels(x):
        return x.mean(dim=-1, keepdim=True)

    mask = half(dims)
    return {
        "inpaint": (Inpaint(process, x, mask), lambda v: v[mask.expand_as(v)], x[mask.expand_as(x)]),
        "colorize": (Colorize(process, x, dim=-1), channels, channels(x)),
        "linear": (Linear(process, x.flatten(1) @ matrix.T, matrix), lambda v: v.flatten(1) @ matrix.T, None),
        "average": (average(process, channels(x), factor, (dim,)), channels, channels(x)),
    }


def test_every_name_has_a_case(dims):
    assert set(cases(chain(), dims, 2, torch.float32)) == set(CONSTRAINTS)


@pytest.mark.parametrize("name", sorted(CONSTRAINTS))
@pytest.mark.parametrize("kind", ["ddpm", "vp", "ve", "rectified_flow"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_what_is_known_holds_at_the_end(name, kind, dims, dtype, atol):
    process = chain() if kind == "ddpm" else build_process(kind)
    keep, measure, known = cases(process, dims, 3, dtype)[name]
    x = sample(
        gaussian(process, dims),
        x_init=process.prior_std * normal(3, *dims, dtype=dtype, seed=7),
        constraint=keep,
        sampler="ddim",
        num_steps=8,
        generator=seeded(),
    )
    known = keep.known if known is None else known
    assert x.dtype == dtype
    assert x.isfinite().all()
    assert (measure(x) - known).abs().max() <= (0 if name == "inpaint" else atol * (1 + known.abs().max()))


@pytest.mark.parametrize("name", sorted(CONSTRAINTS))
def test_before_the_end_the_known_has_its_own_noise(name, dims):
    """What is measured of x_t has mean alpha y and the covariance of sigma A z, and the rest stays."""
    process, t = chain(), 9
    alpha, sigma = (float(v) for v in process.scales(torch.tensor([t])))
    keep, measure, known = cases(process, dims, 1, torch.float64)[name]
    known = (keep.known if known is None else known).flatten()
    state = normal(1, *dims, seed=4).expand(COUNT, *dims)
    times = torch.full((COUNT,), t)
    held = keep(state, times, lambda x: torch.randn(x.shape, generator=seeded(5), dtype=x.dtype))
    ours = measure(held).reshape(COUNT, -1)
    z = normal(COUNT, *dims, seed=6)
    wanted = measure(z).reshape(COUNT, -1)
    spread = sigma * wanted.std(dim=0)
    assert ((ours.mean(dim=0) - alpha * known).abs() < 5 * spread / math.sqrt(COUNT)).all()
    assert torch.allclose(ours.std(dim=0), spread, rtol=5 * math.sqrt(1 / COUNT))
    # a second time with the same draws changes nothing: it is a projection
    again = keep(held, times, lambda x: torch.randn(x.shape, generator=seeded(5), dtype=x.dtype))
    assert torch.allclose(again, held, atol=1e-12)
    # what is not measured stays: moves lie in the rows' span, so that any two differ by measured things alone
    moves = (held - state).flatten(1)
    assert torch.linalg.matrix_rank(moves, rtol=1e-9) == len(known)


def test_linear_is_inpainting_and_coloring_where_its_rows_are_theirs(dims):
    """At the end, where nothing is drawn."""
    process, size = chain(), torch.Size(dims).numel()
    known, x, t = normal(4, *dims), normal(4, *dims, seed=2), torch.zeros(4, dtype=torch.long)
    mask = half(dims).expand(dims)
    rows = torch.eye(size, dtype=torch.float64)[mask.flatten()]
    ours = Linear(process, known.flatten(1) @ rows.T, rows)(x, t, None)
    assert torch.allclose(ours, Inpaint(process, known, mask)(x, t, None))
    means = torch.eye(size, dtype=torch.float64).view(size, *dims).mean(dim=-1).flatten(1).T
    ours = Linear(process, known.flatten(1) @ means.T, means)(x, t, None)
    assert torch.allclose(ours, Colorize(process, known, dim=-1)(x, t, None))
    ours = average(process, known.mean(dim=-1, keepdim=True), dims[-1], (-1 % (len(dims) + 1),))(x, t, None)
    assert torch.allclose(ours, Colorize(process, known, dim=-1)(x, t, None))


def test_a_pair_of_maps_is_its_matrix(dims):
    """To the bit of rounding also with noise: both are asked of the same draws."""
    process, x = chain(), normal(4, *dims, seed=2)
    matrix, t = normal(3, x[0].numel(), seed=3), torch.full((4,), 7)
    y, inverse = normal(4, 3), torch.linalg.pinv(matrix)
    pair = lambda x: x.flatten(1) @ matrix.T, lambda y: (y @ inverse.T).view(-1, *dims)
    for strength in (1.0, 0.4):
        ours, theirs = (
            Linear(process, y, operator, strength)(x, t, lambda x: normal(*x.shape, seed=9))
            for operator in (matrix, pair)
        )
        assert torch.allclose(ours, theirs, atol=1e-12)
    apart = (y - x.flatten(1) @ matrix.T), (y - Linear(process, y, matrix, 0.4)(x, t, None).flatten(1) @ matrix.T)
    assert torch.allclose(apart[1], 0.6 * apart[0], atol=1e-12)


def test_block_means_over_two_dimensions():
    process, x = chain(), normal(2, 3, 4, 6)
    small = torch.nn.functional.avg_pool2d(x, 2)
    out = average(process, small, 2, (2, 3))(normal(2, 3, 4, 6, seed=8), torch.zeros(2, dtype=torch.long), None)
    assert torch.allclose(torch.nn.functional.avg_pool2d(out, 2), small)


def test_one_gray_channel_or_all_of_them(dims):
    process, gray, x = chain(), normal(2, *dims), normal(2, *dims, seed=2)
    t = torch.full((2,), 5)
    one, every = (
        Colorize(process, v, dim=-1)(x, t, lambda x: normal(*x.shape, seed=3))
        for v in (gray.mean(dim=-1, keepdim=True), gray)
    )
    assert torch.allclose(one, every)


def expectation(denoiser, dims, keep, correct, **options):
    """Return the mean of what a chain gives: with an affine denoiser that is the chain without its draws."""
    start = torch.zeros(1, *dims, dtype=torch.float64)
    return sample(
        denoiser, x_init=start, constraint=keep, corrector=correct, noise=torch.zeros_like, **options
    ).flatten()


@pytest.mark.parametrize("what", first(1, ["a part", "measurements"]))
def test_correctors_take_the_bias_of_replacement_away(what, shape):
    """Its mean stops short of the Gaussian's conditional mean; correctors at every time bring it there."""
    process = chain(100)
    denoiser = gaussian(process, shape)
    known = normal(1, *shape) + 1.5
    size = known.numel()
    if what == "a part":
        mask = half(shape).expand(shape)
        matrix, keep = torch.eye(size, dtype=torch.float64)[mask.flatten()], Inpaint(process, known, mask)
    else:
        matrix = torch.linalg.qr(normal(size, 5, seed=5))[0].T
        keep = Linear(process, known.flatten(1) @ matrix.T, matrix)
    wanted = denoiser.given(matrix, matrix @ known.flatten())[0]
    scale = (wanted - denoiser.mean).norm()

    def error(correct):
        return float((expectation(denoiser, shape, keep, correct) - wanted).norm() / scale)

    step = corrector("ald", snr=0.7)
    none, one, eight = error(None), *(error(ConstrainedCorrector(step, keep, count)) for count in (1, 8))
    assert none > 0.04  # the replacement's own bias, no error of ours
    assert none > 2 * one > 4 * eight
    assert eight < 0.015
    # a corrector's own steps let the known drift, so that they gain less
    assert error(corrector("ald", snr=0.7, num_steps=8)) > 1.5 * eight


@pytest.mark.parametrize("dims", [(5, 3), pytest.param((2, 3, 4), marks=pytest.mark.slow)], indirect=True)
def test_inpainting_draws_from_the_gaussians_conditional(dims):
    """Means and covariances within five standard errors, and the 5 % that so coarse a chain may add."""
    process = chain(100)
    denoiser = gaussian(process, dims)
    known, mask = normal(1, *dims) + 1.5, half(dims).expand(dims)
    matrix = torch.eye(known.numel(), dtype=torch.float64)[mask.flatten()]
    keep = Inpaint(process, known, mask)
    x = sample(
        denoiser,
        (COUNT, *dims),
        constraint=keep,
        corrector=ConstrainedCorrector(corrector("ald", snr=0.4), keep, 8),
        generator=seeded(11),
    ).double()
    mean, covariance = denoiser.given(matrix, matrix @ known.flatten())
    free = ~mask.flatten()
    std = covariance.diagonal()[free].sqrt()
    values = (x.flatten(1)[:, free] - mean[free]) / std
    assert (values.mean(dim=0).abs() < 5 / math.sqrt(COUNT) + BIAS).all()
    assert ((values.square().mean(dim=0) - 1).abs() < 5 * math.sqrt(2 / COUNT) + BIAS).all()
    correlation = values.T @ values / COUNT
    assert torch.allclose(
        correlation, covariance[free][:, free] / std / std[:, None], atol=5 * math.sqrt(2 / COUNT) + BIAS
    )


def test_independent_parts_need_no_corrector(dims):
    """Where the known says nothing of the rest, replacement is exact."""
    process = chain(50)
    denoiser = gaussian(process, dims, correlation=0.0)
    known, mask = normal(1, *dims) + 1.5, half(dims).expand(dims)
    free = ~mask.flatten()
    plain = expectation(denoiser, dims, None, None)
    kept = expectation(denoiser, dims, Inpaint(process, known, mask), None)
    assert torch.allclose(kept[free], plain[free], atol=1e-12)


def bad(message, build):
    with pytest.raises(InputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused(dims):
    process, known = chain(), normal(2, *dims)
    nan = known.clone()
    nan.flatten()[0] = math.nan
    mask = torch.ones(dims, dtype=torch.bool)
    bad("mask must broadcast to known", lambda: Inpaint(process, known, mask[..., :-1]))
    bad("mask must broadcast to known", lambda: Inpaint(process, known, mask[None, None]))
    bad("True or 1 where", lambda: Inpaint(process, known, 0.5 * mask))
    bad("known must be finite", lambda: Inpaint(process, nan, mask))
    Inpaint(process, nan, mask & ~nan[0].isnan())
    bad("gray must be finite", lambda: Colorize(process, nan))
    for dim in (0, 9, -9):
        bad("dim must be a dimension", lambda dim=dim: Colorize(process, known, dim=dim))
    size = known[0].numel()
    matrix = normal(3, size)
    y = known.flatten(1) @ matrix.T
    bad(r"must be \(m, d\) and \(B, m\)", lambda: Linear(process, y, matrix.T))
    bad("independent rows, got 3 rows of rank 1", lambda: Linear(process, y, matrix[:1].expand(3, size)))
    for strength in (0.0, 1.5, math.nan):
        bad(r"strength must be in \(0, 1\]", lambda strength=strength: Linear(process, y, matrix, strength))
    bad("measurements, must be finite", lambda: Linear(process, y * math.inf, matrix))
    bad("A A.* = 1", lambda: Linear(process, y, (lambda x: 2 * x, lambda y: y)))
    bad("to samples and back", lambda: Linear(process, y, (lambda x: x[:, :1], lambda y: y)))
    bad("factor must be at least 1", lambda: average(process, known, 0, (1,)))
    for over in ((), (0,), (7,)):
        bad("dims must be dimensions", lambda over=over: average(process, known, 2, over))
    for count in (0, -1):
        bad("num_steps of a corrector", lambda count=count: ConstrainedCorrector("ald", None, count))
    bad("corrector must be one of", lambda: ConstrainedCorrector("langevine", None))
    bad("constraint must be one of.*average.*inpaint", lambda: constraint("inpainting"))
    bad("constraint 'inpaint' needs", lambda: constraint("inpaint", process=process))
    assert isinstance(constraint("inpaint", process=process, known=known, mask=mask), Inpaint)


def short_of_the_truth(kind, step, num_steps, known, settle, grid=None):
    """Return by which share the rest's mean stops short, of 30 numbers that correlate by 0.7.

    Everything is linear and no step's size depends on x, so what comes without noise is the mean itself.
    """
    dims = (30, 1)
    model = gaussian(build_process(kind), dims)
    mask = torch.arange(30)[:, None] < known
    x = model.mean + normal(16, 30) @ torch.linalg.cholesky(model.covariance).T
    rows = torch.eye(30, dtype=torch.float64)[:known]
    shift = torch.stack([model.given(rows, v[:known])[0] for v in x])[:, known:] - model.mean[known:]
    keep = Inpaint(model.process, x.view(16, *dims), mask)
    mend = ConstrainedCorrector(corrector("ald", snr=0.5), keep, settle) if settle else None
    out = sample(
        model,
        x_init=torch.zeros(16, *dims, dtype=torch.float64),
        sampler=step,
        num_steps=num_steps,
        grid=grid,
        constraint=keep,
        corrector=mend,
        noise=torch.zeros_like,
    )
    reached = out.flatten(1)[:, known:] - model.mean[known:]
    return 1 - float((reached * shift).sum() / shift.square().sum())


@pytest.mark.parametrize(
    ("kind", "step", "num_steps", "low", "high", "left"),
    first(
        1,
        [
            ("edm", "heun", 50, 0.26, 0.71, 0.065),
            ("vp", "ancestral", 100, 0.10, 0.52, 0.035),
            ("edm", "ancestral", 100, 0.10, 0.53, 0.035),
        ],
    ),
)
def test_replacement_stops_as_short_as_the_guide_says(kind, step, num_steps, low, high, left):
    """By more the fewer numbers are known; settling takes nearly all of it away."""
    short = [short_of_the_truth(kind, step, num_steps, known, 0) for known in (24, 6)]
    assert short[0] == pytest.approx(low, abs=0.03)
    assert short[1] == pytest.approx(high, abs=0.03)
    assert 0 < short_of_the_truth(kind, step, num_steps, 6, 8) < left


def test_even_steps_in_sigma_are_worse_and_settle_worse():
    short, settled = (short_of_the_truth("edm", "ancestral", 100, 6, s, "uniform") for s in (0, 8))
    assert short == pytest.approx(0.63, abs=0.03)
    assert 0.1 < settled < 0.35


@pytest.mark.parametrize("name", sorted(CONSTRAINTS))
def test_samples_of_another_shape_are_refused(name, dims):
    keep = cases(chain(), dims, 2, torch.float64)[name][0]
    for shape in ((3, *dims), (2, *dims[:-1], dims[-1] + 1), (2, *dims, 2)):
        x = normal(*shape)
        bad(
            r"the constraint is for samples \(2, ", lambda x=x: keep(x, torch.zeros(len(x), dtype=torch.long), None)
        )


@pytest.mark.parametrize("name", sorted(CONSTRAINTS))
def test_samples_may_lie_in_memory_as_they_like(name, dims):
    keep, t = cases(chain(), dims, 2, torch.float64)[name][0], torch.full((2,), 5)
    whole = normal(2, *dims)
    apart = whole.transpose(1, -1).contiguous().transpose(1, -1)
    assert not apart.is_contiguous()
    ours, theirs = (keep(x, t, lambda x: x.cos()) for x in (apart, whole))
    assert torch.allclose(ours, theirs)
