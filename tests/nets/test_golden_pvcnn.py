"""The point-voxel net against what PVD's and TIGER's own code computes, and their losses and gradients.

No point of the recorded clouds lies within 5e-5 of a voxel's border, or within 2e-5 of a ball's, ten times what
float32 can move it: on every processor the same points fall into the same voxels.
"""

import math

import pytest
import torch
from pvd_files import case_of, close

from pcdiff.interop import pvd
from pcdiff.nets import PVCNN, pvcnn
from pcdiff.nets.time_embedding import sinusoidal

pytestmark = pytest.mark.golden
LARGE = pytest.param("pvd/gen", marks=pytest.mark.slow)
every_case = pytest.mark.parametrize("name", ["pvd/noatt", "pvd/completion", "tiger/gen", LARGE])
every_pvd = pytest.mark.parametrize("name", ["pvd/noatt", "pvd/completion", LARGE])
PRECISIONS = {"": (torch.float32, 1e-4), "_f64": (torch.float64, 1e-7)}
every_precision = pytest.mark.parametrize("suffix", PRECISIONS)
SLOW = pytest.mark.slow
every_case_and_precision = pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *((name, suffix) for name in ("pvd/noatt", "tiger/gen") for suffix in PRECISIONS),
        ("pvd/completion", ""),
        pytest.param("pvd/completion", "_f64", marks=SLOW),
        *(pytest.param("pvd/gen", suffix, marks=SLOW) for suffix in PRECISIONS),
    ],
)


def net_of(case, dtype):
    return pvd.net_of(case.model(dtype))


@torch.no_grad()
def at_all_times(net, x, t):
    """Return what a net gives for clouds `(B, N, 3)` at times `(K, B)`: `(K, B, N, 3)`."""
    return net(x.repeat(len(t), 1, 1), t.flatten()).unflatten(0, t.shape)


@every_case_and_precision
def test_pvds_nets(golden, name, suffix):
    dtype, rtol = PRECISIONS[suffix]
    case = case_of(golden, name)
    out = at_all_times(net_of(case, dtype), case.clouds("x", dtype), case.io["t"])
    for ours, theirs in zip(out, case.clouds(f"out{suffix}", dtype), strict=True):
        close(ours, theirs, rtol)


@every_pvd
def test_a_net_of_doubles_with_the_published_float32_time(golden, monkeypatch, name):
    monkeypatch.setattr(pvcnn, "sinusoidal", lambda *args, dtype, **kw: sinusoidal(*args, **kw).to(dtype))
    case = case_of(golden, name)
    theirs = case.clouds("out_f64_t32", torch.float64)
    out = at_all_times(net_of(case, torch.float64), case.clouds("x", torch.float64), case.io["t"][: len(theirs)])
    close(out, theirs, 1e-6)  # the last bit of float32 sines differs from processor to processor


@every_pvd
def test_pvds_time_features(golden, name):
    case = case_of(golden, name)
    size, t = case.settings["constructor"]["embed_dim"], case.io["t"].flatten()
    for key, dtype, atol in (("", torch.float32, 1e-6), ("_f64", torch.float64, 1e-12)):
        ours = sinusoidal(t, size, sin_first=True, freq_shift=1, rounding="once", dtype=dtype)
        # equal angles; the sines of processors differ in the last bit or two
        assert (ours - case.io[f"time_features{key}"].flatten(0, 1)).abs().max() <= atol


# what PVD's and TIGER's modules are called here; down and up levels give features and coordinates
MIDS = {
    "embedf": "time",
    "sa_layers.0.0": "down.0.blocks.0",
    "global_att": "attention",
    "transformer.proj": "branch.embed",
    "transformer.t_embedder": "branch.time",
    "transformer.blocks.0": "branch.blocks.0",
    "transformer": "branch",
    "conv_remap": "gate.conv",
    "tf_remap": "gate.transformer",
    "feature_adjust": "gate.out",
    **{f"sa_layers.{level}": f"down.{level}" for level in range(4)},
    **{f"fp_layers.{level}": f"up.{level}" for level in range(4)},
}
AFTER_POSITIONS = "transformer transformer.blocks.0 tf_remap feature_adjust fp_layers.2 fp_layers.3".split()


