"""Readers: a data set's records in its own format -> arrays, texts and images."""
