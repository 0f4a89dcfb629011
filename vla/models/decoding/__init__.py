"""Decoding: allowed tokens, choice of a token, and decoding sessions with a KV cache."""
