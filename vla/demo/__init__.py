"""`vla demo`: the whole main job, stage by stage, resumable, with a report at the end."""
