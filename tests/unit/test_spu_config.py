"""SPU's configuration: the right protocol, ring and source of randomness, and no insecure one by accident."""

from __future__ import annotations

import pytest

from secure_runner.errors import ConfigError
from secure_runner.programs.manifest import NumericSpec
from secure_runner.protocols import PROTOCOLS, computing_roles, protocol
from secure_runner.spu_config import make_runtime_config, runtime_config_dict

DEALER = {"server_host": "dealer:1", "session_id": "s", "adjust_rank": 0, "asym_crypto_schema": "SM2"}


def test_semi2k_without_a_dealer_is_refused():
    """The message says why and what to do instead."""
    with pytest.raises(ConfigError, match=r"dealer.*insecure: true"):
        runtime_config_dict("semi2k", NumericSpec())


def test_semi2k_takes_its_randomness_from_the_dealer_if_there_is_one():
    """Also where insecure was written: a dealer is never ignored."""
    for insecure in (False, True):
        config = runtime_config_dict("semi2k", NumericSpec(), beaver=DEALER, insecure=insecure)
        assert config["beaver_type"] == "TrustedThirdParty"
        assert config["ttp_beaver_config"] == DEALER


def test_semi2k_makes_its_own_randomness_only_if_that_is_asked_for():
    """Insecure is a word that somebody has to write."""
    assert runtime_config_dict("semi2k", NumericSpec(), insecure=True)["beaver_type"] == "TrustedFirstParty"


@pytest.mark.parametrize("name", ["aby3", "cheetah"])
def test_other_protocols_need_no_source_of_randomness(name):
    """Insecure changes nothing about them."""
    assert runtime_config_dict(name, NumericSpec(), insecure=True) == runtime_config_dict(name, NumericSpec())


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_spu_reads_what_is_written(name):
    """Protocol, ring, fraction bits and exponential arrive in SPU's own object."""
    import spu

    numeric = NumericSpec(field="FM128", fraction_bits=26)
    found = make_runtime_config(runtime_config_dict(name, numeric, insecure=True))
    assert found.protocol == getattr(spu.ProtocolKind, name.upper())
    assert found.field == spu.FieldType.FM128
    assert found.fxp_fraction_bits == 26
    assert found.fxp_exp_mode == spu.RuntimeConfig.ExpMode.EXP_PADE


@pytest.mark.parametrize("wrong", [{"protocol": "NONE_SUCH"}, {"field": []}, {"fxp_fraction_bits": "many"}])
def test_a_configuration_that_spu_does_not_take_is_an_error(wrong):
    """It never runs with a default in place of what was asked for."""
    with pytest.raises(ConfigError):
        make_runtime_config(runtime_config_dict("aby3", NumericSpec()) | wrong)


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    """REF2K, which protects nothing, is not among them."""
    with pytest.raises(ConfigError, match=r"cheetah.*semi2k.*aby3"):
        protocol("ref2k")
    assert "REF2K" not in {known.spu_name for known in PROTOCOLS.values()}


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_the_model_owner_has_rank_0_and_the_data_owner_rank_1(name):
    """Ranks follow roles, not names."""
    assert computing_roles(name)[:2] == ("model_owner", "data_owner")
