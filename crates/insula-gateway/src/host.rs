//! What a visitor called us: one host name in lower case, without port and final dot.

use std::borrow::Cow;

use insula_model::names::HOST_NAME_LEN_MAX;

/// The name to look up, or nothing for what cannot be a host. Addresses are let through: nobody
/// has a route under one, so they end as an unknown host like any other.
pub(crate) fn normalise(given: &str) -> Option<Cow<'_, str>> {
    let name = match given.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            let inside = address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
            if address.is_empty()
                || !inside
                || !(after.is_empty() || is_port(after.strip_prefix(':')?))
            {
                return None;
            }
            return Some(Cow::Owned(given[..address.len() + 2].to_ascii_lowercase()));
        }
        None => match given.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return None,
            None => given,
        },
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    // An underscore is no part of a host name, but of names that resolve and browsers send.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.is_empty()
        || name.len() > HOST_NAME_LEN_MAX
        || !name.bytes().all(allowed)
        || name.starts_with('.')
        || name.ends_with('.')
        || name.contains("..")
    {
        return None;
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some(Cow::Owned(name.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(name))
}

/// An empty port is allowed by RFC 3986 and means the default.
fn is_port(text: &str) -> bool {
    text.is_empty()
        || (text.len() <= 5
            && text.bytes().all(|b| b.is_ascii_digit())
            && text.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_port_and_final_dot_do_not_make_another_host() {
        for given in [
            "shop.example.org",
            "SHOP.example.org",
            "shop.example.org:8080",
            "shop.example.org.",
            "Shop.Example.Org.:80",
            "shop.example.org:",
        ] {
            assert_eq!(normalise(given).as_deref(), Some("shop.example.org"), "{given}");
        }
        assert_eq!(normalise("127.0.0.1:8080").as_deref(), Some("127.0.0.1"));
        assert_eq!(normalise("[::1]:8080").as_deref(), Some("[::1]"));
    }

    #[test]
    fn what_is_not_a_host_is_not_looked_up() {
        let long = "a".repeat(254);
        for given in [
            "", ".", "..", "a..b", ".a", "a..", "a b", "a/b", "a@b", "u:p@a", "a:b", "a:99999",
            "a:80:80", "a\0", "a\tb", "ü", "[::1", "[]", "[::1]x", "[a;b]", "a,b", "a?b", "a#b",
            "a%2eb", "$(id)", "<script>", &long,
        ] {
            assert_eq!(normalise(given), None, "{given:?}");
        }
    }
}
