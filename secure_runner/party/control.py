"""SecretFlow's control channel, hardened: the one file that replaces parts of ``secretflow.distributed.fed``.

What SecretFlow 1.14.0b0 does as published, and what :class:`HardenedProxy` does instead:

- It gives the client's channels server credentials, so TLS cannot start. Here each side shows a certificate,
  and each checks that the other's is that of the party it claims to be (:mod:`secure_runner.config.tls`).
- It files messages under a number that any peer can claim. Here under the sender's name and the number.
- It unpickles what peers send. Here only data of listed types is read (:mod:`secure_runner.party.payload`).
- It waits for ever. Here every wait ends, and so does the heap of messages that nobody has asked for.
- It sends an exception's text to the peers. Here a code travels and nothing else.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from secretflow.distributed.fed import api as fed_api
from secretflow.distributed.fed.exception import FedLocalError, FedRemoteError
from secretflow.distributed.fed.proxy import GrpcProxy
from secretflow.distributed.fed.proxy.grpc import fed_pb2, fed_pb2_grpc

from secure_runner.config.party import PartySettings
from secure_runner.config.tls import IdentityError, read_tls
from secure_runner.errors import SecureRunnerError
from secure_runner.party import payload
from secure_runner.party.grpc_tls import check_sender, client_credentials, server_credentials

__all__ = ["ControlChannel", "ControlError", "HardenedProxy", "install", "sf_init_arguments"]

_log = logging.getLogger(__name__)

_PARTY_KEY = "secure-runner-party"
_KIND_KEY = "secure-runner-kind"
_DATA, _ERROR = "data", "error"
_CODE = re.compile(r"[a-z_]{1,40}")
_ACCEPTED = 200
_WAKE_INTERVAL_S = 0.2
_SERVER_THREADS = 8
_RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# What a waiting message costs beside its bytes, so that many empty ones count too.
_MESSAGE_OVERHEAD_BYTES = 512


class ControlError(SecureRunnerError):
    """The control channel to another party failed or fell silent."""

    code = "control"


class HardenedProxy(GrpcProxy):  # type: ignore[misc]
    """The control channel of one session: one server, and one client for each peer.

    Made by SecretFlow itself once :func:`install` has put it in place.
    """

    def __init__(
        self, settings: PartySettings, addresses: dict[str, str], job_name: str, options: dict[str, Any]
    ) -> None:
        super().__init__(addresses, settings.party, job_name, None, options)
        self._cluster = settings.cluster
        self._material = read_tls(settings)
        self._channels: dict[str, grpc.Channel] = {}
        self._connected: set[str] = set()
        self._arrived = threading.Condition()
        self._messages: dict[tuple[str, int], tuple[str, bytes]] = {}
        self._taken: set[tuple[str, int]] = set()
        self._backlog_bytes: Counter[str] = Counter()
        self._heard_at_s: dict[str, float] = {}

    # Receiving -------------------------------------------------------------------------------------------

    def SendData(  # noqa: N802 (the name is gRPC's)
        self, request: fed_pb2.SfFedProxySendData, context: grpc.ServicerContext
    ) -> fed_pb2.SfFedProxySendDataResponse:
        """Take one message of a peer, if it is the peer's to send."""
        metadata = dict(context.invocation_metadata())
        source, kind = metadata.get(_PARTY_KEY, ""), metadata.get(_KIND_KEY, "")
        if source not in self._addresses or source == self._party or kind not in (_DATA, _ERROR):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad_message")  # raises
        try:
            check_sender(self._material, context, source)
        except IdentityError as error:
            _log.warning("control channel: refused a message in the name of %s: %s", source, error)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "identity")
        if request.job_name != self._job_name:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "other_session")
        if not self._file(source, request.seq_id, kind, request.data):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "backlog")
        return fed_pb2.SfFedProxySendDataResponse(code=_ACCEPTED, result="")

    def _file(self, source: str, seq_id: int, kind: str, data: bytes) -> bool:
        """Keep a message until it is asked for; False if too much of this peer's waits already."""
        key = (source, seq_id)
        with self._arrived:
            self._heard_at_s[source] = time.monotonic()
            # The first copy counts: a retry or a replay of a message changes nothing.
            if key not in self._messages and key not in self._taken:
                backlog_bytes = self._backlog_bytes[source] + len(data) + _MESSAGE_OVERHEAD_BYTES
                if backlog_bytes > self._cluster.limits.control_backlog_bytes:
                    return False
                self._backlog_bytes[source] = backlog_bytes
                self._messages[key] = (kind, data)
            self._arrived.notify_all()
        return True

    def recv(self, src_party: str, seq_id: int) -> Any:
        """Wait for a message of a party.

        Raises:
            ControlError: the party has sent nothing at all for ``recv_timeout_s``, or, if it has never been
                there, for ``connect_timeout_s``.
            PayloadError: what came is not of the listed types.
        """
        key = (src_party, seq_id)
        started_s = time.monotonic()
        with self._arrived:
            while key not in self._messages:
                self._check_silence(src_party, started_s)
                self._arrived.wait(_WAKE_INTERVAL_S)
            kind, data = self._messages.pop(key)
            self._backlog_bytes[src_party] -= len(data) + _MESSAGE_OVERHEAD_BYTES
            self._taken.add(key)
        if kind == _ERROR:
            code = data[:64].decode("ascii", "replace")
            return FedRemoteError(src_party, ControlError(code if _CODE.fullmatch(code) else "unknown"))
        return payload.decode(data)

    def _check_silence(self, source: str, started_s: float) -> None:
        timeouts = self._cluster.timeouts
        heard_at_s = self._heard_at_s.get(source)
        limit_s = timeouts.connect_timeout_s if heard_at_s is None else timeouts.recv_timeout_s
        if time.monotonic() - max(started_s, heard_at_s or 0.0) > limit_s:
            raise ControlError(f"party {source} has sent nothing on the control channel for {limit_s:g} s")

    # Sending ---------------------------------------------------------------------------------------------

    def send(self, dest_party: str, data: Any, seq_id: int) -> bool:
        """Send a value, or the code of an error, to a party.

        Raises:
            ControlError: the party cannot be reached, or refuses; names its code.
            PayloadError: the value holds what must not travel.
        """
        kind, body = (
            (_ERROR, _error_code(data).encode())
            if isinstance(data, FedRemoteError)
            else (_DATA, payload.encode(data))
        )
        self._await_connection(dest_party)
        request = fed_pb2.SfFedProxySendData(data=body, seq_id=seq_id, job_name=self._job_name)
        try:
            self._stubs[dest_party].SendData(
                request,
                metadata=[(_PARTY_KEY, self._party), (_KIND_KEY, kind)],
                timeout=self._cluster.timeouts.transfer_timeout_s,
            )
        except grpc.RpcError as error:
            raise ControlError(
                f"party {dest_party} did not take a message of {len(body)} bytes: {error.code().name}"
            ) from error
        return True

    def _await_connection(self, peer: str) -> None:
        """A peer may come up later, or be somebody else: wait for it, but only once and not for ever."""
        if peer in self._connected:
            return
        limit_s = self._cluster.timeouts.connect_timeout_s
        try:
            grpc.channel_ready_future(self._channels[peer]).result(timeout=limit_s)
        except grpc.FutureTimeoutError as error:
            raise ControlError(
                f"party {peer} was not reached at {self._addresses[peer]} within {limit_s:g} s, "
                f"or did not prove that it is {peer}"
            ) from error
        self._connected.add(peer)

    # Sockets ---------------------------------------------------------------------------------------------

    def _start_server(self) -> None:
        server = grpc.server(ThreadPoolExecutor(_SERVER_THREADS), options=self._grpc_options)
        fed_pb2_grpc.add_SfFedProxyServicer_to_server(self, server)
        if self._material is None:
            server.add_insecure_port(self._listen_addr)
        else:
            server.add_secure_port(self._listen_addr, server_credentials(self._material))
        server.start()
        self._server = server

    def _init_channel(self) -> None:
        for peer, address in self._addresses.items():
            if peer == self._party:
                continue
            if self._material is None:
                channel = grpc.insecure_channel(address, options=self._grpc_options)
            else:
                options = [*self._grpc_options, ("grpc.ssl_target_name_override", peer)]
                channel = grpc.secure_channel(address, client_credentials(self._material, peer), options)
            self._channels[peer] = channel
            self._stubs[peer] = fed_pb2_grpc.SfFedProxyStub(channel)


