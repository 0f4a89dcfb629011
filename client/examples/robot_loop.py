"""Drives a simulated robot with a real server. Replace `Simulated` by your robot.

python robot_loop.py ws://127.0.0.1:8000 [instruction] [steps]
"""

import sys

import numpy as np

from vla_client import Connection, Guard, Limits, RecedingHorizon, Robot, drive


class Simulated(Robot):
    """Observes noise and prints its actions."""

    def __init__(self, contract, instruction):
        self.embodiment = next(iter(contract["embodiments"].values()))
        self.instruction = instruction
        space = self.embodiment["state"]
        self.state = (np.array(space["low"]) + np.array(space["high"])) / 2

    def observe(self):
        images = {
            camera["name"]: np.random.randint(0, 256, (camera["height"], camera["width"], 3), dtype=np.uint8)
            for camera in self.embodiment["cameras"]
        }
        return {"images": images, "state": self.state, "prompt": self.instruction}

    def act(self, action):
        print(" ".join("{}={:+.3f}".format(*pair) for pair in zip(self.embodiment["action"]["names"], action)))

    def hold(self):
        print("hold")


def main(url, instruction="pick up the red cube", steps="20"):
    connection = Connection(url, timeout=2.0, on_retry=lambda error: print("retrying:", error))
    contract = connection.metadata["contract"]
    policy = RecedingHorizon(connection.infer, contract["execute"])
    robot = Simulated(contract, instruction)
    guard = Guard(Limits.of(connection.metadata))
    executed = drive(
        robot, policy, guard, robot.embodiment["control_hz"], int(steps), on_trouble=lambda error: print("no action:", error)
    )
    print("{} actions, {} clamped".format(executed, guard.clamped))


if __name__ == "__main__":
    main(*sys.argv[1:])
