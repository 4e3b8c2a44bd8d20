//! Where a PostgreSQL is and how it is spoken to: `postgres://user@host/database?sslmode=…`.
//!
//! What libpq knows is understood by the driver; ours are `schema`, and the meaning of `sslmode`:
//! beyond this machine nothing travels in the clear, nor to somebody who cannot prove his name,
//! unless the URL says so in words.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// The schema that holds our tables, unless the URL names another.
const SCHEMA_DEFAULT: &str = "insula";
/// Where the distribution's server listens on this machine.
const SOCKETS: &str = "/run/postgresql";
/// PostgreSQL cuts longer names without a word.
const SCHEMA_LEN_MAX: usize = 40;

/// How much the way to the database is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// No TLS: a socket of this machine, or asked for.
    Plain,
    /// Encrypted, to whoever answers: against those who listen, not against those who pretend.
    Anyone,
    /// TLS to a server that proves its name, by the roots of this system or of a file.
    Named { roots: Option<PathBuf> },
}

#[derive(Clone)]
pub struct PostgresUrl {
    pub(crate) config: Box<Config>,
    pub(crate) trust: Trust,
    pub(crate) schema: String,
    /// Without the password.
    shown: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostgresUrlError {
    #[error("a database URL begins with postgres://")]
    Scheme,
    #[error("the database URL is not understood: {0}")]
    Parse(String),
    #[error("the database URL names no database: postgres://user@host/DATABASE")]
    Database,
    #[error("sslmode is disable, require or verify-full, not `{0}`")]
    SslMode(String),
    #[error(
        "a schema is named by a letter and at most {SCHEMA_LEN_MAX} small letters, digits and _"
    )]
    Schema,
    #[error("the database URL says {0} twice")]
    Twice(&'static str),
}

impl FromStr for PostgresUrl {
    type Err = PostgresUrlError;

    fn from_str(text: &str) -> Result<Self, PostgresUrlError> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(PostgresUrlError::Scheme);
        }
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut roots, mut schema) = (None, None, None);
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (slot, name) = match name {
                "sslmode" => (&mut mode, "sslmode"),
                "sslrootcert" => (&mut roots, "sslrootcert"),
                "schema" => (&mut schema, "schema"),
                // The driver's; it refuses what it does not know.
                _ => {
                    rest.push(pair);
                    continue;
                }
            };
            if slot.replace(plain(value)?).is_some() {
                return Err(PostgresUrlError::Twice(name));
            }
        }
        let parsed = format!("{place}?{}", rest.join("&"));
        let parsed = parsed.trim_end_matches('?');
        let mut config: Config = parsed.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            PostgresUrlError::Parse(cause.unwrap_or_else(|| error.to_string()))
        })?;
        if config.get_dbname().is_none() {
            return Err(PostgresUrlError::Database);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host_path(SOCKETS);
        }
        let roots = roots.map(PathBuf::from);
        let trust = match mode.as_deref() {
            None if roots.is_none() && is_near(&config) => Trust::Plain,
            Some("disable") => Trust::Plain,
            Some("require") if roots.is_none() => Trust::Anyone,
            // With roots at hand, libpq verifies too.
            None | Some("verify-full" | "require") => Trust::Named { roots },
            Some(other) => return Err(PostgresUrlError::SslMode(other.to_owned())),
        };
        config.ssl_mode(match trust {
            Trust::Plain => SslMode::Disable,
            Trust::Anyone | Trust::Named { .. } => SslMode::Require,
        });
        // Of several hosts, the one that takes writes: so a failover is followed.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let schema = schema.unwrap_or_else(|| SCHEMA_DEFAULT.to_owned());
        if !is_schema(&schema) {
            return Err(PostgresUrlError::Schema);
        }
        let config = Box::new(config);
        Ok(Self { config, trust, schema, shown: without_password(text) })
    }
}

impl PostgresUrl {
    /// Those who wait for a change listen here.
    pub(crate) fn channel(&self) -> String {
        format!("insula_head_{}", self.schema)
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({})", self.shown)
    }
}

