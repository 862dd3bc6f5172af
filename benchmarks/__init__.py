"""The asv suite: every registered variant on grids of problems and on the layers of real networks."""
