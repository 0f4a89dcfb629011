"""Conventions: what a data set's numbers mean, and how they are converted to ours."""