/// So that it may stand between quotes, or without them.
fn is_schema(name: &str) -> bool {
    name.len() <= SCHEMA_LEN_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with("pg_")
}

/// Whether every host is this machine.
fn is_near(config: &Config) -> bool {
    let addresses = config.get_hostaddrs();
    config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
    }) && addresses.iter().all(IpAddr::is_loopback)
}

/// Percent signs undone.
fn plain(value: &str) -> Result<String, PostgresUrlError> {
    let bad = || PostgresUrlError::Parse(format!("`{value}` is not well escaped"));
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let (Some(high), Some(low)) = (high, low) else { return Err(bad()) };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

fn without_password(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("postgres", text));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user, |(name, _)| name);
            format!("{user}@{host}")
        }
        None => authority.to_owned(),
    };
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let kept: Vec<&str> =
        query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("password")).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    format!("{scheme}://{host}{path}{mark}{}", kept.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<PostgresUrl, PostgresUrlError> {
        text.parse()
    }

    #[test]
    fn beyond_this_machine_a_name_is_proved_unless_the_url_says_otherwise() {
        let trust = |text| url(text).unwrap().trust;
        for near in [
            "postgres://u@localhost/d",
            "postgres://u@127.0.0.1/d",
            "postgres://u@[::1]/d",
            "postgres:///d?host=/run/postgresql&user=u",
            "postgresql://u@%2Frun%2Fpostgresql/d",
            "postgres:///d",
            "postgres://u@db.example.org/d?sslmode=disable",
        ] {
            assert_eq!(trust(near), Trust::Plain, "{near}");
        }
        let far = Trust::Named { roots: None };
        assert_eq!(trust("postgres://u@db.example.org/d"), far);
        assert_eq!(trust("postgres://u@localhost,10.1.1.1/d"), far);
        assert_eq!(trust("postgres://u@localhost/d?sslmode=verify-full"), far);
        assert_eq!(trust("postgres://u@localhost/d?hostaddr=10.0.0.1"), far);
        assert_eq!(trust("postgres://u@db/d?sslmode=require"), Trust::Anyone);
        let roots = Some(PathBuf::from("/etc/ca s.pem"));
        assert_eq!(
            trust("postgres://u@db/d?sslrootcert=/etc/ca%20s.pem&sslmode=require"),
            Trust::Named { roots }
        );
    }

    #[test]
    fn a_password_is_shown_to_nobody() {
        for text in [
            "postgres://u:s3cret@db.example.org/d?schema=a",
            "postgres://u@db.example.org/d?password=s3cret&schema=a",
            "postgres://u:s3cret%2F@db.example.org/d?schema=a",
        ] {
            let url = url(text).unwrap();
            let shown = format!("{url} {url:?}");
            assert!(!shown.contains("s3cret"), "{shown}");
            assert!(shown.contains("u@db.example.org/d?schema=a"), "{shown}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_words() {
        let refused = |text: &str| url(text).unwrap_err();
        assert_eq!(refused("mysql://u@h/d"), PostgresUrlError::Scheme);
        assert_eq!(refused("postgres://u@h"), PostgresUrlError::Database);
        for mode in ["prefer", "allow", "verify-ca", ""] {
            let text = format!("postgres://u@h/d?sslmode={mode}");
            assert_eq!(refused(&text), PostgresUrlError::SslMode(mode.to_owned()));
        }
        for schema in ["", "Insula", "a b", "a\";DROP", "1a", "pg_catalog", &"a".repeat(41)] {
            let text = format!("postgres://u@h/d?schema={schema}");
            assert_eq!(refused(&text), PostgresUrlError::Schema, "{schema}");
        }
        let twice = "postgres://u@h/d?sslmode=disable&sslmode=require";
        assert_eq!(refused(twice), PostgresUrlError::Twice("sslmode"));
        assert!(matches!(refused("postgres://u@h/d?mood=good"), PostgresUrlError::Parse(_)));
        assert!(matches!(refused("postgres://u@h/d?schema=%4"), PostgresUrlError::Parse(_)));
    }
}
