"""Image checkpoints of other projects, opened without running any code in them."""
