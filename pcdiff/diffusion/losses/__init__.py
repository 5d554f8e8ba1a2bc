"""Training objectives: regression, score matching and the variational bound, and how training times are drawn."""
