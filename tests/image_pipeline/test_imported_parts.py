"""`--import my_parts.py`: a process, predictor, corrector and objective of one's own, in training and in use."""

import json

import numpy as np
import pytest
from image_runs import TINY, command
from script_tools import script

from image_pipeline.commands.parsing import parse
from pcdiff import diffusion
from pcdiff.errors import InputError
from pcdiff.runtime.user_modules import files_of, import_parts

PARTS = '''
import math
from pcdiff.diffusion import CORRECTORS, OBJECTIVES, PREDICTORS, PROCESSES, Process, append_dims


class Cosine(Process):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""

    T = 0.99
    num_scales = 1000

    def alpha(self, t):
        return (t.double() * math.pi / 2).cos()

    def sigma(self, t):
        return (t.double() * math.pi / 2).sin()

    def drift_rate(self, t):
        return -math.pi / 2 * (t.double() * math.pi / 2).tan()

    def diffusion(self, t):
        return (-2 * self.drift_rate(t)).sqrt()

    def t_of_log_snr(self, log_snr):
        return ((-log_snr.double() / 2).exp().atan() * 2 / math.pi).clamp(0, self.T)


def midpoint(denoiser, x, t, s, cond, noise):
    middle = (t + s) / 2
    half = x + append_dims(middle - t, x) * denoiser.velocity(x, t, cond)
    return x + append_dims(s - t, x) * denoiser.velocity(half, middle, cond)


def still(denoiser, x, t, cond, noise):
    return x


def absolute(denoiser, x0, t, noise, cond=None):
    eps = denoiser.eps(denoiser.process.perturb(x0, t, noise), t, cond)
    return (eps - noise).abs().flatten(1).mean(dim=1)


PROCESSES["cosine"] = Cosine
PREDICTORS["midpoint"] = lambda: midpoint
CORRECTORS["still"] = lambda: still
OBJECTIVES["absolute"] = absolute
'''


def forget():
    """Take the parts out of the registries again, as in a process that has not imported them."""
    for name in ("PROCESSES", "PREDICTORS", "CORRECTORS", "OBJECTIVES"):
        for key in ("cosine", "midpoint", "still", "absolute"):
            getattr(diffusion, name).pop(key, None)


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "my_parts.py").write_text(PARTS)
    yield tmp_path / "my_parts.py"
    forget()


def test_a_run_with_parts_of_ones_own(parts, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "new.png"
    flags = "--process.name cosine --objectives absolute --sampler midpoint --corrector still".split()
    flags += [*TINY, "--max-iters", 2, "--max-minutes", 1e-6, "--out", run]
    assert command("train", "--import", parts, *flags) == 0
    assert json.loads((run / "config.json").read_text())["imports"] == [str(parts)]
    assert command("train", "--resume", run, "--import", parts, "--max-minutes", 10) == 0
    sample = ["sample", "--run", run, "--output", out, "--num-samples", 1, "--device", "cpu"]
    assert command(*sample, f"--import={parts}") == 0
    assert np.load(out.with_suffix(".npz"))["arr_0"].shape == (1, 8, 8, 1)
    assert parse(["train-classifier", "--run", str(run), "--import", str(parts)]).imports == (parts,)
    forget()
    capsys.readouterr()
    evaluation = ["evaluate", "--run", run, "--features", "pixels", "--num-samples", 2, "--device", "cpu"]
    missing = "process 'cosine', objective 'absolute', predictor 'midpoint', corrector 'still'"
    for again in (sample, ["train", "--resume", run], evaluation):
        assert command(*again) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(f"made with parts of its own ({missing}); give --import {parts}")


def test_clouds_take_a_sampler_of_ones_own(parts, generator_run, tmp_path):
    out = tmp_path / "x.npy"
    flags = ["--run", generator_run, "--output", out, "--num-samples", 1, "--num-points", 8, "--device", "cpu"]
    assert script("pcdiff/__main__.py", "sample", *flags, "--import", parts, "--sampler", "midpoint") == 0
    assert np.load(out).shape == (1, 8, 3)


def test_what_cannot_be_imported_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.py").write_text("import math\n\nraise KeyError('two\\nlines')\n")
    for path, said in (
        (tmp_path / "none.py", "none.py: no such .py file"),
        (tmp_path, f"{tmp_path}: no such .py file"),
        (tmp_path / "bad.py", "bad.py, line 3: KeyError: "),
    ):
        assert command("train", "--import", path) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    with pytest.raises(InputError, match=r"no such \.py file"):
        import_parts(["parts.txt"])
    assert files_of("train --import a.py b.py --seed 1 --import=c.py d.py".split()) == ["a.py", "b.py", "c.py"]
