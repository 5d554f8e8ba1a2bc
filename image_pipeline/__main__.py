"""Train and use score models for images.

python -m image_pipeline train # scikit-learn's digits, minutes on two CPU cores

python -m image_pipeline sample --run runs/NAME --output new.png

python -m image_pipeline COMMAND --help # the flags of one command
"""

from image_pipeline.commands import parse, perform
from pcdiff.commands import cli


def main() -> None:
    """Parse the command and do it."""
    perform(parse(description=__doc__))


if __name__ == "__main__":
    cli.run(main)
