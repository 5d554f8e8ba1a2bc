"""Make a second golden set, of the same layout and other settings: `python tests/golden_sets.py FOLDER`.

Numbers come from closed forms, scipy's solvers and the plain account of the peers' nets (`plain_nets.py`), so a
test of the golden files that knows a setting instead of reading it fails on this set. What is not made is skipped.
"""

import argparse
from pathlib import Path

import golden_set_chains as chains
import golden_set_nets as nets
import golden_set_sdes as sdes


def make(folder: Path) -> None:
    """Write the set into `folder`, made where it is missing."""
    two = folder / "2d"
    for name in ("guided_diffusion", "diffusers", "edm", "losses", "samplers", "sde_tables", "extras", "ncsnv2"):
        (two / name).mkdir(parents=True, exist_ok=True)
    guided = two / "guided_diffusion"
    chains.write_tables(guided)
    # chains of other lengths, with 0.1 / T and 20 / T at the ends, of one and two channels
    chains.write_p_q(guided, "linear", 300, channels=2)
    chains.write_p_q(guided, "cosine", 40, channels=1)
    chains.write_loops(guided, "linear", 60, list(range(0, 60, 6)), channels=2)
    chains.write_loops(guided, "cosine", 8, list(range(8)), channels=1)
    chains.write_schedulers(two / "diffusers")
    for kind in ("vp", "subvp", "ve"):
        sdes.write_tables(two / "sde_tables", kind)
        sdes.write_losses(two / "losses", kind)
        sdes.write_flow(two / "samplers", kind)
        for model, place in (("gauss", "unit"), ("gmm", "centered")):
            sdes.write_likelihood(two / "samplers", kind, model, place)
    sdes.write_edm(two / "edm")
    nets.write_adm(guided)
    bare = {"num_classes": None, "num_head_channels": 8, "use_scale_shift_norm": True, "out_channels": 1}
    new = {"use_new_attention_order": True, "resblock_updown": True, "_note": {"conv_resample": True}}
    nets.write_adm(guided, "guided_new", **bare, **new)
    nets.write_abarankab(two / "extras")
    nets.write_diffusers(two / "diffusers")
    nets.write_refinenet(two / "ncsnv2", "ncsn_deeper", "ncsn", "deeper")
    nets.write_refinenet(two / "ncsnv2", "ncsnv2_relu", "ncsnv2", "base", nonlinearity="relu")
    nets.write_refinenet(two / "ncsnv2", "ncsnv2_variance", "ncsnv2", "deepest", normalization="VarianceNorm")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the set is written")
    make(parser.parse_args().folder)
