"""Configs: JSON there and back, presets and flags, the help text, and DPM's learning-rate schedule."""

import dataclasses
import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refused
from script_tools import help_of_each_flag

from image_pipeline.configs.config import DataConfig as ImageDataConfig
from pcdiff.commands import cli
from pcdiff.config import (
    CloudObjectiveConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    ProcessConfig,
    RunConfig,
    SamplingConfig,
    TrainConfig,
    check,
    from_dict,
    run_from_dict,
    to_json,
    with_part,
)
from pcdiff.config.files import read_config
from pcdiff.config.presets import AUTOENCODER_PRESETS, GENERATOR_PRESETS, preset
from pcdiff.errors import InputError, UnknownName
from pcdiff.nets import PVCNNConfig, SetTransformer
from pcdiff.runtime.run_folder import write_text
from pcdiff.training import learning_rate

ALL_PRESETS = {
    f"{script} {name}": config
    for script, presets in (("gen", GENERATOR_PRESETS), ("ae", AUTOENCODER_PRESETS))
    for name, config in presets.items()
}
# what flags of a part begin with
PARTS = {
    "model": (ModelConfig, ""),
    "process": (ProcessConfig, "process."),
    "objective": (CloudObjectiveConfig, ""),
    "sampling": (SamplingConfig, "sampling."),
    "data": (DataConfig, ""),
    "train": (TrainConfig, ""),
}


def flags():
    """Yield every flag without its hyphens, and the path of its field in a config."""
    for field in dataclasses.fields(RunConfig):
        if field.name not in PARTS:
            yield "import" if field.name == "imports" else field.name, (field.name,)
    for name, (part, prefix) in PARTS.items():
        for field in dataclasses.fields(part):
            if field.name.endswith("_options"):
                for option in dataclasses.fields(getattr(part(), field.name)):
                    yield f"{field.name.removesuffix('_options')}.{option.name}", (name, field.name, option.name)
            elif dataclasses.is_dataclass(field.type):
                for inner in dataclasses.fields(field.type):
                    yield f"{prefix}{field.name}.{inner.name}", (name, field.name, inner.name)
            elif field.name not in ("plan", "class_names"):  # written by the run, no flag
                yield prefix + field.name, (name, field.name)


def back(config):
    return run_from_dict(json.loads(to_json(config)), "here")


@pytest.mark.parametrize("name", sorted(ALL_PRESETS))
def test_every_preset_survives_json(name):
    assert back(ALL_PRESETS[name]) == ALL_PRESETS[name]


def test_paths_tuples_and_numbers_survive_json():
    model = with_part(ModelConfig(), "net", "pointwise", widths=(7,))
    config = RunConfig(
        out=Path("runs/Möbel"),
        data=DataConfig(dataset_path=Path("/a/b.hdf5")),
        model=with_part(model, "encoder", "pointnet", head_widths=()),
        train=TrainConfig(max_minutes=0.1 + 0.2, lr=1e-300, ema_decay=0.5),
    )
    assert back(config) == config
    assert isinstance(back(config).data.dataset_path, Path)
    evaluation = EvaluateConfig(run=Path("runs/a"), num_points=5)
    assert from_dict(EvaluateConfig, json.loads(to_json(evaluation)), "here") == evaluation


def test_fields_left_out_take_their_defaults():
    """A run made before a field existed can still be opened."""
    assert run_from_dict({"seed": 5, "model": {"latent_dim": 3}}, "here") == RunConfig(
        seed=5, model=ModelConfig(latent_dim=3)
    )


