"""The page of `vla play`, clicked through in chromium; skipped where chromium is not installed."""

import contextlib
import json

import pytest
import websockets.sync.client as websockets
from websockets.exceptions import InvalidStatus

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.models.load import load_vlm
from vla.play.server import play, showing
from vla.play.session import Session
from vla.policies.local import LocalPolicy
from vla.serving.server import bind
from vla.sim.simulator_worker import SimulatorWorker
from vla.sim.suites import Suite, load_suite
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.variation import SEEN
from vla.sim.workers import Workers

SUITE = Suite("toy", ("lift",), (SEEN,), horizon=8)


@pytest.fixture(scope="module")
def writing(vlm):
    """A model with a plan, probabilities and answers, none of which mean anything."""
    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3, execute=2)
    return LocalPolicy(*load_vlm(vlm), contract, probabilities=True)


@pytest.fixture
def show(tmp_path):
    """show(policies, make, suite): a context with the page's address."""

    @contextlib.contextmanager
    def shown(policies, make=SimulatorWorker, suite=SUITE):
        with (
            Workers(len(policies), make) as workers,
            contextlib.closing(Session(policies, suite, workers, str(tmp_path))) as session,
            showing(session) as url,
        ):
            yield url

    return shown


def text(name):
    return f"document.querySelector('#{name}').textContent"


def test_an_episode_is_played_asked_about_and_kept(writing, toy, show, page, until, tmp_path):
    with show({"model": writing, "expert": None}, toy()) as url:
        page.goto(url)
        page.wait_for_selector("#view-model-front")
        assert page.locator("#players article").count() == 2 and page.is_disabled("#expert-expert")
        page.click("#one")
        until(f"{text('step')} === '1'")
        assert "1 step; the policy takes" in page.text_content("#who-model")
        assert "Plan: the object at" in page.text_content("#players article:first-child")
        assert page.locator("#players article:first-child .plots canvas").count() == 5
        # The cross, in a colour that no noise is likely to have three times in a row.
        pink = "(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
        pink += "for (let i = 0; i < d.length; i += 4) n += d[i] === 255 && d[i + 1] === 45 && d[i + 2] === 149; return n })"
        until(f"{pink}(document.querySelector('#view-model-front')) > 3")
        page.fill("#question", "what colour is the cube")
        page.click("#ask button")
        until(f"{text('answer-model')}.startsWith('what colour is the cube: ')")
        page.check("#expert-model")
        page.select_option("#speed", "100")
        page.click("#play")
        until(f"{text('outcome-model')} !== '' && {text('outcome-expert')} !== ''")
        assert "by the expert" in page.text_content("#who-model")
        page.click("#save")
        until(f"{text('said')}.startsWith('saved: ')")
        assert len(list(tmp_path.glob("*/films/*.mp4"))) == 3 and len(list(tmp_path.glob("*/data/*/shard-*.tar"))) == 2
        page.fill("#instruction", "lift nothing in particular")
        page.click("#telling button")
        until(f"{text('note')}.includes('On the table: ')")
        page.click("#new")
        until("document.querySelector('#scene').value === '1'")
        page.select_option("#suite", "rt2/unseen-heights")
        until("document.querySelector('#variation').value === '3 cm higher'")


def test_two_browsers_see_one_session_and_the_last_one_pauses_it(toy, show, page, until):
    with show({"expert": None}, toy(), Suite("long", ("lift",), (SEEN,), horizon=10_000)) as url:
        other = page.context.new_page()
        for one in (page, other):
            one.goto(url)
            one.wait_for_selector("#main:visible")
        page.click("#play")
        until(f"Number({text('step')}) > 2 && {text('play')} === 'Pause'", where=other)
        assert "2 browsers" in other.text_content("#others")
        page.close()
        until(f"{text('others')} === ''", where=other)
        assert other.text_content("#play") == "Pause"
        other.goto("about:blank")
        with websockets.connect(f"{url.replace('http', 'ws')}/live") as socket:
            state = json.loads(socket.recv())
            assert not state["playing"] and state["browsers"] == 1
            # Anybody may send anything.
            for sent, said in (
                ("{", "not JSON"),
                ("[1]", "not a JSON object"),
                ('{"do": "fly"}', "unknown request 'fly'"),
                ('{"do": "speed"}', "speed None"),
            ):
                socket.send(sent)
                while not isinstance(message := socket.recv(), str) or said not in json.loads(message)["trouble"]:
                    pass
            assert socket.recv() and json.loads(message)["players"][0]["steps"] > 2


def test_pages_of_other_sites_are_refused(toy, show):
    with show({"expert": None}, toy()) as url:
        for origin in ("http://evil.example", url.replace("127.0.0.1", "evil.example")):
            with pytest.raises(InvalidStatus) as refused, websockets.connect(f"ws{url[4:]}/live", origin=origin):
                pass
            assert refused.value.response.status_code == 403


def test_a_port_in_use_is_said_before_anything_is_loaded():
    with contextlib.closing(bind("127.0.0.1", 0)) as taken:
        taken.listen()
        with pytest.raises(UserError, match="cannot listen"):
            play(lambda: pytest.fail("loaded"), taken.getsockname()[1], print)


@pytest.mark.slow
def test_the_expert_lifts_on_the_real_tabletop(show, page, until):
    with show({"expert": None}, suite=load_suite("rt2/seen")) as url:
        page.goto(url)
        page.wait_for_selector("#view-expert-wrist")
        page.select_option("#speed", "100")
        page.click("#play")
        until("document.querySelector('#outcome-expert').textContent === 'success'")
