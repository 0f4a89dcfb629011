"""Systems from the literature, one folder each: a recipe and the code specific to it. They never import one another."""
