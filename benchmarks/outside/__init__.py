"""Files, settings and clients of other people, as public bug reports describe them: one file per area, one function per case."""
