"""Train an autoencoder of 3D shapes: the command `pcdiff train-ae` as a script; `--help` lists its flags."""

from pcdiff.commands import cli
from pcdiff.commands.train_ae import main

if __name__ == "__main__":
    cli.run(main)
