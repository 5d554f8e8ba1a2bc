"""The command `pcdiff`, which is `python -m pcdiff` too: `pcdiff --help` lists what it can do."""

import sys
from collections.abc import Sequence

from pcdiff.commands import cli
from pcdiff.commands.subcommands import choose
from pcdiff.runtime.invocation import program

DESCRIPTION = "Diffusion models of 3D point clouds: train them, use them, score them."
GROUPS = {
    "train": {
        "train-gen": "Train a generator of 3D shapes, then sample and score it.",
        "train-ae": "Train an autoencoder of 3D shapes, then score its reconstructions.",
    },
    "use a trained model": {
        "sample": "Draw clouds from a generator, any number with any number of points.",
        "reconstruct": "Encode clouds and decode them again.",
        "interpolate": "Decode the codes between two clouds (or between the clouds of two files, pair by pair).",
        "arithmetic": "Decode the codes a - b + c of three clouds (or of the clouds of three files).",
        "invert": "Find the code and noise that clouds are made of, make them again, and measure the difference.",
        "upsample": "Decode clouds with more points, from the code of those given.",
        "complete": "Keep the points of partial clouds and draw the rest.",
        "log-likelihood": "Score clouds by log p(x | z), their points' log-likelihood given their code.",
    },
    "score": {
        "evaluate": "Score a trained run, or anyone's clouds.",
    },
    "images": {
        "images": "Train and use score models of images; `images --help` lists the commands.",
    },
}


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the first argument names; what that needs is imported then."""
    prog = program()
    name, rest = choose(GROUPS, sys.argv[1:] if argv is None else argv, prog, DESCRIPTION)
    called = f"{prog} {name}"
    match name:
        case "train-gen":
            from pcdiff.commands import train_gen

            train_gen.main(rest, called)
        case "train-ae":
            from pcdiff.commands import train_ae

            train_ae.main(rest, called)
        case "evaluate":
            from pcdiff.commands import evaluate

            evaluate.main(rest, called)
        case "images":
            from image_pipeline.__main__ import main as images

            images(rest, called)
        case _:
            from pcdiff.commands import model_commands

            model_commands.main(name, rest, called)


def console() -> None:
    """Be the installed command `pcdiff`."""
    cli.run(main)


if __name__ == "__main__":
    cli.run(main)
