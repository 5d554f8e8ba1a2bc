"""Pictures of point clouds: `render_cloud`, `render_grid`, `save_grid`, `save_neighbors`, `save_completions`."""

from pcdiff.viz.completions import save_completions
from pcdiff.viz.grid import render_grid, save_grid
from pcdiff.viz.neighbors import save_neighbors
from pcdiff.viz.render import render_cloud

__all__ = ["render_cloud", "render_grid", "save_completions", "save_grid", "save_neighbors"]
