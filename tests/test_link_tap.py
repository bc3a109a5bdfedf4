"""TapLink and TunLink against the host's kernel, in namespaces of the tests' own."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess

import pytest

from link_helpers import (
    MAC,
    arp,
    echo_request,
    ethernet,
    ip,
    ipv4,
    is_arp,
    is_echo_reply,
    numbered,
    receive_that,
    run_in_namespace,
)
from vpoll_asyncio.links import TapLink, TunLink, open_link

pytestmark = pytest.mark.needs("tap", "netns")

HOST = "10.77.0.1"
GUEST = "10.77.0.2"


def _up(name: str) -> None:
    ip("addr", "add", f"{HOST}/24", "dev", name)
    ip("link", "set", name, "up")


def kernel_answers_over_tap() -> None:
    with open_link("tap://tap0") as link:
        assert isinstance(link, TapLink)
        _up("tap0")
        link.send_batch([arp(1, GUEST, HOST)])
        answer = receive_that(link, is_arp(2, HOST))
        host_mac = answer[22:28]
        assert answer[:6] == MAC
        link.send_batch([ethernet(host_mac, 0x0800, ipv4(GUEST, HOST, 1, echo_request(b"tap")))])
        receive_that(link, lambda frame: is_echo_reply(frame[14:], HOST, b"tap"))
        assert link.dropped == 0


def kernel_answers_over_tun() -> None:
    with open_link("tun://tun0") as link:
        assert isinstance(link, TunLink)
        assert link.medium == "ip"
        _up("tun0")
        link.send_batch([ipv4(GUEST, HOST, 1, echo_request(b"tun"))])
        receive_that(link, lambda packet: is_echo_reply(packet, HOST, b"tun"))
        assert link.send_batch([b"\x00 no IP version"]) == 1
        assert link.dropped == 1


def kernel_chooses_the_name() -> None:
    with open_link("tap://") as one, open_link("tap://") as other:
        assert isinstance(one, TapLink)
        assert isinstance(other, TapLink)
        assert {one.name, other.name} == {"tap0", "tap1"}
        assert one.ifindex != other.ifindex
        assert "tap://tap0" in repr(one)


def mtu_is_the_interfaces() -> None:
    with TapLink("tap0", mtu=9000) as link:
        assert link.mtu == 9000
        shown = subprocess.run(["ip", "link", "show", "tap0"], capture_output=True, text=True)
        assert " mtu 9000 " in shown.stdout
    ip("tuntap", "add", "tun0", "mode", "tun")
    ip("link", "set", "tun0", "mtu", "1400")
    with TunLink("tun0") as tun:
        assert tun.mtu == 1400


def interface_ends_with_the_link() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    link = TapLink("tap0")
    ip("link", "show", "tap0")
    link.close()
    link.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    with TapLink("tap0"):
        pass


def interface_that_is_down_drops_frames() -> None:
    with TapLink("tap0") as link:
        assert link.send_batch(numbered(3)) == 3
        assert link.dropped == 3
        ip("link", "set", "tap0", "up")
        assert link.send_batch(numbered(3)) == 3
        assert link.dropped == 3


def interface_that_is_deleted_raises() -> None:
    with TapLink("tap0") as link:
        ip("link", "del", "tap0")
        for use in (link.recv_batch, lambda: link.send_batch(numbered(1))):
            with pytest.raises(OSError) as caught:
                use()
            assert caught.value.errno == errno.EBADFD


def errors_say_what_helps() -> None:
    with TapLink("tap0"):
        for make, number, text in (
            (lambda: TapLink("tap0"), errno.EBUSY, "another program is attached"),
            (lambda: TunLink("tap0"), errno.EINVAL, "is no TUN"),
            (lambda: TapLink("lo"), errno.EINVAL, "is no TAP"),
            (lambda: TapLink("tap1", mtu=65535), errno.EINVAL, "cannot set the mtu"),
        ):
            with pytest.raises(OSError, match=text) as caught:
                make()
            assert caught.value.errno == number


def no_privileges_is_permission_error() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    # Root of a user namespace of its own is nobody to the network namespace.
    clone_newuser = 0x10000000
    assert ctypes.CDLL(None, use_errno=True).unshare(clone_newuser) == 0
    with pytest.raises(PermissionError, match=r"'tap0'.* needs CAP_NET_ADMIN") as caught:
        TapLink("tap0")
    assert caught.value.errno == errno.EPERM
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.needs("ip")
@pytest.mark.parametrize(
    "body",
    [
        kernel_answers_over_tap,
        kernel_answers_over_tun,
        kernel_chooses_the_name,
        mtu_is_the_interfaces,
        interface_ends_with_the_link,
        interface_that_is_down_drops_frames,
        interface_that_is_deleted_raises,
        errors_say_what_helps,
        pytest.param(no_privileges_is_permission_error, marks=pytest.mark.needs("userns")),
    ],
    ids=lambda body: body.__name__,
)
def test_in_a_namespace(body: object) -> None:
    assert callable(body)
    run_in_namespace(body)


@pytest.mark.parametrize("name", ["a" * 16, "tap/0", "tap 0", "tap%d", "..", "a:b", "é" * 8])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected at most 15 bytes"):
        TapLink(name)
