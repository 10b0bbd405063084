"""Certificates replaced under load: a new session takes them up before the old one ends."""

from __future__ import annotations

import socket
import ssl

import pytest

PARTIES = ("model-owner", "data-owner")


def _certificates_in_use(made, party, viewer):
    """What the party's control channels of both slots show; a slot without a session shows nothing."""
    context = ssl.create_default_context(cafile=str(made.directory / "ca.pem"))
    context.load_cert_chain(made.directory / f"{viewer}.pem", made.directory / f"{viewer}.key")
    context.set_alpn_protocols(["h2"])
    shown = set()
    for slot in (0, 1):
        address = made.cluster.addresses(party, 0, slot).control
        try:
            with (
                socket.create_connection(address, timeout=5) as plain,
                context.wrap_socket(plain, server_hostname=party) as secure,
            ):
                shown.add(secure.getpeercert(binary_form=True))
        except OSError:
            continue
    return shown


@pytest.mark.parametrize("party", PARTIES)
def test_a_replaced_certificate_costs_no_request(tls_pair, small_model, party):
    """Whichever party replaces its own: every answer is right, none is refused, the old one is gone."""
    made, parties = tls_pair
    data_owner = parties["data-owner"]
    viewer = next(other for other in PARTIES if other != party)
    before = _certificates_in_use(made, party, viewer)
    epoch, processes = data_owner.epoch, data_owner.processes
    with data_owner.load(small_model) as load:
        data_owner.wait_until(lambda: load.right > 20, 60)
        made.issue(party)
        new = ssl.PEM_cert_to_DER_cert(_first_certificate((made.directory / f"{party}.pem").read_text()))
        data_owner.wait_until(lambda: data_owner.epoch > epoch, 60)
        data_owner.wait_until(lambda: _certificates_in_use(made, party, viewer) == {new}, 60)
        served = load.right
        data_owner.wait_until(lambda: load.right > served + 20, 60)
    assert new not in before
    assert load.wrong == 0
    assert load.errors == []
    assert not set(processes.values()) & set(data_owner.processes.values())


def _first_certificate(pem):
    end = "-----END CERTIFICATE-----\n"
    return pem[: pem.index(end) + len(end)]
