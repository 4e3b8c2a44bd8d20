//! Which resolvers the host itself uses.

use std::net::{IpAddr, SocketAddr};

const DNS_PORT: u16 = 53;
/// What the C library reads at most.
const UPSTREAMS_MAX: usize = 3;

/// Reads the text of a `resolv.conf`. Our own addresses are left out: we would ask ourselves for ever.
pub fn upstreams(resolv_conf: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            // A scope (`fe80::1%eth0`) needs an interface's number; such a resolver is passed over.
            words.next().filter(|keyword| *keyword == "nameserver")?;
            words.next()?.parse::<IpAddr>().ok()
        })
        .filter(|address| !own.contains(address) && !address.is_unspecified())
        .take(UPSTREAMS_MAX)
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_and_the_rest_is_passed_over() {
        let text = "# comment\nsearch a b\n nameserver 192.0.2.1 # x\nnameserver\tfd00::1\n\
                    nameserver 10.87.0.1\nnameserver fe80::1%eth0\nnameserver nonsense\n\
                    nameserver\nnameservers 9.9.9.9\noptions ndots:5\n\
                    nameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let own = [IpAddr::from([10, 87, 0, 1])];
        let found: Vec<_> = upstreams(text, &own).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[fd00::1]:53", "192.0.2.3:53"]);
        assert_eq!(upstreams("", &own), []);
    }
}
