"""Every reader of files: small sound files to mutate, and how they are read."""

# ruff: noqa: E402 - the helpers of other tests lie on a path of their own

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [
    str(ROOT / part) for part in ("", "tests", "tests/image_pipeline", "tests/interop", "tests/metrics")
]

import edm_pickles
import foreign_files
import image_files
import test_adm
import test_comparison
import test_diffusers_folders
import test_edm_pickles
import test_files_fuzz
import test_native_files
from dpm_files import dpm_checkpoints
from fuzz_mutations import (
    Mutation,
    gzip_inside,
    journal_settings,
    json_value,
    safetensors_facts,
    zip_member,
)
from small_models import small_model, small_run

import pcdiff
from image_pipeline.commands.flags import Evaluate
from image_pipeline.configs import ImageRunConfig
from image_pipeline.configs import read_config as read_image_config
from image_pipeline.data import load_images
from image_pipeline.data.image_files import read_images, save_images
from image_pipeline.interop import abarankab, adm, diffusers, edm, native, ncsn, score_sde
from image_pipeline.metrics.statistics import FeatureStatistics, load_statistics, save_statistics
from image_pipeline.model import ImageModel
from image_pipeline.models.loading import load_model
from pcdiff.config import EvaluateConfig, TrainConfig, check, to_json
from pcdiff.config.files import read_config, read_settings, write_settings
from pcdiff.data import load_clouds
from pcdiff.diffusion import discrete_process
from pcdiff.interop import dpm, read_cloud_set
from pcdiff.metrics.comparison import compare, read_result
from pcdiff.models import build_model
from pcdiff.nets import UNet, UNetConfig
from pcdiff.runtime import run_folder
from pcdiff.runtime.memory_limit import Budget, within
from pcdiff.runtime.resumable import ResultCache, ResumableMap
from pcdiff.training import Trainer, checkpoint

