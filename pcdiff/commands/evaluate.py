"""`pcdiff evaluate`, and `evaluate.py`: from flags to scores."""

from collections.abc import Sequence

from pcdiff.commands import cli
from pcdiff.runtime.invocation import under_torchrun

_DESCRIPTION = """Score a trained run, or anyone's clouds.

{prog} --run runs/NAME # generate, then compare with the protocol's split

{prog} --samples A.npy --reference B.npy --output s.json # compare two sets of clouds

{prog} --reconstructions A.npy --reference B.npy # score an autoencoder's output, pair by pair

{prog} --compare a.json b.json # results side by side

{prog} --resume OUT # resume a stopped evaluation

{torchrun} ... # share the work; the result is the same
"""


def main(argv: Sequence[str] | None = None, prog: str = "python evaluate.py") -> None:
    """Read the flags; score, with the other processes of the job if there are any."""
    config = cli.parse_evaluation(argv, _DESCRIPTION.format(prog=prog, torchrun=under_torchrun(prog)), prog)
    from pcdiff.commands.scoring import score

    score(config)
