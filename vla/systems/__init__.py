"""The systems of the literature, a folder each: a recipe and what is peculiar to it. They never import one another."""
