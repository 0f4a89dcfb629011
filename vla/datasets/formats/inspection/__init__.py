"""Inspection: is a data set whole, what is in it, how does it look."""
