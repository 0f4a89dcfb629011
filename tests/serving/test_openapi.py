"""The API's description held against the API: schemathesis asks what it describes, and what it forbids."""

from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

from vla.serving.server import running

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.checks import positive_data_acceptance  # noqa: E402

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
# Text that is base64 by the schema need not be a picture.
LEFT_OUT = [positive_data_acceptance]


@pytest.fixture(scope="module")
def api(policy_class):
    class Answering(policy_class):
        def ask(self, images, questions):
            return [SimpleNamespace(text=question, point=None) for question in questions]

    with running(Answering()) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=40, **COMMON)
def test_answers_are_those_that_are_described(case):
    case.call_and_validate(excluded_checks=LEFT_OUT)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@schema.parametrize()
@settings(max_examples=2500, **COMMON)
def test_two_thousand_requests_to_each_path(case):
    case.call_and_validate(excluded_checks=LEFT_OUT)