SMALL = {
    "latent_dim": 4, "encoder_widths": (4, 8), "encoder_head_widths": (4,), "flow_depth": 1, "flow_hidden_dim": 4,
    "net_widths": (4, 8), "num_steps": 4,
}  # fmt: skip
DATASET = {"name": "made", "stand_in": True, "categories": ["chair"], "fingerprint": "0123456789abcdef"}


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        write: writes sound files into a folder and returns those to mutate.
        read: reads the folder's mutated file, `read(path)`.
        mutations: of the format, beside those of bytes.
    """

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    mutations: tuple[Mutation, ...] = ()


def _clouds(*suffixes: str) -> Reader:
    def write(folder: Path) -> list[Path]:
        (folder / "all").mkdir()
        kept = []
        for path in test_files_fuzz.samples(folder / "all"):
            if path.suffix in suffixes:
                kept.append(Path(shutil.move(path, folder / path.name)))
        shutil.rmtree(folder / "all")
        return kept

    more = (zip_member,) if {".npz", ".pt"} & set(suffixes) else ()
    return Reader(write, lambda path: read_cloud_set(path, mesh_points=8), more)


def _shapenet_hdf5(folder: Path) -> list[Path]:
    clouds = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    for name, options in (("plain", {}), ("packed", {"chunks": (1, 4, 3), "compression": "gzip", "shuffle": True})):
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            for split in ("train", "val", "test"):
                file.create_dataset(f"03001627/{split}", data=clouds, **options)
    return sorted(folder.iterdir())


def _pc15k(folder: Path) -> list[Path]:
    for split in ("train", "val", "test"):
        place = folder / "data" / "03001627" / split
        place.mkdir(parents=True)
        for k in range(2):
            np.save(place / f"{k}.npy", np.random.default_rng(k).normal(size=(4, 3)).astype(np.float32))
    return [folder / "data/03001627/train/0.npy"]


def _run_checkpoint(folder: Path) -> list[Path]:
    kinds = {
        "flow": SMALL,
        "gaussian": SMALL | {"kind": "gaussian"},
        "cnf": SMALL | {"flow": "cnf", "cnf_widths": (4,)},
        "autoencoder": SMALL | {"kind": "autoencoder", "frequencies": 1},
    }
    for name, model in kinds.items():
        torch.manual_seed(0)
        state = {f"model.{k}": v for k, v in small_model(model).state_dict().items()}
        config = json.loads(to_json(small_run(model)))
        facts = {"config": config, "dataset": DATASET, "statistics": {}, "version": "0", "step": 3, "best": None}
        checkpoint.save(folder / f"{name}.safetensors", state, facts)
    return sorted(folder.iterdir())


class _Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def draw(self, batch, count, generator):
        return {"noise": torch.randn(count, 2, generator=generator)}

    def loss_terms(self, batch, noise):
        return {"loss": (self.layer(batch + noise) ** 2).mean()}


@cache
def _trainer(folder: Path) -> Trainer:
    torch.manual_seed(0)
    config = TrainConfig(max_iters=10, batch_size=2, ema_decay=0.5, keep=1)
    batches = lambda step, rows: torch.ones(2, 2)[rows]  # noqa: E731
    return Trainer(_Tiny(), batches, config, folder, {"dataset": DATASET, "config": {}}, 0, torch.device("cpu"))


def _resumed(folder: Path) -> list[Path]:
    trainer = _trainer(folder)
    trainer.train_step()
    trainer.best = {"score": 1.0, "step": 1}
    trainer.save()
    return [trainer.checkpoints.path("last")]


def _config(folder: Path) -> list[Path]:
    for name, config in (("flow", small_run(SMALL)), ("cnf", small_run(SMALL | {"flow": "cnf"}))):
        run_folder.write_config(folder / name, config)
    return [folder / "flow/config.json", folder / "cnf/config.json"]


def _read_config(path: Path) -> None:
    config = read_config(path.parent)
    check(config)
    within(Budget.of_machine(), lambda: build_model(config))


def _image_config(folder: Path) -> list[Path]:
    run_folder.write_config(folder / "run", ImageRunConfig())
    return [folder / "run/config.json"]


def _evaluation(folder: Path) -> list[Path]:
    write_settings(folder / "a", EvaluateConfig(run=Path("x"), seed=1))
    write_settings(folder / "b", Evaluate(run=Path("x")))
    return [folder / "a/evaluation.json", folder / "b/evaluation.json"]


def _read_evaluation(path: Path) -> None:
    if path.parent.name == "a":
        read_settings(path.parent)
    else:
        from image_pipeline.commands.parsing import _evaluation_default

        _evaluation_default(["--resume", str(path.parent)])


def _results(folder: Path) -> list[Path]:
    made = test_comparison.RESULT, test_comparison._scored(n=3), test_comparison._reconstructed()
    for name, result in zip(("made", "scored", "again"), made, strict=True):
        (folder / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")
    return sorted(folder.iterdir())


def _compared(path: Path) -> None:
    results = [("a", read_result(path)), ("b", read_result(path))]
    assert "\x1b" not in compare(results)


def _journal(folder: Path) -> list[Path]:
    with ResultCache(folder / "results.partial", {"seed": 1, "clouds": "ab", "sizes": [1, 2]}) as journal:
        arrays = (np.arange(6.0).reshape(2, 3), np.array(True))
        list(ResumableMap(journal).map("blocks", range(3), lambda k: arrays))
    return [folder / "results.partial"]


def _read_journal(path: Path) -> None:
    ResultCache(path, {"seed": 1, "clouds": "ab", "sizes": [1, 2]}).close()


def _image_folder(folder: Path) -> list[Path]:
    place = folder / "images"
    x = image_files.pictures(8, side=8)
    for k in range(8):
        image_files.png(place / f"{k}.png", x[k])
    table = {"labels": [[f"{k}.png", k % 2] for k in range(8)], "class_names": ["cat", "dog"]}
    (place / "dataset.json").write_text(json.dumps(table))
    return [place / "dataset.json"]


def _zip(folder: Path) -> list[Path]:
    image_files.stylegan_zip(folder / "a.zip")
    image_files.stylegan_zip(folder / "b.zip", with_labels=False)
    return sorted(folder.iterdir())


def _pixels(images: Any) -> None:
    if len(images):
        images.images[torch.arange(len(images))]


def _one_image(folder: Path) -> list[Path]:
    x = image_files.pictures(1, side=8)[0].transpose(1, 2, 0).copy()
    image = Image.fromarray(x)
    for kind in ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm"):
        image.save(folder / f"a.{kind}")
    image.convert("L").save(folder / "gray.png")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(folder / "deep.png")
    return sorted(folder.iterdir())


def _image_arrays(folder: Path) -> list[Path]:
    images = torch.from_numpy(image_files.pictures(3, side=8))
    save_images(folder / "a.npz", images)
    np.save(folder / "a.npy", images.permute(0, 2, 3, 1).numpy())
    return sorted(folder.iterdir())


def _idx(suffix: str) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        rng = np.random.default_rng(0)
        for part in ("train", "t10k"):
            image_files.idx(folder / f"{part}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (5, 4, 4)))
            image_files.idx(folder / f"{part}-labels-idx1-ubyte{suffix}", rng.integers(0, 10, 5))
        return [folder / f"train-images-idx3-ubyte{suffix}", folder / f"train-labels-idx1-ubyte{suffix}"]

    return write


def _cifar_binary(folder: Path) -> list[Path]:
    for name in ("data_batch_1.bin", "test_batch.bin"):
        record = np.random.default_rng(1).integers(0, 10, (1, 3073)).astype(np.uint8)
        (folder / name).write_bytes(record.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class{k}" for k in range(10)))
    return [folder / "data_batch_1.bin", folder / "batches.meta.txt"]


def _cifar_pickle(folder: Path) -> list[Path]:
    image_files.cifar_python(folder / "two", fine=False)
    image_files.cifar_python(folder / "five", fine=False, protocol=5)
    return [folder / part / name for part in ("two", "five") for name in ("data_batch_1", "batches.meta")]


def _lmdb(folder: Path) -> list[Path]:
    (folder / "env").mkdir()
    image_files.lsun_lmdb(folder / "env")
    return [folder / "env/data.mdb"]


def _edm(folder: Path) -> list[Path]:
    for name, (outer, kind, arguments, attributes) in test_edm_pickles.CASES.items():
        net = test_edm_pickles.net_of(kind, arguments)
        weights = edm_pickles.their_weights(net, kind, test_edm_pickles.SIZE)
        path = folder / f"{name.replace(' ', '-')}.pkl"
        edm_pickles.write(path, weights, outer, kind, arguments, attributes)
    return sorted(folder.iterdir())


def _with_config(load: Callable[[Path, Path], Any]) -> Callable[[Path], Any]:
    """Read weights and the config that lies beside them, whichever of the two was mutated."""
    return lambda path: load(path.with_suffix(".pth"), path.with_suffix(".json"))


def _score_sde(folder: Path) -> list[Path]:
    for k, name in enumerate(foreign_files.NETS):
        config, _, stored = foreign_files.checkpoint_of(name)
        torch.save(stored, folder / f"{k}.pth")
        (folder / f"{k}.json").write_text(json.dumps(config))
    return sorted(folder.iterdir())


def _ncsn(folder: Path) -> list[Path]:
    for k, name in enumerate(("ncsn", "ncsnv2_128")):
        stored = foreign_files.checkpoint_of(name)[2]["model"]
        torch.save([stored, {}, 1, 2, stored] if k else [stored, {}], folder / f"{k}.pth")
    return sorted(folder.iterdir())


def _adm(folder: Path) -> list[Path]:
    torch.manual_seed(0)
    net = UNet(adm.adm_config.unet_config(test_adm.SMALL, None))
    test_adm.written(folder, net, adm._unet_modules).rename(folder / "a.pth")
    config = test_adm.SMALL | {"diffusion_steps": 1000, "timestep_respacing": "20"}
    (folder / "a.json").write_text(json.dumps(config))
    return sorted(folder.iterdir())


def _abarankab(folder: Path) -> list[Path]:
    unet = {
        "img_channels": 3, "base_channels": 8, "channel_mults": [1, 2], "time_emb_dim": 16, "num_res_blocks": 1,
        "attention_resolutions": [1], "num_groups": 4, "dropout": 0.1,
    }  # fmt: skip
    torch.manual_seed(0)
    net = UNet(abarankab._unet_config(unet))
    names, state = abarankab.names_of(net, abarankab._modules(net), abarankab.PARTS), net.state_dict()
    weights = {}
    for ours, (theirs,) in names.items():
        weights |= {f"model.{theirs}": state[ours], f"ema_model.{theirs}": state[ours]}
    torch.save(weights | {"betas": discrete_process("linear", 8).betas[1:]}, folder / "a.pth")
    (folder / "a.json").write_text(json.dumps({"unet": unet, "img_size": 8}))
    return sorted(folder.iterdir())


def _diffusers(folder: Path) -> list[Path]:
    paths = []
    for case in ("ddpm", "adm"):
        config = UNetConfig(**{**test_diffusers_folders.BASE, **test_diffusers_folders.CASES[case]})
        diffusers.save(test_diffusers_folders.made(UNet(config)), place := folder / case)
        paths += [place / "unet/config.json", place / "scheduler/scheduler_config.json", place / "model_index.json"]
        paths += [place / "unet" / diffusers.WEIGHTS]
    return paths


def _read_diffusers(path: Path) -> None:
    place = next(parent for parent in path.parents if parent.name in ("ddpm", "adm"))
    diffusers.load(place)


def _native(folder: Path) -> list[Path]:
    for name in test_native_files.NETS:
        native.save(folder / f"{name}.safetensors", test_native_files.model_of(name))
    return sorted(folder.iterdir())


def _image_run(folder: Path) -> list[Path]:
    config = ImageRunConfig(
        net="unet",
        model=UNetConfig(
            in_channels=1, out_channels=1, model_channels=8, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4,
            attention_factors=(),
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    model = ImageModel(config, (1, 8, 8))
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    dataset = {"name": "digits", "shape": [1, 8, 8], "preprocessing": "none", "splits": "x", "fingerprint": "ab"}
    facts = {"config": json.loads(to_json(config)), "dataset": dataset, "version": "0", "step": 3, "best": None}
    checkpoint.save(folder / "a.safetensors", state, facts)
    return sorted(folder.iterdir())


def _statistics(folder: Path) -> list[Path]:
    statistics = FeatureStatistics(torch.zeros(3).double(), torch.eye(3).double(), 8, None, {"name": "made"})
    save_statistics(folder / "a.npz", statistics)
    np.savez(folder / "b.npz", mu=np.zeros(2), sigma=np.eye(2))
    return sorted(folder.iterdir())


READERS: dict[str, Reader] = {
    "npy": _clouds(".npy"),
    "npz": _clouds(".npz"),
    "h5": _clouds(".h5", ".hdf5"),
    "pt": _clouds(".pt", ".pth"),
    "ply": _clouds(".ply"),
    "off": _clouds(".off"),
    "obj": _clouds(".obj"),
    "stl": _clouds(".stl"),
    "glb": _clouds(".glb"),
    "xyz": _clouds(".xyz"),
    "pcd": _clouds(".pcd"),
    "shapenet.hdf5": Reader(_shapenet_hdf5, lambda path: load_clouds(path, "all", "train", "global_unit")),
    "PC15k folder": Reader(_pc15k, lambda path: load_clouds(path.parents[2], "all", "train", "shape_unit")),
    "checkpoint": Reader(_run_checkpoint, pcdiff.load, (safetensors_facts,) * 3),
    "resumed checkpoint": Reader(
        _resumed, lambda path: _trainer(path.parents[1]).restore(), (safetensors_facts,) * 3
    ),
    "config.json": Reader(_config, _read_config, (json_value,) * 3),
    "image config.json": Reader(_image_config, lambda path: read_image_config(path.parent), (json_value,) * 3),
    "evaluation.json": Reader(_evaluation, _read_evaluation, (json_value,) * 3),
    "results.json": Reader(_results, _compared, (json_value,) * 3),
    "journal": Reader(_journal, _read_journal, (journal_settings,)),
    "dataset.json": Reader(_image_folder, lambda path: load_images(path.parent, "all"), (json_value,)),
    "image zip": Reader(_zip, lambda path: _pixels(load_images(path, "all", size=8)), (zip_member,)),
    "image file": Reader(_one_image, lambda path: read_images(path, None)),
    "image arrays": Reader(_image_arrays, lambda path: read_images(path, None), (zip_member,)),
    "idx": Reader(_idx(""), lambda path: load_images(path.parent, "train")),
    "idx.gz": Reader(_idx(".gz"), lambda path: load_images(path.parent, "train"), (gzip_inside,)),
    "CIFAR binary": Reader(_cifar_binary, lambda path: load_images(path.parent, "train")),
    "CIFAR pickle": Reader(_cifar_pickle, lambda path: load_images(path.parent, "train")),
    "lmdb": Reader(_lmdb, lambda path: _pixels(load_images(path.parent, "all", size=8))),
    "EDM pickle": Reader(_edm, edm.load),
    "score_sde": Reader(_score_sde, _with_config(score_sde.load), (json_value, zip_member)),
    "NCSN": Reader(_ncsn, ncsn.load, (zip_member,)),
    "ADM": Reader(_adm, _with_config(adm.load), (json_value, zip_member)),
    "abarankab": Reader(_abarankab, _with_config(abarankab.load), (json_value, zip_member)),
    "diffusers folder": Reader(_diffusers, _read_diffusers, (json_value, safetensors_facts)),
    "native": Reader(_native, native.load, (safetensors_facts,) * 3),
    "image checkpoint": Reader(_image_run, load_model, (safetensors_facts,) * 3),
    "statistics": Reader(_statistics, load_statistics, (zip_member,)),
    "DPM checkpoint": Reader(dpm_checkpoints, dpm.load, (zip_member,)),
}
