"""Writers: the parts of a conversion -> our shards, or LeRobot v3.0."""