class ControlChannel:
    """This party's end of the control channel, from :func:`install` on."""

    def __init__(self, settings: PartySettings) -> None:
        self._settings = settings
        self._proxy: HardenedProxy | None = None

    def _open(
        self,
        addresses: dict[str, str],
        party: str,
        job_name: str,
        tls_config: dict[str, str] | None,
        options: dict[str, Any],
    ) -> HardenedProxy:
        assert party == self._settings.party, "sf_init_arguments and install are of the same party"
        assert tls_config is None, "certificates come from the party's settings"
        self._proxy = HardenedProxy(self._settings, addresses, job_name, options)
        return self._proxy

    def exchange(self, messages: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Send each peer a message of its own and return what each has sent to us.

        Beside SecretFlow's own messages: usable once ``sf.init`` has run, for what parties tell each other in
        pairs. A message is readable by the one peer it goes to.

        Args:
            messages: computing peer to value.
            number: which exchange of the session it is, from 1.

        Raises:
            ControlError: a peer is not there in time. PayloadError: a value is not of the listed types.
        """
        assert self._proxy is not None, "exchange comes after sf.init"
        # SecretFlow counts its messages from 1 upward.
        for peer, message in messages.items():
            self._proxy.send(peer, message, -number)
        return {peer: self._proxy.recv(peer, -number) for peer in messages}


def install(settings: PartySettings) -> ControlChannel:
    """Put the hardened channel in place of SecretFlow's own. To be called before ``sf.init``, once a process.

    Certificates are read when ``sf.init`` opens the channel, which raises ``ConfigError`` if they are wrong.
    """
    channel = ControlChannel(settings)
    fed_api.GrpcProxy = channel._open
    return channel


def sf_init_arguments(settings: PartySettings, lane: int, slot: int) -> dict[str, Any]:
    """Arguments of ``sf.init`` for one session. Its ``job_name`` comes on top, new for each session."""
    cluster = settings.cluster
    parties = {
        name: {
            "address": str(cluster.addresses(name, lane, slot).control),
            "listen_addr": str(cluster.addresses(name, lane, slot, listen=True).control),
        }
        for name in cluster.ranked_parties
    }
    return {
        "ray_mode": False,
        "cluster_config": {"self_party": settings.party, "parties": parties},
        "cross_silo_comm_backend": "grpc",
        "cross_silo_comm_options": {
            "messages_max_size_in_bytes": cluster.limits.control_message_bytes,
            "grpc_channel_options": {
                "grpc.initial_reconnect_backoff_ms": int(cluster.retries.first_interval_s * 1000),
                "grpc.max_reconnect_backoff_ms": int(cluster.retries.longest_interval_s * 1000),
            },
            "grpc_retry_policy": _RETRY_POLICY,
        },
        "logging_level": "warning",
    }


def _error_code(error: FedRemoteError) -> str:
    cause = error.cause()
    while isinstance(cause, FedLocalError):
        cause = cause.cause()
    return cause.code if isinstance(cause, SecureRunnerError) else SecureRunnerError.code
