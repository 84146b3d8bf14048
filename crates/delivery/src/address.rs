//! Which addresses may be called: what is public on the Internet, and what the operator says beyond that.
//!
//! A tenant's URL must not reach what only the broker's machine can reach. So an address is refused unless it is known to
//! be public: IPv4 by a list of what is not, IPv6 by `2000::/3` less what is special in it. An IPv6 address that carries
//! an IPv4 one (mapped, compatible, 6to4, NAT64, Teredo) is judged by both.
//!
//! The lists follow IANA's special-purpose registries (RFC 6890 and what came later).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses, `10.0.0.0/8` or `fc00::/7`; a single address is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    network: IpAddr,
    prefix: u8,
}

/// A text is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address or a range such as 10.0.0.0/8 or fc00::/7")]
pub struct RangeError(String);

impl Range {
    const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Self {
        Self { network: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), prefix }
    }

    const fn v6(head: [u16; 3], prefix: u8) -> Self {
        let [a, b, c] = head;
        Self { network: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix }
    }

    /// Whether the address lies in the range; never across families.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let wrong = || RangeError(text.to_owned());
        let (network, prefix) = match text.trim().split_once('/') {
            Some((network, prefix)) => (network, Some(prefix)),
            None => (text.trim(), None),
        };
        let network: IpAddr = network.parse().map_err(|_| wrong())?;
        let longest = if network.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| wrong())?,
            None => longest,
        };
        if prefix > longest {
            return Err(wrong());
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// IPv4 that is not public.
const SPECIAL_V4: [Range; 15] = [
    Range::v4(0, 0, 0, 8),       // this network
    Range::v4(10, 0, 0, 8),      // private
    Range::v4(100, 64, 0, 10),   // shared by carriers
    Range::v4(127, 0, 0, 8),     // loopback
    Range::v4(169, 254, 0, 16),  // link-local, metadata of clouds
    Range::v4(172, 16, 0, 12),   // private
    Range::v4(192, 0, 0, 24),    // protocol assignments
    Range::v4(192, 0, 2, 24),    // documentation
    Range::v4(192, 88, 99, 24),  // 6to4 relays
    Range::v4(192, 168, 0, 16),  // private
    Range::v4(198, 18, 0, 15),   // benchmarking
    Range::v4(198, 51, 100, 24), // documentation
    Range::v4(203, 0, 113, 24),  // documentation
    Range::v4(224, 0, 0, 4),     // multicast
    Range::v4(240, 0, 0, 4),     // class E and broadcast
];

/// The only part of IPv6 that is public unicast. Loopback, unique local, link-local, site-local, discard, SRv6, mapped and
/// compatible addresses, NAT64 and multicast lie outside.
const PUBLIC_V6: Range = Range::v6([0x2000, 0, 0], 3);

/// What is special inside of [`PUBLIC_V6`].
const SPECIAL_V6: [Range; 5] = [
    Range::v6([0x2001, 0, 0], 23), // protocol assignments: Teredo, benchmarking, ORCHID
    Range::v6([0x2001, 0xdb8, 0], 32), // documentation
    Range::v6([0x2002, 0, 0], 16), // 6to4
    Range::v6([0x3ffe, 0, 0], 16), // the former 6bone
    Range::v6([0x3fff, 0, 0], 20), // documentation
];

/// What an operator says about addresses.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// May be called although they are not public.
    pub allow: Vec<Range>,
    /// May not be called although they are; stronger than `allow`.
    pub refuse: Vec<Range>,
}

impl Addresses {
    /// Whether the address may be called.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.refuse.iter().any(|range| range.contains(address)) {
            return false;
        }
        // Whoever allows a translator's range has not allowed what lies behind it.
        if let IpAddr::V6(outer) = address
            && let Some(inner) = carried(outer)
            && !self.allows(IpAddr::V4(inner))
        {
            return false;
        }
        is_public(address) || self.allow.iter().any(|range| range.contains(address))
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !SPECIAL_V4.iter().any(|range| range.contains(address)),
        IpAddr::V6(_) => {
            PUBLIC_V6.contains(address) && !SPECIAL_V6.iter().any(|range| range.contains(address))
        }
    }
}

