"""Policies that learn by reward or from demonstrations: a run (`runs`) is a learner, a policy and its environments."""
