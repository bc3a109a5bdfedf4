"""open_link: schemes, wrong locators, and what is missing said by name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from link_helpers import numbered, receive
from vpoll_asyncio.links import LinkInfo, WireLink, available, libvdeplug, open_link
from vpoll_asyncio.links.vde import scheme_of


@pytest.mark.parametrize("vnl", ["bogus://x", "tap2://x", "mem://lab"])
def test_an_unknown_scheme_is_a_value_error_that_names_the_schemes(vnl: str) -> None:
    with pytest.raises(ValueError, match="no link serves") as caught:
        open_link(vnl)
    for scheme in ("tap", "tun", "wire", "slirp", "vde", "ptp"):
        assert scheme in str(caught.value)


@pytest.mark.parametrize(
    ("vnl", "message"),
    [
        ("", "expected SCHEME://ADDRESS"),
        ("slirp", "expected SCHEME://ADDRESS, or the path"),
        ("slirp:/x", "no Virtual Network Locator|is vde_switch running"),
        ("://x", "cannot be a scheme"),
        ("../evil://x", "cannot be a scheme"),
        ("Slirp://", "cannot be a scheme"),
        ("vde:///tmp/\0", "no Virtual Network Locator"),
        ("wire://", "needs a name"),
        ("seqpacket:///path", "number of an open descriptor"),
    ],
)
def test_what_is_no_locator_is_a_value_error(vnl: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_link(vnl)


@given(st.text())
def test_any_text_has_a_scheme_or_is_a_value_error(text: str) -> None:
    try:
        scheme = scheme_of(text)
    except ValueError:
        return
    assert scheme == "vde" or text.startswith(f"{scheme}://")


@pytest.mark.parametrize("vnl", ["wire://lab", "tap://", "null://"])
def test_an_option_that_the_link_does_not_have_is_a_type_error(vnl: str) -> None:
    with pytest.raises(TypeError, match="colour"):
        open_link(vnl, colour="red")


def test_wire_links_of_one_name_share_a_hub() -> None:
    with open_link("wire://a") as one, open_link("wire://a") as other:
        with open_link("wire://b") as apart:
            assert isinstance(apart, WireLink)
            one.send_batch(numbered(2))
            assert receive(other, 2) == numbered(2)
            assert apart.recv_batch() == []


def test_without_libvdeplug_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvdeplug, "SONAME", "libvdeplug-that-is-not-there.so.2")
    monkeypatch.setattr(libvdeplug, "_loaded", None)
    with pytest.raises(OSError, match="Debian package libvdeplug2") as caught:
        open_link("slirp://")
    assert caught.value.errno == errno.ELIBACC
    with pytest.raises(ValueError, match="no link serves bogus"):
        open_link("bogus://")
    listing = {info.name: info for info in available()}
    assert not listing["slirp"].available
    assert "libvdeplug2" in listing["slirp"].why
    assert listing["wire"] == LinkInfo("wire", True, "")


@pytest.mark.needs("vde")
def test_without_the_plugin_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libvdeplug.PLUGIN_PACKAGES, "nosuch", "libvdeplug-nosuch")
    with pytest.raises(OSError, match="Debian package libvdeplug-nosuch") as caught:
        open_link("nosuch://")
    assert caught.value.errno == errno.EPROTONOSUPPORT
    [info] = [info for info in available() if info.name == "nosuch"]
    assert not info.available
    assert "libvdeplug-nosuch" in info.why


@pytest.mark.needs("vde")
def test_a_plugin_of_ones_own_is_found_by_vdeplugin_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    null = libvdeplug.plugin_path("null")
    assert null is not None
    os.symlink(null, tmp_path / "libvdeplug_mine.so")
    monkeypatch.setenv("VDEPLUGIN_PATH", f"/nowhere:{tmp_path}")
    with open_link("mine://") as link:
        assert link.send_batch(numbered(3)) == 3


@pytest.mark.needs("vde")
def test_available_agrees_with_what_can_be_opened() -> None:
    listing = {info.name: info for info in available()}
    assert listing["null"].available
    open_link("null://").close()
    assert all(info.available or info.why for info in listing.values())
    assert {"tap", "tun", "wire", "slirp", "ptp", "switch", "hub", "vde"} <= listing.keys()
