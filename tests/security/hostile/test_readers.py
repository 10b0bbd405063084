"""Readers of what another party or a store has written, fed with mutations."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_runner.errors import ProgramError
from secure_runner.programs.files import MANIFEST_FILE, read_program
from secure_runner.sessions.messages import (
    CoordinationError,
    Goodbye,
    Hello,
    Start,
    read_greeting,
    read_session_message,
)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_PLANTED = "never-repeat-this"
_QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
_HELLO = Hello(
    party="bank",
    cluster_name="credit",
    cluster_digest="a" * 64,
    program_name="credit",
    program_digest="b" * 64,
    protocol_configuration={"protocol": "aby3", "fraction_bits": 18},
    versions={"spu": "1"},
)
_MESSAGES = [
    (read_greeting, _HELLO),
    (read_greeting, Goodbye(reason="closing")),
    (read_session_message, Start(session_id="s-1", epoch=1, lane=0, slot=1)),
]


def _paths(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*at, key))


def _mutated(document, path, value):
    """The document with another value at the path."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = _mutated(document[path[0]], path[1:], value)
    return copy


@pytest.fixture(scope="module")
def program(small_files, tmp_path_factory):
    """A real program whose manifest may be spoiled."""
    directory = tmp_path_factory.mktemp("program")
    for file in small_files.program_dir.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


@_QUICK
@given(st.data())
def test_a_mutated_manifest_is_read_or_refused(program: Path, small_files, tried, data):
    """Any value at any place: a manifest of this version, or ProgramError; never another error."""
    document = json.loads((small_files.program_dir / MANIFEST_FILE).read_text())
    path = data.draw(st.sampled_from(sorted(_paths(document), key=repr)))
    value = data.draw(_JSON | st.just(_PLANTED))
    (program / MANIFEST_FILE).write_text(json.dumps(_mutated(document, path, value)))
    with contextlib.suppress(ProgramError), tried.reading("manifests", ProgramError):
        read_program(program)


@_QUICK
@given(st.data())
def test_a_cut_or_noisy_manifest_is_refused(program: Path, small_files, tried, data):
    """Half of it, or any bytes."""
    content = (small_files.program_dir / MANIFEST_FILE).read_bytes()
    cut = st.integers(0, len(content) - 2).map(lambda length: content[:length])
    (program / MANIFEST_FILE).write_bytes(data.draw(cut | st.binary(max_size=200)))
    with pytest.raises(ProgramError), tried.reading("manifests", ProgramError):
        read_program(program)


@pytest.mark.parametrize(("read", "message"), _MESSAGES, ids=["hello", "goodbye", "start"])
@_QUICK
@given(data=st.data())
def test_a_mutated_message_is_read_or_refused_without_repeating_it(read, message, tried, data):
    """Any value at any place, or any bytes: a message, or CoordinationError that quotes nothing."""
    document = message.model_dump()
    path = data.draw(st.sampled_from(sorted(_paths(document), key=repr)))
    value = data.draw(_JSON | st.just(_PLANTED))
    content = json.dumps(_mutated(document, path, value)).encode()
    content = data.draw(st.just(content) | st.integers(0, len(content)).map(lambda n: content[:n]))
    refusal = ""
    try:
        with tried.reading("coordination messages", CoordinationError):
            read(content)
    except CoordinationError as error:
        refusal = str(error)
    assert _PLANTED not in refusal
