"""What `evaluate.py` does: score a run, anyone's clouds, or reconstructions, and compare results."""

from pcdiff.scoring.files import score_files, score_reconstructions
from pcdiff.scoring.report import compare_results
from pcdiff.scoring.runs import score_run

__all__ = ["compare_results", "score_files", "score_reconstructions", "score_run"]
