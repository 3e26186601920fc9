//! Datagrams without a checksum, and links that compute checksums without hardware.

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rscni_linux::offload::{accept_without_checksum, disable_tx_checksums, send_without_checksum};
use support::private_network;

#[test]
fn datagrams_without_checksum_arrive() {
    private_network(|| {
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let [from, to] = [0, 0].map(|port| UdpSocket::bind((address, port)).unwrap());
            accept_without_checksum(&to).unwrap();
            let target: SocketAddr = to.local_addr().unwrap();
            send_without_checksum(&from, b"without", target).unwrap();
            from.send_to(b"with", target).unwrap();
            for wanted in [&b"without"[..], b"with"] {
                let mut buffer = [0; 16];
                let length = to.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], wanted);
            }
        }
    });
}

#[test]
fn missing_link_is_named() {
    private_network(|| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let error = disable_tx_checksums(&socket, "absent0").unwrap_err().to_string();
        assert!(error.starts_with("turn off checksum offload of absent0: "), "{error}");
    });
}
