"""The parts of own_robot.py."""
