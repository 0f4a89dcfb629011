"""Compares several training recipes on one data set: `vla study`."""
