"""Attacks on SecretFlow's control channel, over real sockets and real TLS."""

from __future__ import annotations

import contextlib
import pathlib
import pickle
import threading

import cloudpickle
import grpc
import pytest
import trustme
from secretflow.distributed.fed.exception import FedLocalError, FedRemoteError
from secretflow.distributed.fed.proxy import GrpcProxy
from secretflow.distributed.fed.proxy.grpc import fed_pb2, fed_pb2_grpc

from secure_runner.config import Limits, Timeouts, embedded_cluster, embedded_settings
from secure_runner.errors import AgreementError
from secure_runner.party.control import ControlError, HardenedProxy, sf_init_arguments
from secure_runner.party.payload import PayloadError, encode

MODEL, DATA, HELPER = "model-owner", "data-owner", "helper"
SESSION = "session-1"
QUICK = Timeouts(connect_timeout_s=1.5, recv_timeout_s=0.5).model_dump()


def arguments(settings):
    made = sf_init_arguments(settings, lane=0, slot=0)
    own = made["cluster_config"]["self_party"]
    addresses = {
        name: party["listen_addr" if name == own else "address"]
        for name, party in made["cluster_config"]["parties"].items()
    }
    return addresses, made["cross_silo_comm_options"]


@contextlib.contextmanager
def opened(settings, session=SESSION):
    """A party's hardened proxy, as SecretFlow would make it."""
    addresses, options = arguments(settings)
    proxy = HardenedProxy(settings, addresses, session, options)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def attack(made_or_settings, data, *, credentials=None, claims=MODEL, seq_id=1, session=SESSION, kind="data"):
    """Send bytes to the data owner as somebody with these credentials; the status it answers with."""
    addresses, _ = arguments(made_or_settings)
    options = [("grpc.ssl_target_name_override", DATA), ("grpc.max_send_message_length", -1)]
    open_channel = grpc.insecure_channel if credentials is None else grpc.secure_channel
    given = () if credentials is None else (credentials,)
    with open_channel(addresses[DATA], *given, options) as channel:
        request = fed_pb2.SfFedProxySendData(data=data, seq_id=seq_id, job_name=session)
        metadata = [("secure-runner-party", claims), ("secure-runner-kind", kind)]
        try:
            fed_pb2_grpc.SfFedProxyStub(channel).SendData(request, metadata=metadata, timeout=5)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def credentials_of(made, name=None, authority="ca"):
    files = [None, None] if name is None else [made.directory / f"{name}.key", made.directory / f"{name}.pem"]
    key, chain = (file and file.read_bytes() for file in files)
    return grpc.ssl_channel_credentials((made.directory / f"{authority}.pem").read_bytes(), key, chain)


class WritesFile:
    """What pickle would run on reading it: writes a file. It passes SecretFlow's deny-list."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.write_text, (self.path, "owned")


@pytest.mark.parametrize("pinned", [False, True], ids=["authority", "pinned"])
def test_parties_that_are_who_they_claim_to_be_exchange_values(tls_cluster, pinned):
    """The way it should go, with an authority and with pinned certificates, in both directions."""
    made = tls_cluster(pinned=pinned)
    with opened(made.settings[DATA]) as data, opened(made.settings[MODEL]) as model:
        assert model.send(DATA, {"w": (1, b"share")}, 1)
        assert data.recv(MODEL, 1) == {"w": (1, b"share")}
        assert data.send(MODEL, None, 2)
        assert model.recv(DATA, 2) is None


@pytest.mark.parametrize("who", ["plain", "no-certificate", "other-authority"])
def test_a_stranger_gets_nothing_through(tls_cluster, who):
    """Without TLS, without a certificate, or with one that another authority signed, no message arrives."""
    made = tls_cluster()
    made.issue("stranger", MODEL, authority=trustme.CA())
    credentials = {
        "plain": None,
        "no-certificate": credentials_of(made),
        "other-authority": credentials_of(made, "stranger"),
    }[who]
    with opened(made.settings[DATA]) as data:
        assert attack(made.settings[DATA], encode(1), credentials=credentials) is grpc.StatusCode.UNAVAILABLE
        assert not data._messages
        assert attack(made.settings[DATA], encode(1), credentials=credentials_of(made, MODEL)) is (
            grpc.StatusCode.OK
        )


def test_a_party_cannot_speak_in_another_partys_name(tls_cluster):
    """The helper's certificate is good, but not for a message in the model owner's name."""
    made = tls_cluster()
    helper = credentials_of(made, HELPER)
    with opened(made.settings[DATA]) as data:
        code = attack(made.settings[DATA], encode(1), credentials=helper, claims=MODEL)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert not data._messages
        for nobody in ("", "stranger", DATA):
            code = attack(made.settings[DATA], encode(1), credentials=helper, claims=nobody)
            assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_partys_message_does_not_answer_a_wait_for_another(tls_cluster):
    """SecretFlow files messages by number alone: here the helper's number 7 is not the model owner's."""
    made = tls_cluster(timeouts=QUICK)
    with opened(made.settings[DATA]) as data:
        helper = credentials_of(made, HELPER)
        assert attack(made.settings[DATA], encode("forged"), credentials=helper, claims=HELPER, seq_id=7) is (
            grpc.StatusCode.OK
        )
        with pytest.raises(ControlError, match="model-owner has sent nothing"):
            data.recv(MODEL, 7)
        assert data.recv(HELPER, 7) == "forged"


def test_a_message_goes_only_to_the_party_it_is_for(tls_cluster):
    """Where the helper listens at the data owner's address, the model owner sends nothing."""
    made = tls_cluster(timeouts=QUICK)
    own = made.settings[HELPER]
    addresses, options = arguments(own)
    addresses[HELPER] = addresses[DATA]
    impostor = HardenedProxy(own, addresses, SESSION, options)
    impostor.start()
    with opened(made.settings[MODEL]) as model:
        with pytest.raises(ControlError, match="did not prove that it is data-owner"):
            model.send(DATA, "secret", 1)
        assert not impostor._messages
    impostor.stop()


