"""Train a generator of 3D shapes, then sample and score it (Luo & Hu, CVPR 2021).

python train_gen.py --categories airplane # the paper's recipe (a GPU's work)

python train_gen.py --categories airplane --preset quick # minutes on two CPU cores

python train_gen.py --resume runs/NAME # go on exactly where a run stopped
"""

from data import Batches, announce, load_clouds
from pcdiff import cli, runs, sessions
from pcdiff.errors import InputError
from pcdiff.metrics import evaluate, table
from pcdiff.presets import GENERATOR_PRESETS
from pcdiff.progress import bar
from pcdiff.sampling import sample_all
from pcdiff.training import resolve_device
from pcdiff.validation import GeneratorValidation


def main() -> None:
    """Load, train, sample, score on the validation split."""
    config = cli.parse_run(GENERATOR_PRESETS, description=__doc__)
    if config.model.kind == "autoencoder":
        raise InputError("--kind must be flow or gaussian here; train_ae.py trains autoencoders")
    data, device = config.data, resolve_device(config.device)
    train, val = (load_clouds(data.dataset_path, data.categories, s, data.normalisation) for s in ("train", "val"))
    batches = Batches(train.points, config.train.batch_size, data.num_points, config.seed, device, data.rotate)
    config, folder = runs.open_run(config, "gen")
    with runs.logging_to(folder):
        runs.log.info(announce(train.identity))
        identity = train.identity.to_dict()
        reference = val.points[: config.train.val_clouds]
        points = min(config.train.val_points, reference.shape[1])
        validation = GeneratorValidation(reference, points, config.seed, flexibility=config.flexibility)
        trainer = sessions.make_trainer(config, folder, batches, identity, device, validation, train.statistics)
        outcome = sessions.fit(config, trainer)
        if outcome.reason == "interrupted":
            return
        model = trainer.sampling_model.eval()
        with bar("sampling", "step") as progress:
            chain = {"flexibility": config.flexibility, "progress": progress}
            shown = sample_all(model, config.num_samples, config.sample_points, config.seed, **chain)
            scored = sample_all(model, len(reference), points, config.seed, **chain)
        sessions.keep_clouds(folder, "samples", shown, f"samples: {identity['name']}, step {outcome.step}")
        results = evaluate(samples=scored, reference=reference, num_points=points, emd=False)
        training = sessions.training_summary(config, outcome)
        sessions.keep_results(folder, {**results, "dataset": identity, "split": "val", "training": training})
        runs.log.info("%s\nscore the test split with: python evaluate.py --run %s", table(results), folder)


if __name__ == "__main__":
    cli.run(main)
