"""The web console, clicked through in chromium; skipped where chromium is not installed."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from vla.observation import ActionChunk
from vla.policies.base import QuestionAnswer
from vla.report.video import write_video
from vla.serving.keys import Keys
from vla.serving.server import running

KEY = "k" * 20


@pytest.fixture(scope="module")
def seeing(policy_class):
    """A policy whose actions show the image's brightness, with a plan and probabilities; it answers questions."""

    class Seeing(policy_class):
        def act(self, observations):
            chunks = []
            for o in observations:
                level = o.images["front"].mean() / 255
                rows = np.full((4, 7), 2 * level - 1)
                info = {"point": [0.25, 0.75], "probabilities": {"plan": [0.5], "steps": np.full((4, 8), 0.9).tolist()}}
                chunks.append(ActionChunk(rows, np.array([False, False, o.instruction == "stop", False]), info))
            return chunks

        def ask(self, images, questions):
            return [QuestionAnswer(f"{q}: {int(i['front'].mean())}", None) for i, q in zip(images, questions, strict=True)]

    return Seeing()


def write_film(stem, steps):
    """Writes a video and its actions beside it."""
    write_video(f"{stem}.mp4", [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(steps)], fps=10)
    actions = {"hz": 10, "instruction": "lift the red cube", "actions": [[0.1 * i] * 7 for i in range(steps)]}
    stem.with_suffix(".json").write_text(json.dumps(actions))


def test_from_an_image_to_plots_answers_and_replay(seeing, page, until, tmp_path):
    Image.new("RGB", (200, 100), (255, 255, 255)).save(tmp_path / "white.png")
    write_film(tmp_path / "film", 10)
    with running(seeing) as url:
        page.goto(url)
        page.set_input_files("#file-front", tmp_path / "white.png")
        page.fill("#instruction", "stop")
        page.click("#act")
        page.wait_for_selector("#chunk canvas:nth-child(7)")
        summary = page.text_content("#said")
        assert "4 actions" in summary and "batch 1" in summary and "the policy reports the task done at action 3" in summary
        values = page.get_attribute("#chunk canvas:first-child", "title").split(", ")
        assert len(values) == 4 and float(values[0]) > 0.98, "the white image went to the policy"
        page.click("#ask")
        until("document.querySelector('#answer').textContent")
        assert page.text_content("#answer").startswith("what colour is the cube: 255 (this export does not say")
        assert not page.is_visible("#warned")
        assert (
            page.text_content("#hash") == seeing.contract.hash
            and not page.is_visible("#which")
            and "dx (m)" in page.text_content("#facts")
        )
        page.check("#again")
        until("Number(document.querySelector('#rate').textContent) > 1")
        assert "ms" in page.text_content("#p50")
        page.uncheck("#again")
        page.set_input_files("#files", [tmp_path / "film.mp4", tmp_path / "film.json"])
        page.wait_for_selector("#played canvas:nth-child(7)")
        assert page.text_content("#film") == "lift the red cube, 10 actions" and not page.is_visible("#choice")
        before = page.evaluate("document.querySelector('#played canvas').toDataURL()")
        page.evaluate("document.querySelector('#video').currentTime = 0.5")
        until("document.querySelector('#video').currentTime >= 0.4 && !document.querySelector('#video').seeking")
        until("before => document.querySelector('#played canvas').toDataURL() != before", before)


RECORD = """
window.written = [];
const fill = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, y, most = Infinity) {
  const size = this.measureText(text), width = Math.min(size.width, most), left = this.textAlign === "right" ? x - width : x;
  const top = y - size.actualBoundingBoxAscent, bottom = y + size.actualBoundingBoxDescent;
  window.written.push({ text: String(text), left, right: left + width, top, bottom, width: this.canvas.clientWidth });
  fill.call(this, text, x, y, ...(most < Infinity ? [most] : []));
};
"""


