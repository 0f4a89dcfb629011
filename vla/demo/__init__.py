"""`vla demo`: collect, train, evaluate, export and serve, stage by stage, resumable, with a report at the end."""
