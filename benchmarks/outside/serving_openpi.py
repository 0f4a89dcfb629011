"""Clients of openpi's websocket protocol against `vla serve`."""

from __future__ import annotations

import msgpack
import numpy as np

from outside.clients import PIXELS, Broker, Client, log, observation, packed, refused, served, unpacked
from outside.project import project
from outside.trial import Differs, Trial, case


@case()
def openpis_client(trial: Trial) -> None:
    """An observation under LIBERO's keys is answered with a chunk, and images of 224 px are made smaller."""
    project(trial)
    with served(trial) as url:
        client = Client(url)
        answer = client.infer(observation())
        trial.equal("shape", answer["actions"].shape, (2, 7))
        large = np.full((224, 224, 3), 120, np.uint8)
        answer = client.infer(observation(image=large, wrist_image=large))
        trial.true("timing is missing", "server_timing" in answer)


@case("strands-labs/robots#3162")
def openpis_broker(trial: Trial) -> None:
    """openpi's chunk broker runs through chunks of 2, 8 and 50 steps, whatever the length of the state."""
    project(trial)
    for chunk in (2, 8, 50):
        more = [f"--contract.chunk={chunk}", f"--contract.execute={chunk}", "--contract.plan=[]"]
        trial.vla("fit", "-c", "fit.yaml", "--trainer.max_steps=1", f"--export=export-{chunk}", *more)
        with served(trial, f"export-{chunk}") as url:
            broker = Broker(Client(url), chunk)
            for step in range(chunk):
                try:
                    action = broker.infer(observation())["actions"]
                except IndexError as error:
                    raise Differs(f"chunk {chunk}: the broker fails at step {step}: {error}") from None
                trial.equal("shape", action.shape, (7,))


@case("LightwheelAI/leisaac#96")
def keys_that_are_wrong(trial: Trial) -> None:
    """Missing keys, wrong keys and a missing prompt are refused with the keys that are expected."""
    project(trial)
    with served(trial) as url:
        refused(url, observation(wrist_image=None), "wrist_image")
        refused(url, observation(prompt=None), "prompt|instruction")
        refused(url, {"image": PIXELS, "wrist_image": PIXELS, "state": np.zeros(5), "prompt": "go"}, "observation/image|images")
        refused(url, {}, ".")


@case()
def images_that_are_wrong(trial: Trial) -> None:
    """Float images, channels first, grey, RGBA, batches and small ones are refused with what is expected."""
    project(trial)
    with served(trial) as url:
        refused(url, observation(image=PIXELS.astype(np.float32) / 255), "float32", "uint8")
        refused(url, observation(image=PIXELS.transpose(2, 0, 1)), r"3, 64, 64", "height")
        refused(url, observation(image=PIXELS[..., 0]), "64, 64", "height")
        refused(url, observation(image=np.dstack([PIXELS, PIXELS[..., :1]])), "64, 64, 4")
        refused(url, observation(image=PIXELS[None]), "1, 64, 64, 3")
        refused(url, observation(image=PIXELS[:32, :32]), "32 x 32", "64")
        refused(url, observation(image=np.zeros((64, 128, 3), np.uint8)), "128")
        refused(url, observation(image=PIXELS.astype(np.uint16)), "uint16")


@case()
def states_that_are_wrong(trial: Trial) -> None:
    """NaN, infinity, another length, a batch and texts as state are refused with their dimension."""
    project(trial)
    with served(trial) as url:
        refused(url, observation(state=np.array([0, np.nan, 0, 0, 0], np.float32)), "nan|finite")
        refused(url, observation(state=np.array([0, np.inf, 0, 0, 0], np.float32)), "inf|finite")
        refused(url, observation(state=np.zeros(8, np.float32)), "5")
        refused(url, observation(state=np.zeros((1, 5), np.float32)), "5")
        refused(url, observation(state="home"), "state")


@case()
def answers_in_order(trial: Trial) -> None:
    """Two observations that are sent at once are answered in their order."""
    project(trial)
    with served(trial) as url:
        client = Client(url)
        prompts = ("lift the red cube", "lift the green cylinder")
        apart = [client.infer(observation(prompt=prompt))["actions"] for prompt in prompts]
        for prompt in prompts:
            client.socket.send(msgpack.packb(observation(prompt=prompt), default=packed))
        for wanted in apart:
            answer = msgpack.unpackb(client.socket.recv(), object_hook=unpacked)
            trial.near("actions", answer["actions"], wanted, 1e-5)


@case()
def numbers_of_any_type(trial: Trial) -> None:
    """States as doubles, integers, big-endian or lists, and a prompt of numpy's type, are the same observation."""
    project(trial)
    with served(trial) as url:
        client, state = Client(url), [0.0, 0.0, 0.25, 0.0, 0.0]
        wanted = client.infer(observation(state=np.array(state, np.float32)))["actions"]
        for other in (np.array(state), np.array(state, ">f4"), state, np.array(state, np.float16)):
            trial.near("actions", client.infer(observation(state=other))["actions"], wanted, 0)
        trial.near(
            "actions", client.infer(observation(state=np.array(state), prompt=np.str_("lift the red cube")))["actions"], wanted, 0
        )


@case()
def a_client_after_a_refusal(trial: Trial) -> None:
    """After a refusal a new connection is answered, and the log holds no traceback."""
    project(trial)
    with served(trial) as url:
        refused(url, observation(state=np.zeros(3)), "5")
        trial.equal("shape", Client(url).infer(observation())["actions"].shape, (2, 7))
    trial.true("the log holds a traceback", "Traceback" not in log(trial) and '"traceback"' not in log(trial))
