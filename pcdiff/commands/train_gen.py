"""`pcdiff train-gen`, and `train_gen.py`: from flags to the training of a generator."""

from collections.abc import Sequence

from pcdiff.commands import cli
from pcdiff.config.presets import GENERATOR_PRESETS
from pcdiff.errors import InputError
from pcdiff.runtime.invocation import command_line, under_torchrun

_DESCRIPTION = """Train a generator of 3D shapes, then sample and score it (Luo & Hu, CVPR 2021).

{prog} --categories airplane # the paper's recipe (a GPU's work)

{prog} --categories airplane --preset quick # minutes on two CPU cores

{prog} --resume runs/NAME # resume exactly where a run stopped

{torchrun} --out runs/NAME ... # share every batch among K processes
"""


def main(argv: Sequence[str] | None = None, prog: str = "python train_gen.py") -> None:
    """Read the flags; train, with the other processes of the job if there are any."""
    description = _DESCRIPTION.format(prog=prog, torchrun=under_torchrun(prog))
    config = cli.parse_run(GENERATOR_PRESETS, argv, description, prog)
    if config.model.kind == "autoencoder":
        raise InputError(
            "--kind must be latent, direct or completion here, got autoencoder; "
            f"{command_line('train-ae')} trains autoencoders"
        )
    from pcdiff.commands.training import train_generator

    train_generator(config)
