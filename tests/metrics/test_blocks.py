"""Metrics are computed in blocks by whoever the caller says, and know nothing of jobs, processes or signals."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from pcdiff.metrics import evaluate
from pcdiff.metrics.generation import generation_scores

ROOT = Path(__file__).resolve().parent.parent.parent
JOBS = ("resumable", "stopping", "distributed", "run_folder", "file_lock")


@pytest.mark.parametrize("room", ["pcdiff/metrics", "image_pipeline/metrics"])
def test_no_metric_imports_the_machinery_of_jobs(room):
    found = []
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
                found += [f"{path.name}: {name}" for name in names for job in JOBS if f"runtime.{job}" in name]
    assert not found


def test_blocks_go_to_the_callers_map_in_order():
    generator = torch.Generator().manual_seed(0)
    samples, reference = torch.rand(2, 5, 32, 3, generator=generator)
    asked = []

    def backwards(name, blocks, compute):
        """Compute the last block first, and hand them back in order."""
        asked.append(name)
        done = [compute(block) for block in reversed(blocks)]
        assert all(isinstance(array, np.ndarray) for arrays in done for array in arrays)
        return done[::-1]

    sets = {"samples": samples, "reference": reference}
    assert evaluate(**sets, map_blocks=backwards) == evaluate(**sets)
    assert len(set(asked)) == len(asked) > 0  # each piece of work has a name of its own
    assert generation_scores(**sets, map_blocks=backwards) == generation_scores(**sets)