/// The IPv4 address inside of an IPv6 one that some gateway would take out. Mapped ones are canonical by now.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // Loopback and the unspecified address look like compatible ones and are none.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        // IPv4-translated, RFC 2765.
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        // RFC 8215 leaves the place to the network; the last 32 bits are what everybody uses.
        [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // Teredo has the client's address inverted.
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(addresses: &Addresses, allowed: bool, list: &[&str]) {
        for text in list {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(addresses.allows(address), allowed, "{text}");
        }
    }

    #[test]
    fn public_addresses_may_be_called() {
        check(
            &Addresses::default(),
            true,
            &["1.1.1.1", "100.63.255.255", "172.32.0.1", "198.20.0.1", "223.255.255.255"],
        );
        check(
            &Addresses::default(),
            true,
            &["2606:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888", "::ffff:8.8.8.8"],
        );
    }

    #[test]
    fn every_kind_of_address_that_is_not_public_is_refused() {
        let none = Addresses::default();
        check(
            &none,
            false,
            &[
                "0.0.0.0",
                "0.1.2.3",
                "10.0.0.1",
                "100.64.0.1",
                "100.127.255.255",
                "127.0.0.1",
                "127.255.255.254",
                "169.254.169.254",
                "172.16.0.1",
                "172.31.255.255",
                "192.0.0.8",
                "192.0.2.1",
                "192.88.99.1",
                "192.168.0.1",
                "198.18.0.1",
                "198.19.255.255",
                "198.51.100.7",
                "203.0.113.7",
                "224.0.0.1",
                "239.255.255.255",
                "240.0.0.1",
                "255.255.255.255",
            ],
        );
        check(
            &none,
            false,
            &[
                "::",
                "::1",
                "::7f00:1",
                "::8.8.8.8",
                "::ffff:10.0.0.1",
                "::ffff:127.0.0.1",
                "::ffff:0:127.0.0.1",
                "64:ff9b::10.0.0.1",
                "64:ff9b::8.8.8.8",
                "64:ff9b:1::1",
                "100::1",
                "2001::1",
                "2001:2::1",
                "2001:10::1",
                "2001:db8::1",
                "2002:7f00:1::",
                "2002:808:808::",
                "3ffe::1",
                "3fff::1",
                "4000::1",
                "5f00::1",
                "fc00::1",
                "fd12:3456::1",
                "fe80::1",
                "febf::1",
                "fec0::1",
                "ff02::1",
            ],
        );
    }

    #[test]
    fn an_operator_opens_ranges_and_closes_others() {
        let addresses = Addresses {
            allow: vec!["127.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()],
            refuse: vec!["10.1.2.0/24".parse().unwrap(), "8.8.8.8".parse().unwrap()],
        };

        check(&addresses, true, &["127.0.0.1", "::ffff:127.0.0.1", "10.1.3.1", "1.1.1.1"]);
        check(&addresses, false, &["10.1.2.9", "10.2.0.1", "8.8.8.8", "::ffff:8.8.8.8", "::1"]);
    }

    #[test]
    fn whoever_allows_a_translator_does_not_allow_what_lies_behind_it() {
        let addresses =
            Addresses { allow: vec!["64:ff9b::/96".parse().unwrap()], ..Addresses::default() };

        check(&addresses, true, &["64:ff9b::8.8.8.8"]);
        check(&addresses, false, &["64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254"]);
    }

    #[test]
    fn ranges_are_read_and_nonsense_is_named() {
        for good in ["10.0.0.0/8", "127.0.0.1", "::1", "fc00::/7", "0.0.0.0/0", "::/0"] {
            good.parse::<Range>().unwrap();
        }
        for bad in ["", "10.0.0.0/33", "::/129", "localhost", "10.0.0/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
        let all: Range = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
    }
}
