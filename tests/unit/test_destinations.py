"""Which URLs and addresses deliveries may go to."""

import ipaddress

import pytest
from pydantic import ValidationError

from services.webhooks.destinations import AddressRefused, Destination, Rules, is_public, rules
from services.webhooks.settings import Settings

# The edges of every range that is nobody's on the internet, inside and just outside; public neighbours stay public.
EDGES = {
    "0.255.255.255": False,
    "1.0.0.0": True,
    "9.255.255.255": True,
    "10.0.0.0": False,
    "11.0.0.0": True,
    "100.63.255.255": True,
    "100.64.0.0": False,
    "100.127.255.255": False,
    "100.128.0.0": True,
    "126.255.255.255": True,
    "127.255.255.255": False,
    "128.0.0.0": True,
    "169.253.255.255": True,
    "169.254.0.0": False,
    "169.255.0.0": True,
    "172.15.255.255": True,
    "172.31.255.255": False,
    "172.32.0.0": True,
    "191.255.255.255": True,
    "192.0.0.255": False,
    "192.0.1.0": True,
    "192.88.98.255": True,
    "192.88.99.255": False,
    "192.88.100.0": True,
    "192.167.255.255": True,
    "192.169.0.0": True,
    "198.17.255.255": True,
    "198.19.255.255": False,
    "198.20.0.0": True,
    "203.0.112.255": True,
    "203.0.114.0": True,
    "223.255.255.255": True,
    "224.0.0.0": False,
    "239.255.255.255": False,
    "1fff:ffff::1": False,
    "2001:1ff:ffff::1": False,
    "2001:200::1": True,
    "2001:db7:ffff::1": True,
    "2001:db9::1": True,
    "2002:808:808::1": False,
    "2003::1": True,
    "3ffe::1": True,
    "3fff:fff:ffff::1": False,
    "4000::1": False,
    "64:ff9b::808:808": False,
    "::ffff:8.8.8.8": True,
    "::ffff:0:7f00:1": False,
    "::8.8.8.8": False,
    "2606:4700:4700::1111": True,
    "ff0e::1": False,
}


@pytest.mark.parametrize(("address", "public"), EDGES.items())
def test_only_addresses_of_the_internet_are_public(address: str, public: bool):
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("https://Partner.Example/Hooks?a=B&c=%2F", "partner.example", 443, "/Hooks?a=B&c=%2F"),
        ("HTTPS://partner.example:443", "partner.example", 443, "/"),
        ("https://xn--bcher-kva.example:/x", "xn--bcher-kva.example", 443, "/x"),
        ("https://1.1.1.1/", "1.1.1.1", 443, "/"),
        ("https://[2606:4700:4700::1111]:443/?x", "2606:4700:4700::1111", 443, "/?x"),
        ("https://a_b.partner.example/", "a_b.partner.example", 443, "/"),
        ("https://10.0.0.1.nip.example/", "10.0.0.1.nip.example", 443, "/"),
    ],
)
def test_what_a_url_names(url: str, host: str, port: int, target: str):
    assert Rules().destination(url) == Destination("https", host, port, target)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://partner.example/", "must start with https://$"),
        ("ftp://partner.example/", "must start with https://$"),
        ("partner.example/hook", "name a host"),
        ("https:///hook", "name a host"),
        ("https://:443/", "read"),
        ("", "name a host"),
        ("https://partner.example:8443/", "these ports only: 443"),
        ("https://partner.example:80/", "these ports only"),
        ("https://partner.example:0/", "between 1 and 65535"),
        ("https://partner.example:65536/", "between 1 and 65535"),
        ("https://partner.example:999999/", "read"),
        ("https://partner.example:+443/", "read"),
        ("https://me@partner.example/", "no user"),
        ("https://me:secret@partner.example/", "no user"),
        ("https://@partner.example/", "no user"),
        ("https://1.1.1.1#@127.0.0.1/", "fragment"),
        ("https://partner.example/#", "fragment"),
        ("https://partner.example\\@127.0.0.1/", "characters"),
        ("https://partner.example/a b", "characters"),
        ("https://partner.example/\r\nHost: evil", "characters"),
        ("https://partner.example/\t", "characters"),
        ("https://partner.example/\x00", "characters"),
        (" https://partner.example/", "characters"),
        ("https://b\u00fccher.example/", "xn--"),
        ("https://\u2460\u2461\u2466.0.0.1/", "xn--"),
        ("https://partner.example/\u00fc", "%…"),
        ("https://127\u30020\u30020\u30021/", "xn--"),
        ("https://%31%32%37.0.0.1/", "read"),
        ("https://[fe80::1%25lo]/", "read"),
        ("https://[127.0.0.1]/", "read"),
        ("https://[::1]x/", "read"),
        ("https://[v1.x]/", "read"),
        ("https://[::1/", "read"),
        ("https://2130706433/", "in full"),
        ("https://0x7f.1/", "in full"),
        ("https://partner.0x7f/", "in full"),
        ("https://127.0.0.1./", "in full"),
        ("https://0177.0.0.1/", "in full"),
        ("https://1.2.3.256/", "in full"),
        ("https://partner.example./", "dot at its end"),
        ("https://a..example/", "letters, digits"),
        ("https://.example/", "letters, digits"),
        ("https://-a.example/", "letters, digits"),
        (f"https://{'a' * 64}.example/", "letters, digits"),
        (f"https://{'a.' * 127}example/", "letters, digits"),
        (f"https://partner.example/{'a' * 2048}", "longer than 2048"),
        ("https://169.254.169.254/latest", "networks"),
        ("https://[::ffff:a9fe:a9fe]/", "networks"),
    ],
)
def test_urls_that_are_refused(url: str, words: str):
    with pytest.raises(AddressRefused, match=words):
        Rules().destination(url)