def test_the_gadget_writes_a_file_through_secretflows_own_channel(tmp_path):
    """The attack is real: SecretFlow's proxy as published runs it. Else the next test shows nothing."""
    settings = embedded_settings(embedded_cluster("cheetah"))[DATA]
    addresses, options = arguments(settings)
    published = GrpcProxy(addresses, DATA, SESSION, None, options)
    published.start()
    victim = tmp_path / "victim"
    assert attack(settings, cloudpickle.dumps(WritesFile(victim))) is grpc.StatusCode.OK
    published.recv(MODEL, 1)
    published.stop()
    assert victim.read_text() == "owned"


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "loopback"])
def test_a_pickle_that_would_write_a_file_does_nothing(tls_cluster, tmp_path, tls):
    """Nothing is unpickled, not even from a party with a good certificate, and not on loopback either."""
    made = tls_cluster() if tls else None
    settings = made.settings[DATA] if tls else embedded_settings(embedded_cluster("cheetah"))[DATA]
    credentials = credentials_of(made, MODEL) if tls else None
    victim = tmp_path / "victim"
    with opened(settings) as data:
        for seq_id, dump in enumerate([pickle.dumps, cloudpickle.dumps]):
            code = attack(settings, dump(WritesFile(victim)), credentials=credentials, seq_id=seq_id)
            assert code is grpc.StatusCode.OK
            with pytest.raises(PayloadError):
                data.recv(MODEL, seq_id)
    assert not victim.exists()


def test_an_oversized_message_is_refused_before_it_is_kept(tls_cluster):
    """The receiver's bound holds against a sender that has none."""
    made = tls_cluster(limits=Limits(control_message_bytes=4096).model_dump())
    good = credentials_of(made, MODEL)
    with opened(made.settings[DATA]) as data:
        assert attack(made.settings[DATA], bytes(3000), credentials=good) is grpc.StatusCode.OK
        code = attack(made.settings[DATA], bytes(5000), credentials=good, seq_id=2)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert set(data._messages) == {(MODEL, 1)}


def test_messages_that_nobody_asked_for_are_bounded(tls_cluster):
    """A peer cannot fill memory with messages; what is asked for makes room again."""
    made = tls_cluster(limits=Limits(control_backlog_bytes=10_000).model_dump())
    good = credentials_of(made, MODEL)
    body = encode(bytes(4000))

    def send(seq_id):
        return attack(made.settings[DATA], body, credentials=good, seq_id=seq_id)

    with opened(made.settings[DATA]) as data:
        assert [send(1), send(2), send(3)] == [
            grpc.StatusCode.OK,
            grpc.StatusCode.OK,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ]
        data.recv(MODEL, 1)
        assert send(3) is grpc.StatusCode.OK


def test_replays_and_other_sessions_change_nothing(tls_cluster):
    """The first copy of a message counts, a used number stays used, another session's message is refused."""
    made = tls_cluster(timeouts=QUICK)
    good = credentials_of(made, MODEL)
    with opened(made.settings[DATA]) as data:
        attack(made.settings[DATA], encode("first"), credentials=good)
        attack(made.settings[DATA], encode("second"), credentials=good)
        assert data.recv(MODEL, 1) == "first"
        attack(made.settings[DATA], encode("third"), credentials=good)
        assert not data._messages
        code = attack(made.settings[DATA], encode(1), credentials=good, seq_id=2, session="session-0")
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert not data._messages


def test_a_wait_ends_when_the_peer_falls_silent(tls_cluster):
    """A peer that has sent something and then nothing ends the wait; one that goes on sending does not."""
    made = tls_cluster(timeouts=QUICK)
    good = credentials_of(made, MODEL)
    with opened(made.settings[DATA]) as data:
        done = threading.Event()

        def keep_sending():
            for seq_id in range(10, 16):
                attack(made.settings[DATA], encode(None), credentials=good, seq_id=seq_id)
                done.wait(0.25)
            attack(made.settings[DATA], encode("at last"), credentials=good, seq_id=1)

        sender = threading.Thread(target=keep_sending)
        sender.start()
        assert data.recv(MODEL, 1) == "at last"
        sender.join()
        with pytest.raises(ControlError, match=r"nothing on the control channel for 0\.5 s"):
            data.recv(MODEL, 2)


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (ValueError("weight 0.1234"), "internal"),
        (FedLocalError(ValueError("weight 0.1234")), "internal"),
        (FedLocalError(AgreementError("weight 0.1234")), "agreement"),
    ],
)
def test_of_an_error_only_the_code_travels(tls_cluster, cause, code):
    """SecretFlow sends an exception's text to the peers; here they learn its code alone."""
    made = tls_cluster()
    with opened(made.settings[DATA]) as data, opened(made.settings[MODEL]) as model:
        model.send(DATA, FedRemoteError(MODEL, cause), 1)
        assert data._messages[MODEL, 1] == ("error", code.encode())
        received = data.recv(MODEL, 1)
        assert isinstance(received, FedRemoteError)
        assert str(received) == f"FedRemoteError occurred at model-owner caused by '{code}'"


def test_an_error_code_that_is_none_is_not_repeated(tls_cluster):
    """A peer cannot have text of its own written into our logs."""
    made = tls_cluster()
    with opened(made.settings[DATA]) as data:
        text = b"fake log line\n2026 all is well"
        attack(made.settings[DATA], text, credentials=credentials_of(made, MODEL), kind="error")
        assert "unknown" in str(data.recv(MODEL, 1))
