"""Train an autoencoder of 3D shapes, then reconstruct and score validation clouds (Luo & Hu, CVPR 2021).

python train_ae.py # the paper's recipe (a GPU's work)

python train_ae.py --categories chair --preset quick # minutes on two CPU cores

python train_ae.py --resume runs/NAME # go on exactly where a run stopped
"""

import time

from pcdiff.commands import cli
from pcdiff.config import RunConfig
from pcdiff.config.presets import AUTOENCODER_PRESETS, preset
from pcdiff.data import Batches, announce, count_clouds, load_clouds
from pcdiff.errors import InputError
from pcdiff.runtime import distributed, run_folder
from pcdiff.runtime.devices import resolve_device
from pcdiff.runtime.run_folder import NOWHERE
from pcdiff.runtime.stopping import Stop, interruptible
from pcdiff.training import job
from pcdiff.training.after_training import AutoencoderEnding
from pcdiff.training.budget_plan import planned
from pcdiff.training.dry_run import rehearse, tally
from pcdiff.training.validation import AutoencoderValidation


def main() -> None:
    """Read the flags; train, with the other processes of the job if there are any."""
    config = cli.parse_run(AUTOENCODER_PRESETS, description=__doc__)
    if (kind := config.model.kind) != "autoencoder":
        raise InputError(f"--kind must be autoencoder here, got {kind}; train_gen.py trains generators")
    with distributed.joined(), interruptible(config.train.max_minutes) as stop:
        train(config, stop)


def train(config: RunConfig, stop: Stop) -> None:
    """Load, train, reconstruct, score on the validation split."""
    started = time.monotonic()
    data, device = config.data, resolve_device(config.device)
    with stop.at_once():  # there is nothing to save yet
        asked = data.dataset_path, data.categories
        clouds, val = (load_clouds(*asked, split, data.normalisation) for split in ("train", "val"))
        batches = Batches(clouds.points, config.train.batch_size, data.num_points, config.seed, device, data.rotate)
        given = val.points[: config.train.val_clouds, : config.train.val_points]
        identity = clouds.identity.to_dict()
        validation = AutoencoderValidation(given, config.seed, config.flexibility, stop)
        parts = batches, identity, device, validation, clouds.statistics
        ending = AutoencoderEnding(config, identity, given, val.denormalise, stop)
        if config.dry_run:
            config = planned(config, NOWHERE, started, ending.seconds, *parts)
            found = tally(count_clouds(data.dataset_path, data.categories))
            rehearse(config, preset(AUTOENCODER_PRESETS, config.preset), found, *parts)
            return
    config, folder = run_folder.open_run(config, "ae")
    with run_folder.logging_to(folder), run_folder.alone_in(folder):
        run_folder.log.info(announce(clouds.identity))
        config = planned(config, folder, started, ending.seconds, *parts)
        trainer = job.make_trainer(config, folder, *parts)
        outcome = job.fit(config, trainer, stop=stop, closing=ending.seconds)
        if outcome.reason != "interrupted":
            made = validation.made if trainer.validated == outcome.step else None
            ending(config, folder, trainer.sampling_model, outcome, made)


if __name__ == "__main__":
    cli.run(main)