def test_what_an_operator_adds():
    local = rules("127.0.0.0/8, ::1/128", http=True, ports="*")
    assert local.destination("http://127.0.0.1:9000/hook").port == 9000
    assert local.destination("http://[::1]/hook").port == 80
    with pytest.raises(AddressRefused, match="networks"):
        local.destination("http://10.0.0.1/")
    with pytest.raises(AddressRefused, match=r"https:// or http://"):
        local.destination("ws://127.0.0.1/")
    some = rules("", ports="443, 8443")
    assert some.destination("https://partner.example:8443/").port == 8443
    with pytest.raises(AddressRefused, match=r"443, 8443$"):
        some.destination("https://partner.example:9443/")
    # An allowed IPv4 network holds its mapped form, and nothing else does.
    local.check("::ffff:127.0.0.1")
    with pytest.raises(AddressRefused):
        rules("::/0").check("10.0.0.1")


def test_this_servers_own_names_and_networks_are_refused_though_allowed():
    mine = rules("198.51.100.0/24", own_hosts="API.Example.com., 198.51.100.7, 2606:4700::/32")
    for url in ("https://api.example.com/v1", "https://API.EXAMPLE.COM/"):
        with pytest.raises(AddressRefused, match="this server"):
            mine.destination(url)
    for address in ("198.51.100.7", "::ffff:198.51.100.7", "2606:4700::1"):
        with pytest.raises(AddressRefused, match="own"):
            mine.check(address)
    mine.check("198.51.100.8")
    assert mine.destination("https://www.api.example.com/").host == "www.api.example.com"


@pytest.mark.parametrize(
    "changed",
    [
        {"webhooks_allow_cidrs": "10.0.0.1/8"},
        {"webhooks_allow_cidrs": "localhost"},
        {"webhooks_allow_ports": "https"},
        {"webhooks_allow_ports": "0"},
        {"webhooks_allow_ports": "65536"},
        {"webhooks_allow_ports": "443,*"},
        {"webhooks_own_hosts": "https://api.example.com"},
        {"webhooks_own_hosts": "198.51.100.7/8"},
    ],
)
def test_settings_that_cannot_be_read_stop_the_start(changed: dict[str, str]):
    with pytest.raises(ValidationError):
        Settings.model_validate(changed)


def test_without_settings_deliveries_go_to_public_addresses_by_https_alone():
    found = Settings().deliveries_go_to()
    assert (found.allowed, found.http, set(found.ports or ())) == ((), False, {443})
