"""Real event logs against the registers their sources state, and the same logs changed.

The vectors are collected from public repositories and are not part of this project:
ADYTON_VECTORS names their folder. PCR values and boot application digests below are those
google/go-tpm-tools states beside the logs (server/eventlog_test.go); they were recorded on
the machines, independently of any replay.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attestation.errors import VerificationError
from attestation.evidence import parse_quote
from attestation.evidence.eventlog import EventType, TcgEventLog
from attestation.verify.events import VerifiedEvents, replay, verify_events

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("ADYTON_VECTORS", ROOT.parent / "shared" / "vectors"))
LOGS = VECTORS / "eventlog"
pytestmark = pytest.mark.skipif(
    not LOGS.is_dir(), reason="no event logs where ADYTON_VECTORS points"
)

PCRS: dict[str, dict[int, str]] = {
    "tpm-ubuntu-1804-amd-sev/ubuntu-1804-amd-sev.bin": {
        0: "0f35c214608d93c7a6e68ae7359b4a8be5a0e99eea9107ece427c4dea4e439cf",
        1: "add81cbc06b154716ac7bd5999c84cbc520184d57c58102657d270274508d9ce",
        2: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        3: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        4: "b4b94e840fc9352e20bdb5b456b4c242af0fb146755b6935d8eda000ea368a31",
        5: "0b75168095fd6464ff1f9943b762ec009a3ae84c5e76cf67361e16b9db30d28e",
        6: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        7: "61af3f499f1a86be54458fd30d193fa913a7e23ca3103fa3d0abaefd3cd4f9b8",
        8: "c324da9d0c54252c37af697cdd58b066f2bb0f4a69752d27623bc738d02e9486",
        9: "2d334f1eeb9a16dabaccaa746ff1c0dce2e9aeb3f3a4a314e5e1e61b01e940d0",
    },
    "tpm-ubuntu-2404-amd-sevsnp/ubuntu-2404-amd-sevsnp.bin": {
        0: "50597a27846e91d025eef597abbc89f72bff9af849094db97b0684d8bc4c515e",
        1: "57344e1cc8c6619413df33013a7cd67915459f967395af41db21c1fa7ca9c307",
        2: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        3: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        4: "abe8b3fa6aecb36c2fd93c6f6edde661c21b353d007410a2739d69bfa7e1b9be",
        5: "0b0e1903aeb1bff649b82dba2cdcf5c4ffb75027e54f151ab00b3b989f16a300",
        6: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        7: "33ad69850fb2c7f30b4f8b4bc10ed93fc954dc07fa726e84f50f3d192dc1c140",
        8: "6932a3f71dc55ad3c1a6ac2196eeac26a1b7164b6bbfa106625d94088ec3ecc3",
        9: "ce08798b283c7a0ddc5e9ad1d602304b945b741fc60c20e254eafa0f4782512b",
        14: "306f9d8b94f17d93dc6e7cf8f5c79d652eb4c6c4d13de2dddc24af416e13ecaf",
    },
    "tpm-cos-85-amd-sev/cos-85-amd-sev.bin": {
        0: "0f35c214608d93c7a6e68ae7359b4a8be5a0e99eea9107ece427c4dea4e439cf",
        1: "6eb40f5b6bfafcb9914d486ce59404acd24bc13a6a3c45cda3b44c9d7053d638",
        2: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        3: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        4: "d690bdac2aa8b73a1d718cb91990df07d0747b07ea57b3b2d0f0d511f0d90491",
        5: "e9e0b32564b6f8215b1bd43954d9f910682d39c3b18abd4737ac3b797cf269e0",
        6: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        7: "3365d7fa2b024c852913c06e04ffbfa6ea5289f743bbf1a76f7ffdf21ed84793",
        8: "9e9b6511ae6ad443aae4c7bf998ffffbcd271c874f1efab9d692f129eb6e6c18",
        9: "f4f2d92d6d54f6c41f2706fd98091317642e0680a7902c72893d41e3464a93b7",
    },
    "tpm-cos-93-amd-sev/cos-93-amd-sev.bin": {
        0: "0f35c214608d93c7a6e68ae7359b4a8be5a0e99eea9107ece427c4dea4e439cf",
        1: "6eb40f5b6bfafcb9914d486ce59404acd24bc13a6a3c45cda3b44c9d7053d638",
        2: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        3: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        4: "871e8343044ae4c87b402dcb94b5e49715b1b8dc1b19c43ba0801422fabb39d4",
        5: "74be59dc8066011eade913db9a3db7978f93852c04816cba9427dd59b87042cc",
        6: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        7: "3365d7fa2b024c852913c06e04ffbfa6ea5289f743bbf1a76f7ffdf21ed84793",
        8: "ba18b7028111f1f193967cad3c23b5050f73061c0f119182ac0f42efd6a9159e",
        9: "0b1e4f9ca7bc8535c4c33f0025969d7abea008aa51dcd7f7c2d1068470e4bce4",
    },
    "tpm-cos-101-amd-sev/cos-101-amd-sev.bin": {
        0: "0f35c214608d93c7a6e68ae7359b4a8be5a0e99eea9107ece427c4dea4e439cf",
        1: "6eb40f5b6bfafcb9914d486ce59404acd24bc13a6a3c45cda3b44c9d7053d638",
        2: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        3: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        4: "6d9f1a1d461cf77517e8d4c488c53f338a71c5a8e2b81ab7011c14f72cbc9a80",
        5: "d1a1ab23a5c3d98fbacff3891bad42d8e9257d61e1f683f42c6c9fa949bf96c5",
        6: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
        7: "2bc6edaa921f953cec0ffb28dad4f87114886603d6a782036502d28e69d97a48",
        8: "ebb7c847c4ade99849bcffca236d32331224a530087a7ae4cb9f7db4c2e571b5",
        9: "b5ad662e5eb9165825ee39ad66e851a67a193e0b87b27858f25ac58afa72ac57",
        14: "d0d95459205afae879514db7b85630f5d6b8272ed8c731bf92933dbc9fe99969",
    },
}
APPLICATIONS: dict[str, tuple[str, ...]] = {
    "tpm-ubuntu-1804-amd-sev/ubuntu-1804-amd-sev.bin": (
        "2ea4cb6a1f1eb1d3dce82d54fde26ded243ba3e18de7c6d211902a594fe56788",
        "835f940e97bac2f7c171819b1fcc4bebe72a1c4ea7d7245088ef32d253085bb3",
    ),
    "tpm-ubuntu-2404-amd-sevsnp/ubuntu-2404-amd-sevsnp.bin": (
        "724de6844dd0fe618ba5776c7bca0728be38a6544e24e44ef259b987b7abce80",
        "5e8cb75acdf8e09e5fc14cc2d6ce0c2288af208976d97309851c661e91ec1e03",
    ),
    "tpm-cos-85-amd-sev/cos-85-amd-sev.bin": (
        "dba8d69ffb244496ac8ab2950695d3da539d6ac5ec660fc6b4bdde245284cf23",
        "f7bad83f87940312e4642530a9a6242e88529dc37a497d7d4e7c1c070566d542",
        "6f6afb3caed004e727200a0c310731bd8ab4cd391b2d95cedf67d08e1e8e5e7e",
    ),
    "tpm-cos-93-amd-sev/cos-93-amd-sev.bin": (
        "27cce48e55b3bfb6eb6206a4cc2b53a497846496a6264495006ab28dffa5623e",
        "e3e226fb8c8e3b3fdb56c706a0fbfda080f34068aef5a1889c1bfa95f04c2e72",
        "dc0aca594caee03705bcfa817e7f666692d89b713815f4793b7abbc2a0e00b6c",
    ),
    "tpm-cos-101-amd-sev/cos-101-amd-sev.bin": (
        "c7ac5d44444affd8d4a7c5d3dea0ce20a71e05812fc18777a428d092f78ae3ff",
        "c5d3b47de11a9a2a4a15ef5cb7202d7800a10609c0dcecc46e3e963d476b76ce",
        "af4161084115c9d5c1872f4473fe974b535e3a9a767688293720ac2cc6f7f9a3",
        "af4161084115c9d5c1872f4473fe974b535e3a9a767688293720ac2cc6f7f9a3",
    ),
}

SECURE_BOOT = {
    "tpm-ubuntu-1804-amd-sev/ubuntu-1804-amd-sev.bin": False,
    "tpm-ubuntu-2404-amd-sevsnp/ubuntu-2404-amd-sevsnp.bin": False,
    "tpm-cos-85-amd-sev/cos-85-amd-sev.bin": True,
    "tpm-cos-93-amd-sev/cos-93-amd-sev.bin": True,
    "tpm-cos-101-amd-sev/cos-101-amd-sev.bin": True,
}
KERNELS = {
    "tpm-ubuntu-1804-amd-sev/ubuntu-1804-amd-sev.bin": "/boot/vmlinuz-5.4.0-1046-gcp root=",
    "tpm-ubuntu-2404-amd-sevsnp/ubuntu-2404-amd-sevsnp.bin": "/vmlinuz-6.8.0-1010-gcp root=",
    "tpm-cos-85-amd-sev/cos-85-amd-sev.bin": "/syslinux/vmlinuz.A init=",
    "tpm-cos-93-amd-sev/cos-93-amd-sev.bin": "/syslinux/vmlinuz.A init=",
    "tpm-cos-101-amd-sev/cos-101-amd-sev.bin": "/syslinux/vmlinuz.A init=",
}
# log: (Secure Boot, images, opaque files, entries)
CCEL = {
    "ccel-dstack/ccel.bin": (False, 1, 0, 19),
    "ccel-google-cos113/ccel_data.dat": (False, 2, 5, 44),
    "ccel-trustee-gcp/CCEL_data_gcp": (False, 2, 0, 22),
    "ccel-trustee-gke/CCEL_data_grub_gke": (False, 2, 6, 36),
    "ccel-trustee-grub/CCEL_data_grub": (True, 5, 8, 38),
    "ccel-trustee-ovmf/CCEL_data_ovmf": (False, 1, 2, 21),
}
# The quote google/go-tdx-guest keeps beside ccel-google-cos113.
COS113_QUOTE = "tdx/quotes/v4_tdx_00b2526ab190.bin"


def pcrs(name: str) -> dict[str, str]:
    return {f"pcr{i}": value for i, value in PCRS[name].items()}


def log(name: str) -> bytes:
    return (LOGS / name).read_bytes()


@pytest.mark.parametrize("name", PCRS)
def test_tpm_logs_replay_to_the_pcrs_recorded_beside_them(name: str) -> None:
    events = verify_events(log(name), pcrs(name), required=pcrs(name))
    assert events.registers == pcrs(name)
    assert events.boot_application_digests == APPLICATIONS[name]
    assert events.secure_boot is SECURE_BOOT[name]
    assert (events.cmdline or "").startswith(KERNELS[name])


@pytest.mark.parametrize("name", PCRS)
def test_a_tpm_log_without_any_one_of_its_entries_is_refused(name: str) -> None:
    parsed = TcgEventLog.read(log(name))
    for i, event in enumerate(parsed.events[1:], 1):
        if event.event_type == EventType.NO_ACTION:
            continue
        shorter = parsed.with_events(parsed.events[1:i] + parsed.events[i + 1 :])
        with pytest.raises(VerificationError):
            verify_events(shorter, pcrs(name), required=pcrs(name))


@pytest.mark.parametrize("name", [*PCRS, *CCEL, "tpm-dstack/tpm_eventlog.bin"])
def test_real_logs_are_read_to_the_last_byte(name: str) -> None:
    assert TcgEventLog.read(log(name)).write() == log(name)


def replayed(name: str) -> VerifiedEvents:
    """The log judged by its own replay: what it says, though nothing vouches for it."""
    raw = log(name)
    measured = [e for e in TcgEventLog.read(raw).events if e.event_type != EventType.NO_ACTION]
    values = {
        f"rtmr{i}": replay(
            [e.digests[0].value for e in measured if e.register == i + 1], "sha384", bytes(48)
        ).hex()
        for i in range(4)
    }
    return verify_events(raw, values, required=values)


@pytest.mark.parametrize("name", CCEL)
def test_every_ccel_recomputes_and_reads(name: str) -> None:
    events = replayed(name)
    facts = (
        events.secure_boot,
        len(events.boot_application_digests),
        len(events.boot_file_digests),
        len(TcgEventLog.read(log(name)).events),
    )
    assert facts == CCEL[name]


def test_the_cos_ccel_explains_the_quote_kept_beside_it() -> None:
    body = parse_quote((VECTORS / COS113_QUOTE).read_bytes()).body
    quoted = {f"rtmr{i}": getattr(body, f"rt_mr{i}").hex() for i in range(4)}
    events = verify_events(log("ccel-google-cos113/ccel_data.dat"), quoted, required=quoted)
    assert events.events["rtmr3"] == ()
    assert (events.cmdline or "").startswith("/syslinux/vmlinuz.A init=/usr/lib/systemd/systemd")


def test_another_machines_ccel_does_not_explain_the_quote() -> None:
    body = parse_quote((VECTORS / COS113_QUOTE).read_bytes()).body
    quoted = {f"rtmr{i}": getattr(body, f"rt_mr{i}").hex() for i in range(4)}
    for name in CCEL:
        if "cos113" not in name:
            with pytest.raises(VerificationError, match="rtmr"):
                verify_events(log(name), quoted)


def test_a_log_of_a_gcp_guest_under_dstack_reads() -> None:
    """PCR0 is the one dstack's verifier pins for Google's firmware; its EV_NO_ACTION entries
    extend nothing, though tpm2_eventlog 5.4 counts them. The rest is judged by its own replay.
    """
    raw = log("tpm-dstack/tpm_eventlog.bin")
    measured = [e for e in TcgEventLog.read(raw).events if e.event_type != EventType.NO_ACTION]
    values = {
        f"pcr{i}": replay(
            [d for e in measured if e.register == i and (d := e.digest("sha256"))],
            "sha256",
            bytes(32),
        ).hex()
        for i in (1, 2, 4, 7, 11)
    }
    values["pcr0"] = "0cca9ec161b09288802e5a112255d21340ed5b797f5fe29cecccfd8f67b9f802"
    events = verify_events(raw, values, required=values)
    # dstack's own test names these two: the unified kernel image and the kernel inside it.
    assert events.boot_application_digests == (
        "9ab14a46f858662a89adc102d2a57a13f52f75c1769d65a4c34edbbfc8855f0f",
        "ade943a0a7a3189a3201ba17d7df778eb380cbd33ce5e361176e974ccf7cdedb",
    )
