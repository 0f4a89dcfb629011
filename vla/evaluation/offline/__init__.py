"""Evaluates policies on held-out demonstrations."""
