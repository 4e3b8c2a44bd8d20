//! What the names of the platform mean, and to whom. Pure; the resolver reads the newest zone for each question.
//!
//! An instance sees its own environment and nothing else:
//!
//! | asked | means |
//! |---|---|
//! | `db` | the component `db` of the asker's own app, else the app `db` |
//! | `db.shop` | the component `db` of the app `shop` |
//! | `db.shop.internal` | the same |
//! | `shop.internal` | the app's front: the component that its routes lead to |
//!
//! Where an instance runs makes no difference: one of another node stands for itself at an address of this
//! host (the agent's relay), and answers name all of a component's addresses, each one first in its turn.
//!
//! Every other name that ends in `.internal`, and every other single label, does not exist; what is left
//! belongs to the internet. An instance's `resolv.conf` needs no `search` list: asking for `db.shop` can only
//! shadow a name of the internet when the environment itself has an app called like a top-level domain.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use insula_model::{AppName, ComponentName, EnvironmentId};

use crate::name::Name;

/// Nobody else's: ICANN reserved it for private use.
const SUFFIX: &str = "internal";

/// Who is behind an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    Instance {
        environment: EnvironmentId,
        app: AppName,
    },
    /// A build: it may ask for names of the internet, and for nobody's components.
    Build,
}

/// The components of an app that can be reached, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppNames {
    /// Addresses of ready instances, as they are reached from this node; a component without any exists all the same.
    pub components: BTreeMap<ComponentName, Vec<Ipv4Addr>>,
    /// What the app's own name stands for.
    pub front: Option<ComponentName>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    /// Only these are answered at all.
    pub askers: BTreeMap<Ipv4Addr, Asker>,
    pub environments: BTreeMap<EnvironmentId, BTreeMap<AppName, AppNames>>,
}

/// What to do with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ruling<'a> {
    /// The name exists, with these addresses.
    Known(&'a [Ipv4Addr]),
    Unknown,
    /// Ask the upstreams.
    Forward,
    /// The asker is nobody of ours.
    Stranger,
}

impl Zone {
    pub(crate) fn rule(&self, source: Ipv4Addr, name: &Name) -> Ruling<'_> {
        let Some(asker) = self.askers.get(&source) else { return Ruling::Stranger };
        let lower = name.lowercase();
        let labels: Option<Vec<&str>> =
            lower.labels().map(|label| std::str::from_utf8(label).ok()).collect();
        let Some(labels) = labels else {
            // Not text: allowed in DNS, but no name of ours.
            let internal = lower.labels().last() == Some(SUFFIX.as_bytes());
            return if internal || lower.labels().count() < 2 {
                Ruling::Unknown
            } else {
                Ruling::Forward
            };
        };
        let (own, belongs_to_us) = match labels.split_last() {
            Some((&SUFFIX, own)) => (own, true),
            _ => (labels.as_slice(), is_ours_alone(&labels)),
        };
        let known = match asker {
            Asker::Instance { environment, app } => self
                .environments
                .get(environment)
                .and_then(|apps| look_up(apps, app, own, labels.len() > own.len())),
            Asker::Build => None,
        };
        match known {
            Some(addresses) => Ruling::Known(addresses),
            None if belongs_to_us => Ruling::Unknown,
            None => Ruling::Forward,
        }
    }
}

/// `own`: the labels without the suffix; `suffixed`: whether there was one.
fn look_up<'a>(
    apps: &'a BTreeMap<AppName, AppNames>,
    asker: &AppName,
    own: &[&str],
    suffixed: bool,
) -> Option<&'a [Ipv4Addr]> {
    let front = |names: &'a AppNames| names.components.get(names.front.as_ref()?);
    let found = match own {
        [component] if !suffixed => {
            let in_own_app = apps.get(asker).and_then(|app| app.components.get(*component));
            in_own_app.or_else(|| apps.get(*component).and_then(front))
        }
        [app] => apps.get(*app).and_then(front),
        [component, app] => apps.get(*app).and_then(|app| app.components.get(*component)),
        _ => None,
    };
    found.map(Vec::as_slice)
}

