"""Readers: each reads the records of one data format as arrays, texts and images."""
