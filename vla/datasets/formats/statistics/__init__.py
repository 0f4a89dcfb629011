"""Statistics of a data set, as OpenVLA, openpi and LeRobot define them."""
