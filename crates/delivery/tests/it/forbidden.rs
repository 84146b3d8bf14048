//! What may not be called is not called: every way to write an address, and names that change their mind.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use delivery::output::Output as _;
use delivery::output::connection::Tls;
use delivery::output::webhook::{Webhook, WebhookTarget};
use delivery::{Addresses, Attempt, Guard, Outcome, Resolver};
use tokio::net::TcpListener;

use crate::receiver::{Receiver, status};
use crate::webhook::name_server;

/// One of each kind of network that is not public, and what clouds keep behind well-known addresses.
const FORBIDDEN: [[u8; 4]; 22] = [
    [0, 0, 0, 0],
    [0, 1, 2, 3],
    [10, 0, 0, 1],
    [100, 64, 0, 1],
    [100, 100, 100, 200],
    [127, 0, 0, 1],
    [127, 1, 2, 3],
    [169, 254, 169, 254],
    [169, 254, 170, 2],
    [172, 16, 0, 1],
    [172, 31, 255, 255],
    [192, 0, 0, 192],
    [192, 0, 2, 1],
    [192, 88, 99, 1],
    [192, 168, 0, 1],
    [192, 168, 255, 255],
    [198, 18, 0, 1],
    [198, 51, 100, 1],
    [203, 0, 113, 1],
    [224, 0, 0, 1],
    [240, 0, 0, 1],
    [255, 255, 255, 255],
];

fn guard(addresses: Addresses) -> Arc<Guard> {
    Arc::new(Guard { addresses, ports: vec!["1-65535".parse().unwrap()] })
}

/// Every form of an IPv4 address that parsers of URLs take, and of IPv6 addresses that carry it.
fn forms(octets: [u8; 4]) -> Vec<String> {
    let address = Ipv4Addr::from(octets);
    let [a, b, c, d] = octets;
    let number = address.to_bits();
    let (high, low) = (number >> 16, number & 0xffff);
    let wide: String = address.to_string().chars().map(full_width).collect();
    let percent = address.to_string().bytes().fold(String::new(), |mut text, byte| {
        write!(text, "%{byte:02x}").unwrap();
        text
    });
    let mut forms = vec![
        address.to_string(),
        format!("{address}."),
        format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)),
        format!("{a}.{}", number & 0xff_ffff),
        number.to_string(),
        format!("{number:#x}"),
        format!("{number:#X}"),
        format!("0{number:o}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("{a:#x}.{b}.0{c:o}.{d}"),
        format!("000{a:o}.{b}.{c}.{d:#010x}"),
        wide,
        percent,
        address.to_string().replace('.', "\u{3002}"),
        format!("user@{address}"),
        format!("user:pass@{address}"),
        format!("example.com:80@{address}"),
        format!("example.com%2f@{address}"),
        format!("{address}:8080"),
    ];
    let carriers = [
        format!("::ffff:{address}"),
        format!("::ffff:{high:x}:{low:x}"),
        format!("0:0:0:0:0:FFFF:{high:X}:{low:X}"),
        format!("::{high:x}:{low:x}"),
        format!("::ffff:0:{high:x}:{low:x}"),
        format!("64:ff9b::{address}"),
        format!("64:ff9b:1::{high:x}:{low:x}"),
        format!("2002:{high:x}:{low:x}::1"),
        format!("2001:0:4136:e378:8000:63bf:{:x}:{:x}", high ^ 0xffff, low ^ 0xffff),
    ];
    forms.extend(carriers.map(|carrier| format!("[{carrier}]")));
    forms
}

fn full_width(char: char) -> char {
    match char {
        '0'..='9' => char::from_u32(u32::from(char) - 0x30 + 0xff10).unwrap(),
        _ => char,
    }
}

#[test]
fn no_way_to_write_a_forbidden_address_gets_past_the_guard() {
    let guard = guard(Addresses::default());
    // A host that parsers could take for the end of the name, or for another one.
    let tails = ["", "/", "/a?b#c", "?x", "#y", "\\@example.com/"];
    let mut refused = 0;

    for octets in FORBIDDEN {
        for form in forms(octets) {
            for tail in tails {
                for scheme in ["http", "HTTPS"] {
                    let url = format!("{scheme}://{form}{tail}");
                    assert!(guard.parse(&url).is_err(), "{url}");
                    refused += 1;
                }
            }
        }
    }

    assert!(refused > 5000, "{refused}");
    for public in ["http://1.1.1.1/", "http://[2606:4700::1111]/", "http://0x01010101/"] {
        assert!(guard.parse(public).is_ok(), "{public}");
    }
}

#[test]
fn whatever_a_gateway_would_take_out_is_judged_even_if_the_gateway_may_be_called() {
    let allow = ["::/0"].map(|range| range.parse().unwrap()).to_vec();
    let addresses = Addresses { allow, ..Addresses::default() };

    for octets in FORBIDDEN.into_iter().filter(|octets| *octets != [0, 0, 0, 0]) {
        let address = Ipv4Addr::from(octets);
        let [high, low] = [address.to_bits() >> 16, address.to_bits() & 0xffff]
            .map(|half| u16::try_from(half).unwrap());
        for carrier in [
            address.to_ipv6_mapped(),
            address.to_ipv6_compatible(),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, 1, 2, 3, 4, !high, !low),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
        ] {
            assert!(!addresses.allows(carrier.into()), "{carrier}");
        }
    }
    assert!(addresses.allows("64:ff9b::8.8.8.8".parse().unwrap()));
}

/// Counts connections to an address that nobody may call.
async fn trap(address: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    count
}

#[tokio::test]
async fn in_a_thousand_rounds_of_rebinding_the_forbidden_address_is_never_reached() {
    let receiver = Receiver::start(|_| status(200)).await;
    let (open, shut) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 66, 0, 1));
    let port = receiver.address.port();
    let reached = trap((shut, port).into()).await;
    // In every order, alone and together.
    let answers = [vec![open], vec![shut], vec![open, shut], vec![shut, open], vec![shut, shut]];
    let answers = answers.iter().cycle().take(1000).cloned().collect();
    let resolver = Resolver::new(&[name_server(answers).await]).unwrap();
    let allow = vec!["127.0.0.1/32".parse().unwrap()];
    let guard = guard(Addresses { allow, ..Addresses::default() });
    let destination = guard.parse(&format!("http://rebinding.example:{port}/")).unwrap();
    let tls = Tls::new(None, Some(b"http/1.1")).unwrap();
    let webhook = Webhook::new(guard, resolver, tls, Duration::from_secs(10));
    let target =
        WebhookTarget { destination, headers: Vec::new(), secrets: Vec::new(), trust_id: None };

    let (mut delivered, mut refused) = (0, 0);
    for number in 0..1000 {
        let attempt = Attempt {
            id: format!("msg_{number}"),
            number: 1,
            timestamp: 1000,
            payload: "{}".into(),
            request: None,
        };
        match webhook.send(&target, &attempt).await {
            Outcome::Delivered | Outcome::Answered(_) | Outcome::Later(_) => delivered += 1,
            Outcome::Failed(failure) => {
                assert_eq!(failure.reason, "this address may not be called");
                refused += 1;
            }
            Outcome::Hopeless(reason) => panic!("{reason}"),
        }
    }

    assert_eq!((delivered, refused), (200, 800));
    assert_eq!(reached.load(Ordering::Relaxed), 0);
    assert_eq!(receiver.count(), 200);
}
