"""Trains policies by reinforcement learning or from demonstrations: a run combines a learner, a policy and environments."""
