"""Whole models: trained, exported, converted, and run."""

import functools

import pytest
from model_registry import CASES, check_plain, check_spu, load_cases

from benchmarks.dealt_models import DealtModels

load_cases()
pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = sorted(CASES)
SAMPLE = (
    "logistic regression of three classes",
    "random forest",
    "perceptron",
    "linen convolution with batch statistics",
)
SLOW = pytest.mark.slow


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


@pytest.fixture(scope="module")
def dealt():
    with DealtModels() as models:
        yield models


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SAMPLE else SLOW) for name in NAMES])
def test_a_model_with_a_dealer_agrees_with_its_own_library(dealt, name):
    """The same under SEMI2K, between real processes, with a dealer that holds them to the transcript."""
    check_spu(CASES[name], _made(name), dealt.predict)
