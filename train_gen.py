"""Train a generator of 3D shapes, then sample and score it (Luo & Hu, CVPR 2021).

python train_gen.py --categories airplane # the paper's recipe (a GPU's work)

python train_gen.py --categories airplane --preset quick # minutes on two CPU cores

python train_gen.py --resume runs/NAME # go on exactly where a run stopped

torchrun --nproc-per-node K train_gen.py --out runs/NAME ... # share every batch among K processes
"""

import time

from pcdiff.commands import cli
from pcdiff.config import RunConfig
from pcdiff.config.presets import GENERATOR_PRESETS, preset
from pcdiff.data import Batches, announce, count_clouds, load_clouds
from pcdiff.errors import InputError
from pcdiff.runtime import distributed, run_folder
from pcdiff.runtime.devices import resolve_device
from pcdiff.runtime.run_folder import NOWHERE
from pcdiff.runtime.stopping import Stop, interruptible
from pcdiff.training import job
from pcdiff.training.after_training import GeneratorEnding
from pcdiff.training.budget_plan import planned
from pcdiff.training.dry_run import rehearse, tally
from pcdiff.training.validation import GeneratorValidation


def main() -> None:
    """Read the flags; train, with the other processes of the job if there are any."""
    config = cli.parse_run(GENERATOR_PRESETS, description=__doc__)
    if config.model.kind == "autoencoder":
        raise InputError("--kind must be flow or gaussian here; train_ae.py trains autoencoders")
    with distributed.joined(), interruptible(config.train.max_minutes) as stop:
        train(config, stop)


def train(config: RunConfig, stop: Stop) -> None:
    """Load, train, sample, score on the validation split."""
    started = time.monotonic()
    data, device = config.data, resolve_device(config.device)
    with stop.at_once():  # there is nothing to save yet
        asked = data.dataset_path, data.categories
        clouds, val = (load_clouds(*asked, split, data.normalisation) for split in ("train", "val"))
        batches = Batches(clouds.points, config.train.batch_size, data.num_points, config.seed, device, data.rotate)
        reference, identity = val.points[: config.train.val_clouds], clouds.identity.to_dict()
        points = min(config.train.val_points, reference.shape[1])
        validation = GeneratorValidation(reference, points, config.seed, flexibility=config.flexibility, stop=stop)
        parts = batches, identity, device, validation, clouds.statistics
        ending = GeneratorEnding(config, identity, reference, points, stop)
        if config.dry_run:
            config = planned(config, NOWHERE, started, ending.seconds, *parts)
            found = tally(count_clouds(data.dataset_path, data.categories))
            rehearse(config, preset(GENERATOR_PRESETS, config.preset), found, *parts)
            return
    config, folder = run_folder.open_run(config, "gen")
    with run_folder.logging_to(folder), run_folder.alone_in(folder):
        run_folder.log.info(announce(clouds.identity))
        config = planned(config, folder, started, ending.seconds, *parts)
        trainer = job.make_trainer(config, folder, *parts)
        outcome = job.fit(config, trainer, stop=stop, closing=ending.seconds)
        if outcome.reason != "interrupted":
            made = validation.made if trainer.validated == outcome.step else None
            ending(config, folder, trainer.sampling_model, outcome, made, clouds.points)


if __name__ == "__main__":
    cli.run(main)
