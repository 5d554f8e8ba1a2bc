"""Other people's formats. `pcdiff.interop.dpm.load(path)` opens DPM's checkpoints."""

from pcdiff.interop import dpm

__all__ = ["dpm"]
