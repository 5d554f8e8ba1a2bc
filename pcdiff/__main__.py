"""Use a trained model on files.

python -m pcdiff COMMAND --help # the flags of one command

python -m pcdiff sample --run runs/NAME --output new.npy --sampler dpmpp --num-steps 10
"""

from pcdiff.commands import AnyCommand, cli, perform


def main() -> None:
    """Parse the command and do it."""
    perform(cli.parse(AnyCommand, description=__doc__, prog="python -m pcdiff"))


if __name__ == "__main__":
    cli.run(main)
