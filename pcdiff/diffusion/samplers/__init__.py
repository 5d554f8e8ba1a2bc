"""The sampling loop and its parts: predictors, correctors, constraints and time grids."""