def test_former_names_of_fields_are_read():
    assert run_from_dict({"data": {"normalisation": "global"}}, "here").data == DataConfig(normalization="global")
    of_images = ImageDataConfig(dequantize=True)
    assert from_dict(ImageDataConfig, {"dataset_path": "digits", "dequantise": True}, "here") == of_images


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"color": 1}, r"here: unknown fields \['color'\] for RunConfig; known: .*'seed'"),
        ({"model": {"latent": 1}}, r"here: unknown fields \['latent'\] for ModelConfig; known: .*'latent_dim'"),
        ({"model": None}, "here: expected the fields of ModelConfig, got None"),
        ([1], r"here: expected the fields of RunConfig, got \[1\]"),
        ({"seed": "5"}, "here: seed must be int, got '5'"),
        ({"seed": True}, "here: seed must be int, got True"),
        ({"seed": 1.5}, "here: seed must be int, got 1.5"),
        ({"out": 3}, r"here: out must be .*Path \| None, got 3"),
        ({"train": {"lr": "fast"}}, "here: lr must be float, got 'fast'"),
        ({"train": {"lr": None}}, "here: lr must be float, got None"),
        ({"train": {"compile": 1}}, "here: compile must be bool, got 1"),
        ({"model": {"kind": "vqvae"}}, r"here: kind must be Literal\['latent'.*\], got 'vqvae'"),
        ({"model": {"net_options": {"widths": 8}}}, r"here: net: widths must be tuple\[int, \.\.\.\], got 8"),
        ({"model": {"net_options": {"widths": [8, "x"]}}}, r"widths must be tuple\[int, \.\.\.\], got \[8, 'x'\]"),
        (
            {"model": {"net": "unet3d"}},
            r"here: net must be one of pointwise, .*, or FILE.py:CLASS, got 'unet3d'",
        ),
        ({"model": {"net": 3}}, "here: net must be str, got 3"),
        ({"model": {"net_options": 3}}, "here: net: expected the fields of PointwiseConfig, got 3"),
        ({"process": {"name": "vp", "beta": 1}}, r"here: unknown fields \['beta'\] for ProcessConfig"),
    ],
)
def test_unknown_fields_and_wrong_types_are_named(values, message):
    with pytest.raises(InputError, match=message) as caught:
        run_from_dict(values, "here")
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_stand_for_floats():
    assert from_dict(RunConfig, {"train": {"lr": 1, "max_minutes": 5, "ema_decay": None}}, "here").train.lr == 1


def test_presets_by_name_and_the_list_of_them():
    for presets in (GENERATOR_PRESETS, AUTOENCODER_PRESETS):
        assert {"paper", "quick"} <= set(presets)
        for name, config in presets.items():
            assert preset(presets, name) is config
            assert config.preset == name
        with pytest.raises(InputError, match=r"--preset must be one of .*nope") as caught:
            preset(presets, "nope")
        assert all(name in str(caught.value) for name in presets)


@pytest.mark.parametrize("name", sorted(ALL_PRESETS))
def test_every_preset_is_possible(name):
    check(ALL_PRESETS[name])
    assert (ALL_PRESETS[name].model.kind == "autoencoder") == name.startswith("ae")


def test_the_paper_presets_are_dpms():
    gen, ae = GENERATOR_PRESETS["paper"], AUTOENCODER_PRESETS["paper"]
    assert gen == RunConfig()
    chain = gen.process
    assert (gen.model.latent_dim, chain.num_steps, chain.beta_1, chain.beta_T) == (256, 100, 1e-4, 0.02)
    assert (gen.model.prior_options.depth, gen.model.prior_options.hidden_dim) == (14, 256)
    assert gen.model.net_options.residual
    assert (gen.objective.kl_weight, gen.objective.times_per_cloud) == (1e-3, 1)
    assert (gen.train.lr, gen.train.batch_size, gen.train.max_grad_norm) == (2e-3, 128, 10.0)
    assert (gen.train.precision, gen.train.ema_decay, gen.train.warmup_iters) == ("fp32", None, 0)
    assert (ae.process.num_steps, ae.process.beta_T, ae.train.lr) == (200, 0.05, 1e-3)


def test_the_gecco_preset_is_its_recipe():
    """Of its configuration for ShapeNet's airplanes; its 13,481,103 parameters were counted in its own code."""
    gecco = GENERATOR_PRESETS["gecco"]
    assert sum(p.numel() for p in SetTransformer(gecco.model.net_options).parameters()) == 13_481_103
    assert (gecco.process.sigma_max, gecco.process.sigma_data, gecco.data.num_points) == (165.0, 1.0, 2048)
    assert (gecco.objective.objectives, gecco.objective.weights) == (("edm",), (100.0,))
    assert (gecco.objective.time_draw, gecco.objective.stratified_times) == ("log_uniform", True)
    assert (gecco.train.lr, gecco.train.lr_schedule, gecco.train.ema_decay) == (1e-4, "constant", 0.99)
    assert (gecco.train.batch_size, gecco.train.max_iters, gecco.data.normalization) == (
        48,
        250_000,
        "global_per_axis",
    )
    assert (gecco.sampling.sampler, gecco.sampling.num_steps, gecco.sampling.churn) == ("heun", 64, 0.5)