/// Names that no upstream is ever asked for: single labels, and the reverse of private addresses, which
/// would only tell others about us (RFC 6303).
fn is_ours_alone(labels: &[&str]) -> bool {
    match labels {
        [] => false, // The root: a question of resolvers about the internet.
        [_] => true,
        [.., "10" | "127", "in-addr", "arpa"] => true,
        [.., "168", "192", "in-addr", "arpa"] | [.., "254", "169", "in-addr", "arpa"] => true,
        [.., second, "172", "in-addr", "arpa"] => {
            second.parse::<u8>().is_ok_and(|second| (16..32).contains(&second))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_model::{Timestamp, ids::ID_RANDOM_BYTES};

    const RED: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 2);
    const BLUE: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 3);
    const BUILD: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 4);
    const DB: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 9);
    const WEB: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 10);

    fn environment(number: u8) -> EnvironmentId {
        EnvironmentId::from_parts(Timestamp::default(), [number; ID_RANDOM_BYTES])
    }

    fn zone() -> Zone {
        let app = |text: &str| text.parse::<AppName>().unwrap();
        let component = |text: &str| text.parse::<ComponentName>().unwrap();
        let mut zone = Zone::default();
        let shop = app("shop");
        let red = Asker::Instance { environment: environment(1), app: shop.clone() };
        let blue = Asker::Instance { environment: environment(2), app: shop.clone() };
        zone.askers.extend([(RED, red), (BLUE, blue), (BUILD, Asker::Build)]);
        let names = AppNames {
            components: BTreeMap::from([
                (component("db"), vec![DB]),
                (component("web"), vec![WEB]),
                (component("idle"), Vec::new()),
            ]),
            front: Some(component("web")),
        };
        let other = AppNames {
            components: BTreeMap::from([(component("main"), vec![WEB, DB])]),
            front: Some(component("main")),
        };
        let red = BTreeMap::from([(shop.clone(), names), (app("mail"), other)]);
        zone.environments.insert(environment(1), red);
        zone.environments.insert(environment(2), BTreeMap::from([(shop, AppNames::default())]));
        zone
    }

    fn name(text: &str) -> Name {
        let mut wire = Vec::new();
        for label in text.split('.').filter(|label| !label.is_empty()) {
            wire.push(u8::try_from(label.len()).unwrap());
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        Name::read(&wire, 0).unwrap().0
    }

    #[test]
    fn names_mean_what_the_table_says() {
        let zone = zone();
        let cases: [(&str, Ruling<'_>); 20] = [
            ("db", Ruling::Known(&[DB])),
            ("DB", Ruling::Known(&[DB])),
            ("mail", Ruling::Known(&[WEB, DB])),
            ("db.shop", Ruling::Known(&[DB])),
            ("db.shop.internal", Ruling::Known(&[DB])),
            ("dB.sHop.Internal", Ruling::Known(&[DB])),
            ("shop.internal", Ruling::Known(&[WEB])),
            ("mail.internal", Ruling::Known(&[WEB, DB])),
            ("idle", Ruling::Known(&[])),
            ("db.internal", Ruling::Unknown),
            ("db.mail.internal", Ruling::Unknown),
            ("x.db.shop.internal", Ruling::Unknown),
            ("internal", Ruling::Unknown),
            ("nobody", Ruling::Unknown),
            ("db.mail", Ruling::Forward),
            ("x.db.shop", Ruling::Forward),
            ("www.example.com", Ruling::Forward),
            ("1.0.87.10.in-addr.arpa", Ruling::Unknown),
            ("1.0.20.172.in-addr.arpa", Ruling::Unknown),
            ("1.0.0.8.in-addr.arpa", Ruling::Forward),
        ];
        for (asked, expected) in cases {
            assert_eq!(zone.rule(RED, &name(asked)), expected, "{asked}");
        }
    }

    #[test]
    fn another_environment_does_not_learn_of_ours() {
        let zone = zone();
        for asked in ["db", "mail", "db.shop.internal", "shop.internal", "mail.internal"] {
            assert_eq!(zone.rule(BLUE, &name(asked)), Ruling::Unknown, "{asked}");
            assert_eq!(zone.rule(BUILD, &name(asked)), Ruling::Unknown, "{asked}");
        }
        assert_eq!(zone.rule(BUILD, &name("example.com")), Ruling::Forward);
        let stranger = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(zone.rule(stranger, &name("example.com")), Ruling::Stranger);
    }

    #[test]
    fn bytes_that_are_no_text_are_no_name_of_ours() {
        let (odd, _) = Name::read(b"\x02\xff\xfe\x08internal\0", 0).unwrap();
        assert_eq!(zone().rule(RED, &odd), Ruling::Unknown);
        let (odd, _) = Name::read(b"\x02\xff\xfe\x03com\0", 0).unwrap();
        assert_eq!(zone().rule(RED, &odd), Ruling::Forward);
    }
}
