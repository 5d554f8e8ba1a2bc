"""Train a generator of 3D shapes: the command `pcdiff train-gen` as a script; `--help` lists its flags."""

from pcdiff.commands import cli
from pcdiff.commands.train_gen import main

if __name__ == "__main__":
    cli.run(main)
