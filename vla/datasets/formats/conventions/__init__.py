"""Conventions: what a data set means by its numbers, and how they become ours."""
