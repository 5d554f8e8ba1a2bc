"""Score a trained run, or anyone's clouds.

python evaluate.py --run runs/NAME # generate, then compare with the test split

python evaluate.py --samples A.npy --reference B.npy --output s.json # compare two sets of clouds

python evaluate.py --resume runs/NAME # go on with a stopped evaluation
"""

from data import announce, load_clouds
from pcdiff import cli, runs, scoring
from pcdiff.config import EvaluateConfig, check_evaluation


def main() -> None:
    """Score files, or load a run's data and score the run."""
    config = cli.parse(EvaluateConfig, description=__doc__)
    check_evaluation(config)
    folder = config.run or config.resume
    if folder is None:
        with runs.logging_to(config.out):
            scoring.score_files(config)
        return
    run = runs.read_config(folder)
    path, names = config.dataset_path or run.data.dataset_path, config.categories or run.data.categories
    split = load_clouds(path, names, config.split, run.data.normalisation)
    with runs.logging_to(config.out or folder):
        runs.log.info(announce(split.identity))
        scoring.score_run(config, folder, run, split, split.identity.to_dict())


if __name__ == "__main__":
    cli.run(main)
