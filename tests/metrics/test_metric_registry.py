"""Metrics by name: the registry, its table and flags, and what one metric alone computes."""

import re
from pathlib import Path

import pytest
import torch
from refusals import refused

from pcdiff.commands import cli
from pcdiff.errors import InputError, UnknownName
from pcdiff.metrics import DISTANCES, METRICS, PROTOCOLS, Metric, NeighborMetric, evaluate, table
from pcdiff.metrics.columns import all_columns
from pcdiff.metrics.metric import Column
from pcdiff.metrics.registry import neighbor_metrics

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
SETS = {name: torch.randn(6, 16, 3, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ab")}
COMPARED = {"samples": SETS["a"], "reference": SETS["b"], "protocol": "raw", "resamples": 20}


def test_the_table_of_the_guide_is_the_registry():
    (rows,) = re.findall(r"^\| metric \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", TEXT, flags=re.MULTILINE)
    listed = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
    best = {"low": "low", "high": "high", "near 50": "50"}
    assert listed == [[f"`{name}`", cls.summary, best[cls.better]] for name, cls in METRICS.items()]


def test_columns_are_those_of_the_metrics_by_each_distance():
    names = [column.name for column in all_columns()]
    assert names[:10] == [
        *("MMD-CD", "COV-CD", "1-NNA-CD", "MMD-EMD", "COV-EMD", "1-NNA-EMD"),
        *("JSD", "JSD-normalized", "P-FID", "P-IS"),
    ]
    assert sorted(DISTANCES) == sorted({d for protocol in PROTOCOLS.values() for d in protocol.distances})


@pytest.mark.parametrize("name", [name for name, cls in METRICS.items() if getattr(cls, "by_default", True)])
def test_a_metric_alone_is_what_it_is_among_all(name):
    whole, alone = evaluate(**COMPARED), evaluate(**COMPARED, metrics=[name])
    keys = [f"{name}-{distance}" for distance in ("CD", "EMD")] if name in neighbor_metrics() else [name]
    assert alone["scores"] == {key: whole["scores"][key] for key in keys}
    intervals = {"resamples", "level", "seed", *keys}
    assert alone["intervals"] == {key: whole["intervals"][key] for key in intervals}
    assert bool(alone["terms"]) == bool(alone["nearest"]) == (name in neighbor_metrics())
    assert table(alone)


def test_metrics_of_ones_own_of_sets_and_of_neighbors(monkeypatch):
    class MeanOffset(Metric):
        scale = 1e3

        def score(self, samples, reference):
            return (samples.mean(dim=(0, 1)) - reference.mean(dim=(0, 1))).norm()

    class Farthest(NeighborMetric):
        scale = None

        def score(self, found):
            return found.reference_distance.max()

        def terms(self, record):
            return neighbor_metrics()["MMD"].terms(record)

    monkeypatch.setitem(METRICS, "mean-offset", MeanOffset)
    monkeypatch.setitem(METRICS, "farthest", Farthest)
    result = evaluate(**COMPARED | {"reference": SETS["a"] + torch.tensor([3.0, 0.0, 4.0])})
    assert result["scores"]["mean-offset"] == pytest.approx(5, abs=1e-5)
    assert "mean-offset" not in result["intervals"]
    farthest = max(result["terms"]["CD"]["reference_distance"])
    assert result["scores"]["farthest-CD"] == farthest
    assert Column("farthest-EMD", "farthest-EMD", 10.0, "low", 2) in all_columns()
    assert "mean-offset ×10³ ↓" in table(result)


@pytest.mark.parametrize("metrics", [["fid"], []])
def test_unknown_metrics_are_refused(metrics):
    with pytest.raises(InputError, match=r"metrics? must be .*JSD.* got "):
        evaluate(**COMPARED, metrics=metrics)


def test_the_flag_names_them_all_and_is_checked_before_any_work(capsys):
    with pytest.raises(SystemExit):
        cli.parse_evaluation(["--help"])
    shown = capsys.readouterr().out.partition("--metrics")[2].partition("--emd")[0]
    assert set(METRICS) <= set(re.findall(r"[\w-]+", shown))
    files = ["--samples", "a.npy", "--reference", "b.npy"]
    assert cli.parse_evaluation([*files, "--metrics", "JSD", "MMD"]).metrics == ("JSD", "MMD")
    with refused(UnknownName, what="metric", name="FID"):
        cli.parse_evaluation([*files, "--metrics", "FID"])
    with pytest.raises(InputError, match="--metrics goes with --run or --samples only"):
        cli.parse_evaluation(["--reconstructions", "a.npy", "--reference", "b.npy", "--metrics", "JSD"])
