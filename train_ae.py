"""Train an autoencoder of 3D shapes, then reconstruct and score validation clouds (Luo & Hu, CVPR 2021).

python train_ae.py # the paper's recipe (a GPU's work)

python train_ae.py --categories chair --preset quick # minutes on two CPU cores

python train_ae.py --resume runs/NAME # go on exactly where a run stopped
"""

import time

from data import Batches, announce, load_clouds
from pcdiff import cli, distributed, runs, sessions
from pcdiff.config import RunConfig
from pcdiff.devices import resolve_device
from pcdiff.endings import score_autoencoder
from pcdiff.errors import InputError
from pcdiff.planning import planned
from pcdiff.presets import AUTOENCODER_PRESETS
from pcdiff.rehearsal import rehearse
from pcdiff.runs import NOWHERE
from pcdiff.validation import AutoencoderValidation


def main() -> None:
    """Read the flags; train, with the other processes of the job if there are any."""
    config = cli.parse_run(AUTOENCODER_PRESETS, description=__doc__)
    if (kind := config.model.kind) != "autoencoder":
        raise InputError(f"--kind must be autoencoder here, got {kind}; train_gen.py trains generators")
    with distributed.joined():
        train(config)


def train(config: RunConfig) -> None:
    """Load, train, reconstruct, score on the validation split."""
    started = time.monotonic()
    data, device = config.data, resolve_device(config.device)
    clouds, val = (load_clouds(data.dataset_path, data.categories, s, data.normalisation) for s in ("train", "val"))
    batches = Batches(clouds.points, config.train.batch_size, data.num_points, config.seed, device, data.rotate)
    given = val.points[: config.train.val_clouds, : config.train.val_points]
    identity = clouds.identity.to_dict()
    validation = AutoencoderValidation(given, config.seed, config.flexibility)
    parts = batches, identity, device, validation, clouds.statistics
    if config.dry_run:
        rehearse(planned(config, NOWHERE, started, *given.shape[:2], *parts), *parts)
        return
    config, folder = runs.open_run(config, "ae")
    with runs.logging_to(folder):
        runs.log.info(announce(clouds.identity))
        config = planned(config, folder, started, *given.shape[:2], *parts)
        trainer = sessions.make_trainer(config, folder, *parts)
        outcome = sessions.fit(config, trainer)
        if outcome.reason != "interrupted":
            made = validation.made if trainer.validated == outcome.step else None
            score_autoencoder(
                config, folder, trainer.sampling_model, outcome, identity, given, val.denormalise, made
            )


if __name__ == "__main__":
    cli.run(main)
