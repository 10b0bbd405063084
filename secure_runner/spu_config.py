"""SPU's runtime configuration for a protocol and a program's ring: the one place where it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secure_runner.errors import ConfigError
from secure_runner.programs.manifest import NumericSpec
from secure_runner.protocols import ProtocolName, protocol

if TYPE_CHECKING:
    import spu

__all__ = ["make_runtime_config", "runtime_config_dict", "sharing_config_dict"]


def sharing_config_dict(protocol_name: ProtocolName, numeric: NumericSpec) -> dict[str, Any]:
    """The part of the configuration that says how values are shared; enough to split and to reconstruct them.

    Args:
        protocol_name: which protocol.
        numeric: ring, fraction bits and exponential of the program. The Padé exponential is the default:
            SPU's own default is wrong by orders of magnitude below about -512.
    """
    chosen = protocol(protocol_name)
    return {
        "protocol": chosen.spu_name,
        "field": numeric.field,
        "fxp_fraction_bits": numeric.fraction_bits,
        "fxp_exp_mode": numeric.exp_mode,
        "experimental_enable_colocated_optimization": chosen.inputs_stay_with_owner,
    }


def runtime_config_dict(
    protocol_name: ProtocolName,
    numeric: NumericSpec,
    *,
    insecure: bool = False,
    beaver: Mapping[str, Any] | None = None,
    packed_products: bool = True,
) -> dict[str, Any]:
    """SPU's ``RuntimeConfig`` as a JSON-able dict; the same at all parties.

    Args:
        protocol_name: which protocol.
        numeric: ring, fraction bits and exponential of the program.
        insecure: allow ``semi2k`` without a dealer, where rank 0 makes the randomness and can unmask.
        beaver: ``ttp_beaver_config`` of a dealer, for ``semi2k``.
        packed_products: whether homomorphic products pack their answers, as the program's executables say.

    Raises:
        ConfigError: ``semi2k`` with neither a dealer nor ``insecure``.
    """
    config = sharing_config_dict(protocol_name, numeric)
    if protocol(protocol_name).homomorphic_products:
        config["cheetah_2pc_config"] = {"disable_matmul_pack": not packed_products}
    if protocol_name == "semi2k":
        if beaver is not None:
            config |= {"beaver_type": "TrustedThirdParty", "ttp_beaver_config": dict(beaver)}
        elif insecure:
            config["beaver_type"] = "TrustedFirstParty"
        else:
            raise ConfigError(
                "protocol semi2k needs a dealer: without one, the model owner makes the randomness and can "
                "unmask the features. Add a party with role dealer, or choose aby3 or cheetah; to try it on "
                "one machine only, write insecure: true"
            )
    return config


def make_runtime_config(config: Mapping[str, Any]) -> spu.RuntimeConfig:
    """Parse a configuration dict into SPU's own object.

    Raises:
        ConfigError: SPU does not take it.
    """
    import spu

    parsed = spu.RuntimeConfig()
    if parsed.ParseFromJsonString(json.dumps(config)) is False:
        raise ConfigError("SPU does not accept the runtime configuration")
    return parsed
