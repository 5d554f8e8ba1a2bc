"""The command `colorize`: keep the mean over the channels, draw the colors."""

from image_pipeline.commands.flags import Colorize
from image_pipeline.commands.restoration import restored
from image_pipeline.commands.trained_model import Trained
from pcdiff import diffusion
from pcdiff.errors import InputError


def colorize(command: Colorize, trained: Trained) -> str:
    """Keep the mean over the channels, draw the colors."""
    shape = trained.model.image_shape
    if shape[0] == 1:
        raise InputError(f"{command.run}: this model's images are gray; colorize needs one of color images")
    gray = trained.read(command.input).mean(dim=1, keepdim=True)
    made = restored(trained, diffusion.Colorize(trained.model.denoiser.process, gray), len(gray))
    return trained.write(made, pictured=(gray.expand(-1, shape[0], -1, -1), made))
