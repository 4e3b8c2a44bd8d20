//! The shape of the workspace, as data. To change an arrow, change it here and say why in
//! `ARCHITECTURE.md`; `check.rs` only compares.

/// What one of our crates may use of ours.
pub struct Rule {
    pub name: &'static str,
    pub may_use: MayUse,
}

pub enum MayUse {
    Only(&'static [&'static str]),
    /// Tests of the whole: they may look at everything, and nothing may look at them.
    Everything,
}

const fn rule(name: &'static str, may_use: &'static [&'static str]) -> Rule {
    Rule { name, may_use: MayUse::Only(may_use) }
}

/// Left may use right, and nothing else; normal, build and dev-dependencies alike.
pub const RULES: &[Rule] = &[
    rule("insula-model", &[]),
    rule("insula-plan", &["insula-model"]),
    rule("insula-wire", &["insula-model"]),
    rule("insula-kit", &[]),
    rule("insula-store", &["insula-model"]),
    rule("insula-blobs", &["insula-model"]),
    rule("insula-sandbox", &["insula-model"]),
    rule("insula-build", &["insula-model"]),
    rule("insula-vault", &["insula-store", "insula-kit", "insula-model"]),
    rule("insula-link", &["insula-wire", "insula-kit", "insula-model"]),
    rule("insula-relay", &["insula-wire", "insula-kit", "insula-model"]),
    rule("insula-member", &["insula-wire", "insula-kit", "insula-model"]),
    rule(
        "insula-api",
        &[
            "insula-link",
            "insula-wire",
            "insula-vault",
            "insula-store",
            "insula-blobs",
            "insula-plan",
            "insula-build",
            "insula-kit",
            "insula-model",
        ],
    ),
    rule(
        "insula-control",
        &[
            "insula-link",
            "insula-plan",
            "insula-vault",
            "insula-store",
            "insula-blobs",
            "insula-wire",
            "insula-kit",
            "insula-model",
        ],
    ),
    rule(
        "insula-agent",
        &[
            "insula-relay",
            "insula-member",
            "insula-sandbox",
            "insula-blobs",
            "insula-wire",
            "insula-kit",
            "insula-model",
        ],
    ),
    rule(
        "insula-gateway",
        &[
            "insula-relay",
            "insula-member",
            "insula-blobs",
            "insula-wire",
            "insula-kit",
            "insula-model",
        ],
    ),
    rule("insula-discovery", &["insula-wire", "insula-kit", "insula-model"]),
    rule(
        "insula-cli",
        &["insula-wire", "insula-build", "insula-blobs", "insula-kit", "insula-model"],
    ),
    rule(
        "insula",
        &[
            "insula-model",
            "insula-plan",
            "insula-wire",
            "insula-kit",
            "insula-store",
            "insula-vault",
            "insula-blobs",
            "insula-sandbox",
            "insula-build",
            "insula-relay",
            "insula-member",
            "insula-link",
            "insula-api",
            "insula-control",
            "insula-agent",
            "insula-gateway",
            "insula-discovery",
            "insula-cli",
        ],
    ),
    Rule { name: "insula-sim", may_use: MayUse::Everything },
    Rule { name: "insula-e2e", may_use: MayUse::Everything },
    rule("xtask", &[]),
];

/// Crates that only decide, and the few third-party crates they may use, dev-dependencies
/// included. An allow-list, because nobody can list every crate that reads a clock.
pub const PURE: &[(&str, &[&str])] = &[
    ("insula-model", &["serde", "serde_json", "thiserror", "expect-test"]),
    ("insula-plan", &["imbl", "serde", "serde_json", "thiserror", "expect-test"]),
];

/// Words that have no place in the sources of a pure crate, and what they would let in.
pub const IMPURE_WORDS: &[(&str, &str)] = &[
    ("fs", "files"),
    ("env", "the environment"),
    ("process", "processes"),
    ("thread", "threads"),
    ("TcpStream", "the network"),
    ("TcpListener", "the network"),
    ("UdpSocket", "the network"),
    ("ToSocketAddrs", "the network"),
    ("SystemTime", "a clock"),
    ("Instant", "a clock"),
    ("HashMap", "an order that differs from run to run; take a BTreeMap"),
    ("HashSet", "an order that differs from run to run; take a BTreeSet"),
];

/// The only crate that speaks SQL, and the crates that would let another do it.
pub const SQL_CRATE: &str = "insula-store";
pub const SQL_DRIVERS: &[&str] = &[
    "diesel",
    "deadpool-postgres",
    "libsqlite3-sys",
    "libsql",
    "mysql",
    "mysql_async",
    "postgres",
    "r2d2_sqlite",
    "rusqlite",
    "sea-orm",
    "sea-query",
    "sqlite",
    "sqlx",
    "tokio-postgres",
    "tokio-rusqlite",
];

/// Features that a crate's tests need and the product must not have. A crate that is tested alone is
/// then linked with other third-party code than the product, so the list stays short.
pub const TEST_FEATURES: &[(&str, &str)] = &[
    // A clock that tests hold and move on, in place of waiting.
    ("tokio", "test-util"),
];

/// The only crate in which `unsafe` may stand.
pub const UNSAFE_CRATE: &str = "insula-sandbox";

/// Where an error may lose its type: at the end of the road, where a person reads it.
pub const ANYHOW_CRATES: &[&str] = &["insula", "insula-cli", "insula-e2e", "insula-sim", "xtask"];
