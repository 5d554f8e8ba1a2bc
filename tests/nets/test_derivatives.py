"""Derivatives of the nets in their input, as sliced score matching, likelihoods and `torch.func` ask for them."""

import pytest
import torch

from image_pipeline.nets import MODELS, build_model
from pcdiff.nets import ClassifierConfig, EncoderClassifier, PointwiseNet, SetTransformer, SetTransformerConfig

SCORE_UNET = {
    "nf": 4,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
    "image_size": 8,
    "dropout": 0.0,
}
UNET = {"in_channels": 1, "out_channels": 1, "model_channels": 4, "channel_mult": (1, 2), "num_res_blocks": 1}
UNET |= {"attention_factors": (2,), "norm_groups": 2}
SONG = {
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 4,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "dropout": 0.0,
}
IMAGE_NETS = {
    "ncsn": {"num_channels": 1, "nf": 4},
    "ncsnv2": {"num_channels": 1, "nf": 4},
    "ddpm": {**SCORE_UNET, "num_channels": 1, "nf": 32, "ch_mult": (1, 1)},
    "ddpmpp": {**SCORE_UNET, "num_channels": 1},
    "ncsnpp": {**SCORE_UNET, "num_channels": 1},
    "song": SONG,
    "unet": UNET,
    "unet computed anew": {**UNET, "checkpoint": True},
}
OTHERS = ("classifier", "pointwise", "inducers", "full")


def build(name):
    """Return a net and its input in float64, every weight drawn: fresh nets answer 0."""
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 8)
    if name == "pointwise":
        net, x = PointwiseNet(4, widths=(8, 8)), torch.rand(2, 5, 3)
    elif name in ("inducers", "full"):
        sizes = {"width": 8, "depth": 1, "num_heads": 2, "num_inducers": 3, "norm_groups": 2}
        net, x = SetTransformer(SetTransformerConfig(name, **sizes), cond_dim=4), torch.rand(2, 5, 3)
    elif name == "classifier":
        net = EncoderClassifier(ClassifierConfig(**{**UNET, "out_channels": 3}, num_head_channels=4, image_size=8))
    else:
        net = build_model(name.split()[0], **IMAGE_NETS[name])
    for weight in net.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    t = torch.ones(2, dtype=torch.long)
    cond = (torch.rand(2, 4, dtype=torch.float64),) if x.dim() == 3 else ()
    return net.double(), x.double(), lambda v: net(v, t, *cond)


def test_every_image_net_is_here():
    assert {name.split()[0] for name in IMAGE_NETS} == set(MODELS)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch.func's own
@pytest.mark.parametrize("name", [*IMAGE_NETS, *OTHERS])
def test_a_second_derivative_is_that_of_the_first(name):
    """`v . grad(v . f)` twice over: both passes backwards, one each way, and a difference of first derivatives."""
    net, x, f = build(name)
    v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    u = torch.randn(f(x).shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))

    def first(y):
        y = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad((u * f(y)).sum(), y, create_graph=True)
        return y, (slope * v).sum()

    y, along = first(x)
    (second,) = torch.autograd.grad(along, y, retain_graph=True)
    along.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in net.parameters())
    # forward mode gives the same first derivative
    _, product = torch.func.jvp(f, (x,), (v,))
    torch.testing.assert_close((u * product).sum(), along.detach(), rtol=1e-6, atol=1e-9)
    # central differences in float64: rounding leaves 1e-16 / h, and kinks of poolings and units are not met so near
    h = 1e-6
    across = (float(first(x + h * v)[1].detach()) - float(first(x - h * v)[1].detach())) / (2 * h)
    assert float((second * v).sum()) == pytest.approx(across, rel=1e-3, abs=1e-5)


def test_plain_products_are_taken_only_where_an_input_is_differentiated(monkeypatch):
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(*args):
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        return attend(*args)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    _, x, f = build("unet")
    f(x)  # training: the weights alone are differentiated
    fused, seen = set(seen), []
    f(x.requires_grad_())
    assert fused == {True}
    assert set(seen) == {False}
    assert torch.backends.cuda.flash_sdp_enabled()
    seen.clear()
    with torch.no_grad():
        f(x)
    assert set(seen) == {True}
