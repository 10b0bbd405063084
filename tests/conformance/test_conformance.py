"""The backend suite in one run: a minute on two cores, nearly all of it compiling."""

import pytest
import suite


@pytest.fixture(scope="module")
def results():
    return suite.run_apart([])


@pytest.mark.timeout(900)
def test_exactly_the_documented_cases_do_not_pass(results):
    """A case that stops passing fails this test, and so does an exclusion that is no longer needed."""
    failed = {name: reason for name, reason in results.items() if reason}
    unexpected = {name: reason for name, reason in failed.items() if name not in suite.exclusions()}
    assert unexpected == {}
    assert sorted(failed) == sorted(suite.exclusions())


def test_at_least_1400_cases_pass(results):
    """The share of the suite that converts never falls below the promise."""
    assert sum(not reason for reason in results.values()) >= 1400


def test_the_page_in_the_documentation_is_current(results):
    """``python tests/conformance/suite.py`` writes the page anew."""
    assert suite.PAGE.read_text() == suite.table(results)
