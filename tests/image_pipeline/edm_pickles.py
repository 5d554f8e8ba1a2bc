"""Network pickles as NVlabs/edm writes them: persistent objects with source, made without that project."""

import contextlib
import pickle
import sys
import types

import numpy as np
import torch
from torch import nn

from image_pipeline.interop import edm
from image_pipeline.interop.weights import names_of
from pcdiff.nets.attention import SelfAttention

SOURCE = "raise RuntimeError('the source in the pickle was run')"


class Persistent:
    """Pickles as an object of a persistent class does: its class's source, name and state, behind one function."""

    def __init__(self, class_name, state):
        self.meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name, "state": state}

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,), None


@contextlib.contextmanager
def foreign_modules():
    """Let the pickler find the names that such pickles ask for."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the pickle was executed")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    easy = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    made = {
        name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    }
    made["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    made["dnnlib.util"].EasyDict = easy
    sys.modules.update(made)
    try:
        yield easy
    finally:
        for name in made:
            del sys.modules[name]


def module(class_name, parameters=(), modules=(), **attributes):
    """Return a persistent module; `modules` are pairs, so that ModuleDicts may stand among them."""
    state = {
        "training": False,
        "_parameters": dict(parameters),
        "_buffers": {"resample_filter": torch.ones(1, 1, 2, 2) / 4} if class_name == "Conv2d" else {},
        "_non_persistent_buffers_set": set(),
        "_modules": dict(modules),
        "skip_scale": np.sqrt(0.5),  # a numpy number, as the project's own attributes are
        **attributes,
    }
    return Persistent(class_name, state)


def tree(tensors, class_name, **attributes):
    """Return the modules that hold tensors by dotted names, ModuleDicts for `enc` and `dec`."""
    own = {name: nn.Parameter(value) for name, value in tensors.items() if "." not in name}
    children = {}
    for name, value in tensors.items():
        head, _, tail = name.partition(".")
        if tail:
            children.setdefault(head, {})[tail] = value
    modules = {}
    for name, inner in children.items():
        modules[name] = tree(inner, "Conv2d" if "conv" in name else "UNetBlock")
        if name in ("enc", "dec"):
            holder = nn.ModuleDict()
            # a plain torch class, whose state holds persistent objects
            holder.__dict__["_modules"] = modules[name].meta["state"]["_modules"]
            modules[name] = holder
    return module(class_name, own, modules, **attributes)


def their_weights(net, kind, size):
    """Return a net's weights under EDM's names, q k v together channel by channel."""
    state = net.state_dict()
    for name, part in net.named_modules():
        if isinstance(part, SelfAttention):
            for leaf in ("weight", "bias"):
                rows = state[f"{name}.qkv.{leaf}"].unflatten(0, (3, part.num_heads, -1))
                rows = rows.movedim(0, 2).flatten(0, 2)
                state[f"{name}.qkv.{leaf}"] = rows[..., None, None] if leaf == "weight" else rows
    modules = {"DhariwalUNet": edm._dhariwal_modules, "SongUNet": edm._song_modules}[kind](net, size)
    weights = {theirs: state[ours] for ours, (theirs,) in names_of(net, modules, edm.PARTS).items()}
    if kind == "DhariwalUNet" and "map_label.weight" in weights:
        weights["map_label.weight"] = weights["map_label.weight"][:-1].t()
    return weights


def write(path, weights, preconditioning, kind, arguments, attributes, **changes):
    """Write a snapshot: the network, and what training keeps beside it."""
    with foreign_modules() as easy:
        inner = tree(weights, kind, _init_args=(), _init_kwargs=arguments)
        outer = module(preconditioning, {}, {"model": inner}, **attributes)
        snapshot = {"ema": outer, "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2}), "dataset_kwargs": easy(a=1)}
        path.write_bytes(pickle.dumps({**snapshot, **changes}))
    return path