def test_labels_are_whole_and_the_first_request_is_counted(policy_class, contract, page, until):
    """Limits of many digits, long names; a state that a slider cannot reach."""
    embodiment = contract.embodiment()
    names = ("observation.state.left_arm_shoulder_pan.velocity.normalised", *embodiment.action.names[1:])
    low, high = (-0.000738, -1234.5, -1.0, -1.0, -1.0, -1.0, 0.0), (0.000738, 1234.5, 1e-9, 1.0, 1.0, 1.0, 1.0)
    action = dataclasses.replace(embodiment.action, names=names, low=low, high=high)
    state = dataclasses.replace(embodiment.state, names=("observation.state.left_shoulder", *embodiment.state.names[1:]))
    changed = dataclasses.replace(embodiment, action=action, state=state)
    with running(policy_class(dataclasses.replace(contract, embodiments={"panda": changed}))) as url:
        page.add_init_script(RECORD)
        page.goto(url)
        page.wait_for_selector("#main:visible")
        until("document.querySelector('#rate').textContent == '0.0'")
        assert page.text_content("#p50") == "–"
        page.evaluate("document.querySelector('#state-0').max = 9; document.querySelector('#state-0').value = 9")
        page.click("#act")
        page.wait_for_selector("#chunk canvas:nth-child(7)")
        written = page.evaluate("window.written")
        assert {"-0.000738", "0.000738", "-1230", "0"} <= {one["text"] for one in written}
        assert all(one["left"] >= 0 and one["right"] <= one["width"] for one in written), written
        # The first texts of a plot are its name and its lowest, middle and highest value.
        titles = [i for i, one in enumerate(written) if one["top"] < 10]
        assert len(titles) >= 7 and all(written[i]["bottom"] + 3 < written[i + 3]["top"] for i in titles), "names over labels"
        assert "observation.state.left_shoulder (m) is 9, far outside -1 to 1" in page.text_content("#warned")
        until("document.querySelector('#p50').textContent.includes('ms')")
        assert float(page.text_content("#rate")) > 0 and page.text_content("#rows") == "1.0"
        page.wait_for_timeout(2500)
        assert "ms" in page.text_content("#p99") and page.text_content("#rows") == "1.0"


def test_a_whole_folder_of_films(seeing, page, until, tmp_path):
    videos = tmp_path / "seen/videos"
    videos.mkdir(parents=True)
    for name, steps in (("a", 4), ("b", 6)):
        write_film(videos / name, steps)
    write_video(videos / "grid.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3)
    (tmp_path / "seen/results.json").write_text("{}")
    with running(seeing) as url:
        page.goto(url)
        page.wait_for_selector("#main:visible")
        page.set_input_files("#folder", tmp_path / "seen")
        for choice, text in (("a", "4 actions"), ("b", "6 actions"), ("grid", "there are no actions beside this video")):
            page.select_option("#films", label=f"seen/videos/{choice}")
            until("text => document.querySelector('#film').textContent.includes(text)", text)
            assert page.locator("#played canvas").count() == (0 if choice == "grid" else 7)
        page.select_option("#films", label="seen/videos/b")
        page.wait_for_selector("#played canvas:nth-child(7)")
        page.evaluate("document.querySelector('#video').play()")
        until("document.querySelector('#video').ended")


def test_one_of_several_policies(seeing, policy_class, contract, page, until):
    other = policy_class(dataclasses.replace(contract, chunk=2))
    with running({"first": seeing, "second": other}) as url:
        page.goto(url)
        page.wait_for_selector("#main:visible")
        assert page.text_content("#hash") == seeing.contract.hash
        page.select_option("#policy", label="second")
        until("hash => document.querySelector('#hash').textContent == hash", other.contract.hash)
        page.click("#act")
        until("document.querySelector('#said').textContent.startsWith('2 actions')")
        assert page.evaluate("document.querySelector('[data-own=docs]').href") == f"{url}/policies/second/docs"


def test_a_webcam(seeing, page, until):
    with running(seeing) as url:
        page.goto(url)
        page.click("#webcam-front")
        until("!!document.querySelector('#cameras canvas').source")
        page.click("#act")
        page.wait_for_selector("#chunk canvas:nth-child(7)")


def test_errors_are_shown(policy_class, page, until, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "actions.json").write_text("[[1, 2]]")
    with running(policy_class()) as url:
        page.goto(url)
        page.wait_for_selector("#main:visible")
        assert page.is_visible("#mute") and not page.is_visible("#ask"), "it answers no questions"
        page.set_input_files("#file-wrist", tmp_path / "broken.png")
        until("document.querySelector('#trouble').textContent.includes('not an image')")
        page.set_input_files("#files", tmp_path / "actions.json")
        until("document.querySelector('#trouble').textContent.includes('7 numbers')")


def test_the_console_needs_a_key(seeing, page, until, tmp_path):
    (tmp_path / "keys").write_text(f"me {KEY}\n")
    with running(seeing, keys=Keys(tmp_path / "keys")) as url:
        page.goto(url)
        page.wait_for_selector("#door:visible")
        assert not page.is_visible("#main")
        page.fill("#key", "wrong")
        page.click("#door button")
        until("document.querySelector('#trouble').textContent.includes('401')")
        page.fill("#key", KEY)
        page.click("#door button")
        page.wait_for_selector("#main:visible")
        page.click("#act")
        page.wait_for_selector("#chunk canvas:nth-child(7)")
