"""Evaluates policies: in simulation, with a journal, films and a page."""