@pytest.mark.parametrize(
    ("category", "ends", "steps"),
    [
        ("airplane", (1e-5, 0.008), 177),
        ("chair", (1e-4, 0.02), 288),
        ("car", (1e-4, 0.02), 153),
        ("lamp", None, 288),
    ],
)
def test_the_pvd_preset_is_the_categorys_recipe(category, ends, steps):
    config = cli.parse_run(GENERATOR_PRESETS, ["--preset", "pvd", "--categories", category])
    chain, train = config.process, config.train
    assert (config.preset, config.data.categories, config.data.normalization) == ("pvd", category, "global")
    assert (chain.beta_1, chain.beta_T) == (ends or (1e-4, 0.02))
    assert (chain.schedule, chain.warm) == (("warm", 0.1) if category == "airplane" else ("linear", None))
    assert (chain.num_steps, chain.predicts, chain.time_input) == (1000, "eps", "step")
    assert config.model.net_options == PVCNNConfig()
    assert (train.batch_size, train.adam_beta1, train.adam_beta2, train.ema_decay) == (16, 0.5, 0.999, None)
    assert train.max_iters == 10_000 * steps
    rates = [learning_rate(step, train) for step in (0, steps - 1, steps, 1000 * steps)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-4 * 0.998, 2e-4 * 0.998**1000], rel=1e-9)
    tiger = cli.parse_run(GENERATOR_PRESETS, ["--preset", "tiger", "--categories", category])
    assert (tiger.process, tiger.train.batch_size) == (chain, 64)
    assert (tiger.model.net_options.branch_depth, tiger.model.net_options.global_attention) == (8, False)
    assert cli.parse_run(GENERATOR_PRESETS, ["--preset", "quick", "--categories", category]).process.name == "ddpm"


@pytest.mark.parametrize("name", [name for name in GENERATOR_PRESETS if name.startswith("set")])
def test_a_set_presets_rate_falls_to_the_end(name):
    config = GENERATOR_PRESETS[name]
    assert config.model.kind == "direct"
    assert config.train.lr_decay_end == config.train.max_iters
    assert config.preset == name