@every_precision
@every_case
def test_what_happens_on_the_way(golden, name, suffix):
    dtype, rtol = PRECISIONS[suffix]
    case = case_of(golden, name)
    kept = [key for key in case.io if key.startswith("mid/") and key.endswith("_f64") == bool(suffix)]
    if not kept:
        return  # PVD's are float32 alone
    found = on_the_way(net_of(case, dtype), case.clouds("x", dtype), case.io["t"][0])
    compared = 0
    for key in kept:
        module, _, part = key.removeprefix("mid/").removesuffix("_f64").partition("/")
        if module in MIDS and not (part == "temb" and module != "embedf"):  # the time is the same at all points
            ours, theirs = found[MIDS[module]], case.io[key]
            if isinstance(ours, tuple):
                ours = ours[1].transpose(1, 2) if part == "coords" else ours[0]
            # TIGER's code of positions has sines of tens of thousands of radians, lost to 1e-3 in float32
            lost = not suffix and name.startswith("tiger") and module in AFTER_POSITIONS
            close(strided(ours, theirs), theirs, 1e-3 if lost else rtol)
            compared += 1
    assert compared >= 10


@torch.no_grad()
def on_the_way(net, x, t):
    """Return what every module of a net gives, by its name."""
    found, names = {}, {module: name for name, module in net.named_modules()}

    def keep(module, given, out):
        found[names[module]] = out  # and return None: a value would take the output's place

    for module in names:
        module.register_forward_hook(keep)
    net(x, t)
    return found


def strided(ours, theirs):
    """Return every so many entries along each dimension that is stored so."""
    for dim, (full, kept) in enumerate(zip(ours.shape, theirs.shape, strict=True)):
        if full != kept:
            ours = ours.index_select(dim, torch.arange(0, full, -(-full // kept)))
    return ours


@every_case_and_precision
def test_losses_and_gradients(golden, name, suffix):
    dtype, rtol = PRECISIONS[suffix]
    case = case_of(golden, name)
    model = case.model(dtype)
    clouds = case.clouds("loss/x0" if "loss/x0" in case.io else "x0", dtype)
    terms = model.objectives.values(
        model.denoiser,
        clouds[:, case.given :],
        case.io["loss/t"] + 1,
        case.clouds("loss/noise", dtype),
        case.condition(clouds),
    )["simple"]
    close(terms.detach(), case.io[f"loss/per_cloud{suffix}"], rtol)
    terms.mean().backward()
    gradients = {key: parameter.grad for key, parameter in pvd.net_of(model).named_parameters()}
    whole = math.hypot(*(float(gradient.norm()) for gradient in gradients.values()))
    norms = dict(zip(case.io["loss/all_grad_names"], case.io[f"loss/all_grad_norms{suffix}"], strict=True))
    assert len(norms) == len(gradients)
    # A sum that cancels has the float32 error of its terms. And a bias before a norm of one channel a group has no
    # gradient but rounding: all errors are beside a hundredth of the whole.
    rtol = 10 * rtol if dtype == torch.float32 else rtol
    for key, norm in norms.items():
        ours = float(gradients[pvd.translate(str(key))].norm())
        assert abs(ours - float(norm)) <= rtol * (float(norm) + 0.01 * whole), key
    for key, gradient in case.io.items():
        if key.startswith("loss/grad/") and key.endswith("_f64") == bool(suffix):
            ours = gradients[pvd.translate(key.removeprefix("loss/grad/").removesuffix("_f64"))]
            error = (ours - gradient.reshape(ours.shape)).abs().max()
            assert error <= rtol * (gradient.abs().max() + 0.01 * whole), key


@pytest.mark.parametrize(("name", "parameters"), [("pvd", 27_649_987), ("tiger", 70_031_235)])
def test_the_published_nets_keys(golden, name, parameters):
    path = golden.parent / "sota" / "keys" / f"{name}.txt"
    if not path.is_file():
        pytest.skip(f"PCDIFF_GOLDEN: no {path}")
    lines = [line.split("\t") for line in path.read_text().splitlines() if "\t" in line]
    shapes = {key: tuple(int(size) for size in shape.strip("()").split(",") if size) for key, shape in lines}
    with torch.device("meta"):
        net = PVCNN(pvd.published({f"model.module.{key}": None for key in shapes}))
    own = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    theirs = {pvd.translate(f"model.module.{key}"): shape for key, shape in shapes.items()}
    assert len(theirs) == len(shapes)
    assert set(theirs) == set(own)
    # linear layers are convolutions of one place there
    assert all([n for n in theirs[key] if n > 1] == [n for n in own[key] if n > 1] for key in own)
    assert sum(math.prod(shape) for shape in own.values()) == parameters
