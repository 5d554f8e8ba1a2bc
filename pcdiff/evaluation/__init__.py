"""What `evaluate.py` does: score a run, anyone's clouds, or reconstructions, and compare results."""

from pcdiff.evaluation.files import score_files, score_reconstructions
from pcdiff.evaluation.report import compare_results
from pcdiff.evaluation.runs import score_run

__all__ = ["compare_results", "score_files", "score_reconstructions", "score_run"]