def test_no_two_flags_share_a_name():
    names = [name for name, _ in flags()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("flag", ["--latent-dim", "--latent_dim"])
@pytest.mark.parametrize("joined", [True, False])
def test_hyphens_and_underscores_are_one(flag, joined):
    argv = [f"{flag}=48"] if joined else [flag, "48"]
    assert cli.parse_run(GENERATOR_PRESETS, argv).model.latent_dim == 48


@pytest.mark.parametrize("argv", [["--preset", "quick"], ["--preset=quick"]])
@pytest.mark.parametrize("presets", [GENERATOR_PRESETS, AUTOENCODER_PRESETS])
def test_a_preset_sets_the_defaults(argv, presets):
    assert cli.parse_run(presets, argv) == presets["quick"]


def test_flags_go_over_the_preset_wherever_they_stand():
    expected = replace(GENERATOR_PRESETS["quick"], seed=3)
    expected = replace(expected, train=replace(expected.train, lr=0.5))
    for argv in (["--preset", "quick", "--seed", "3", "--lr", "0.5"], ["--lr=0.5", "--seed=3", "--preset=quick"]):
        assert cli.parse_run(GENERATOR_PRESETS, argv) == expected


def test_without_flags_it_is_the_paper():
    assert cli.parse_run(AUTOENCODER_PRESETS, []) == AUTOENCODER_PRESETS["paper"]


def test_an_unknown_preset_lists_the_known_ones():
    with refused(UnknownName, what="--preset", name="nope"):
        cli.parse_run(GENERATOR_PRESETS, ["--preset", "nope"])


@pytest.mark.parametrize("argv", [["--latent-dimm", "3"], ["--latent-dim", "many"], ["--kind", "vqvae"], ["--lr"]])
def test_flags_that_do_not_parse_are_named(argv):
    with pytest.raises(InputError, match=argv[0]):
        cli.parse_run(GENERATOR_PRESETS, argv)


def test_resuming_starts_from_the_runs_own_config(tmp_path):
    own = replace(GENERATOR_PRESETS["quick"], seed=77)
    write_text(tmp_path / "config.json", to_json(own))
    assert read_config(tmp_path) == own
    config = cli.parse_run(GENERATOR_PRESETS, ["--resume", str(tmp_path), "--max-iters", "9"])
    assert config == replace(own, resume=tmp_path, train=replace(own.train, max_iters=9))


@pytest.mark.parametrize("content", [None, "", "{oops", "3", '{"color": 1}', '{"seed": "x"}', "\udcff"])
def test_resuming_what_is_no_run(content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as caught:
        cli.parse_run(GENERATOR_PRESETS, ["--resume", str(tmp_path)])
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("presets", [GENERATOR_PRESETS, AUTOENCODER_PRESETS], ids=["gen", "ae"])
def test_every_flag_has_help_with_its_default(presets, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        cli.parse_run(presets, ["--help"], "What the script does.")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "What the script does." in text
    helps = help_of_each_flag(text)
    for name, path in flags():
        entry = helps[f"--{name.replace('_', '-')}"]
        value = functools.reduce(getattr, path, presets["paper"])
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        described, default = re.fullmatch(r"--\S+(.*)\(default: ([^)]*)\).*", entry).groups()
        assert default == shown, name
        assert len(described.split()) >= 4, f"{name}: {described!r} explains nothing"
        assert described.rstrip().endswith((".", "...")), f"{name}: {described!r} is no sentence"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--latent-dim", "0"], "latent_dim must be at least 1, got 0"),
        (["--net-widths", "8", "0"], r"net\.widths must be at least 1, got 0"),
        (["--num-points", "-5"], "num_points must be at least 1, got -5"),
        (["--seed", "-1"], r"seed must be in 0\.\.2\^63 - 1, got -1"),
        (["--kl-weight", "-1"], "kl_weight must be at least 0, got -1"),
        (["--lr", "0"], "lr must be above 0, got 0"),
        (["--lr", "nan"], "lr must be above 0, got nan"),
        (["--max-minutes", "0"], "max_minutes must be above 0, got 0"),
        (["--beta-T", "1"], r"beta_T must be in \(0, 1\), got 1"),
        (["--ema-decay", "1"], r"ema_decay must be in \(0, 1\), got 1"),
        (["--flexibility", "1.5"], r"flexibility must be in \[0, 1\], got 1.5"),
        (["--times-per-cloud", "7"], "times_per_cloud must divide num_points = 2048, got 7"),
    ],
)
def test_values_out_of_range_are_named_before_anything_is_made(argv, message):
    with pytest.raises(InputError, match=message):
        cli.parse_run(GENERATOR_PRESETS, argv)


def test_learning_rate_warms_up_holds_and_falls():
    config = TrainConfig(lr=1.0, end_lr=0.2, warmup_iters=4, lr_decay_start=10, lr_decay_end=14)
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2]
    assert [learning_rate(step, config) for step in range(17)] == pytest.approx(expected)


def golden_schedules(golden):
    path = golden / "3d/luost26/misc/misc.json"
    if not path.is_file():
        pytest.skip(f"PCDIFF_GOLDEN: no {path}")
    return json.loads(path.read_text())


def as_config(facts):
    return TrainConfig(
        lr=facts["start_lr"],
        end_lr=facts["end_lr"],
        lr_decay_start=facts["start_epoch"],
        lr_decay_end=facts["end_epoch"],
    )


@pytest.mark.golden
def test_golden_learning_rates(golden):
    for case in golden_schedules(golden)["linear_scheduler"]:
        config = as_config(case["cfg"])
        ours = [learning_rate(step, config) for step in case["steps"]]
        assert ours == pytest.approx(case["lr"], rel=1e-9)


@pytest.mark.golden
def test_golden_learning_rates_of_a_stepped_run(golden):
    """DPM steps its scheduler after the optimizer: our step k (from 0) runs at the rate after k calls."""
    case = golden_schedules(golden)["linear_scheduler_stepped"]
    config = as_config(case["cfg"])
    ours = [learning_rate(step, config) for step in range(len(case["lr_after_k_calls_of_step"]))]
    assert ours == pytest.approx(case["lr_after_k_calls_of_step"], rel=1e-9)
