"""PR2L: a frozen, prompted model supplies the states of a reinforcement-learning head (Chen et al. 2024, arXiv 2402.02651)."""
