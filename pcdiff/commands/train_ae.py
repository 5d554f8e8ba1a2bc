"""`pcdiff train-ae`, and `train_ae.py`: from flags to the training of an autoencoder."""

from collections.abc import Sequence

from pcdiff.commands import cli
from pcdiff.config.presets import AUTOENCODER_PRESETS
from pcdiff.errors import InputError
from pcdiff.runtime.invocation import command_line, under_torchrun

_DESCRIPTION = """Train an autoencoder of 3D shapes, then score its reconstructions (Luo & Hu, CVPR 2021).

{prog} # the paper's recipe (a GPU's work)

{prog} --categories chair --preset quick # minutes on two CPU cores

{prog} --resume runs/NAME # resume exactly where a run stopped

{torchrun} --out runs/NAME ... # share every batch among K processes
"""


def main(argv: Sequence[str] | None = None, prog: str = "python train_ae.py") -> None:
    """Read the flags; train, with the other processes of the job if there are any."""
    description = _DESCRIPTION.format(prog=prog, torchrun=under_torchrun(prog))
    config = cli.parse_run(AUTOENCODER_PRESETS, argv, description, prog)
    if (kind := config.model.kind) != "autoencoder":
        raise InputError(
            f"--kind must be autoencoder here, got {kind}; {command_line('train-gen')} trains generators"
        )
    from pcdiff.commands.training import train_autoencoder

    train_autoencoder(config)
