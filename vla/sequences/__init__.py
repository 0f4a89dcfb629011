"""Samples and observations <-> masked sequences: one code path for training and for acting."""
