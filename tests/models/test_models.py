"""Whole models: trained, exported, converted, and run."""

import functools

import pytest
from model_registry import CASES, check_plain, check_spu, load_cases

load_cases()
pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = sorted(CASES)


@functools.cache
def _made(name):
    return CASES[name].make()


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_model_agrees_with_its_own_library(name):
    """In plain JAX, on all rows: labels away from ties, scores within 1e-4 unless the case says otherwise."""
    check_plain(CASES[name], _made(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_under_spu_agrees_with_its_own_library(name):
    """Under ABY3, on a few rows: labels away from ties, scores within the case's stated tolerance."""
    check_spu(CASES[name], _made(name))
