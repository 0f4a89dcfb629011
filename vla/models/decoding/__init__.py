"""Decoding: what may be written, what is chosen, and how a model is asked for the next token."""
