"""The commands for images: `python -m image_pipeline`, which is `pcdiff images` too; `--help` lists them."""

import sys
from collections.abc import Sequence

from pcdiff.commands import cli
from pcdiff.commands.subcommands import choose

DESCRIPTION = """Score models of images: train them, use them, score them.

{prog} train # scikit-learn's digits, minutes on two CPU cores
{prog} sample --run runs/NAME --output new.png"""
GROUPS = {
    "train": {
        "train": "Train a score model for images.",
        "train-classifier": "Train a classifier of noisy images, which guides a model's samples.",
    },
    "use a trained model": {
        "sample": "Draw images.",
        "class-conditional": "Draw images of every class, with classifier-free guidance or a classifier's.",
        "inpaint": "Keep a part of images and draw the rest.",
        "colorize": "Draw colors for gray images.",
        "inverse": "Solve a linear inverse problem: super-resolution, or compressed sensing.",
        "interpolate": "Go from images to others, through the noises that both are inverted to.",
        "sdedit": "Add noise to images part of the way and draw from there.",
    },
    "score": {
        "evaluate": "Score a run's samples, or any images, by FID, KID, Inception Score, precision and recall.",
        "loss": "Compute the run's own training objective on a split of its data.",
        "likelihood": "Score images by likelihood, in bits a dimension of 8-bit data.",
    },
    "presets, checkpoints and data sets": {
        "configs": "List the presets, or print one as JSON.",
        "convert": "Convert other people's checkpoints to our format, or ours to a folder of diffusers.",
        "prepare": "Bring a data set to one size and write it as a zip of PNG files.",
        "dump": "Write a data set as loose PNG files named by class.",
        "noise-scales": "Choose noise levels and a Langevin step for a data set (NCSNv2).",
    },
}


def main(argv: Sequence[str] | None = None, prog: str = "python -m image_pipeline") -> None:
    """Do what the first argument names; what that needs is imported then."""
    argv = sys.argv[1:] if argv is None else argv
    name, rest = choose(GROUPS, argv, prog, DESCRIPTION.format(prog=prog))
    from image_pipeline.commands.parsing import parse

    command = parse([name, *rest], prog)
    from image_pipeline.commands.perform import perform

    perform(command)


if __name__ == "__main__":
    cli.run(main)
