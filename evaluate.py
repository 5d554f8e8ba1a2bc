"""Score a trained run, or anyone's clouds: the command `pcdiff evaluate` as a script; `--help` lists its flags."""

from pcdiff.commands import cli
from pcdiff.commands.evaluate import main

if __name__ == "__main__":
    cli.run(main)
