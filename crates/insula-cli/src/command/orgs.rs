//! `insula orgs`: tenants: list, make, show, delete; what they use and what they may.

use insula_model::{Bytes, MilliCpu, OrgName};
use insula_wire::rest::org::{CreateOrg, KeyRotated, Org, Quota, SetQuota, Usage};

use super::done;
use crate::client::Target;
use crate::context::Cx;
use crate::failure::Outcome;
use crate::show::paint::Paint;
use crate::show::{Table, pairs, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the orgs that one may see (what `insula orgs` alone does)
    List,
    /// Make an org (the operator)
    Create {
        /// Small letters, digits and single hyphens, beginning with a letter
        name: OrgName,
    },
    /// Show an org
    Show {
        /// By name or id [default: the chosen one]
        #[arg(value_name = "ORG")]
        named: Option<String>,
    },
    /// End an org that has no apps
    Delete {
        /// By name or id
        #[arg(value_name = "ORG")]
        named: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Show what an org uses, beside what it may
    Usage {
        /// By name or id [default: the chosen one]
        #[arg(value_name = "ORG")]
        named: Option<String>,
    },
    /// Set what an org may use at once (the operator); what is not given stays
    Quota(SetArgs),
    /// Seal all secrets of the org with a new key
    RotateKey {
        /// By name or id [default: the chosen one]
        #[arg(value_name = "ORG")]
        named: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// By name or id [default: the chosen one]
    #[arg(value_name = "ORG")]
    named: Option<String>,
    /// Instances that run at once, of all apps
    #[arg(long, value_name = "N")]
    instances: Option<u32>,
    /// As in 8GiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Cores, as in 4 or 0.5
    #[arg(long, value_parser = cores, value_name = "CORES")]
    cpu: Option<MilliCpu>,
    /// Builds that run at the same time
    #[arg(long, value_name = "N")]
    builds_at_once: Option<u32>,
    /// Releases of each app that one can go back to
    #[arg(long, value_name = "N")]
    releases_kept: Option<u32>,
    /// Per second and instance, as in 64KiB
    #[arg(long, value_name = "SIZE")]
    log_rate: Option<Bytes>,
    /// Sources and artifacts together, as in 20GiB
    #[arg(long, value_name = "SIZE")]
    disk: Option<Bytes>,
}

/// The largest machines have some hundreds.
const CORES_MAX: f64 = 1_000_000.0;

fn cores(text: &str) -> Result<MilliCpu, String> {
    match text.parse::<f64>() {
        Ok(cores) if (0.0..=CORES_MAX).contains(&cores) => {
            Ok(MilliCpu((cores * 1_000.0).round() as u32))
        }
        Ok(_) | Err(_) => Err(format!("`{text}` is no number of cores: write it as 4 or 0.5")),
    }
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let of =
        |named: Option<&String>, parts: &[&str]| Target::org(named.unwrap_or(&cx.place.org), parts);
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let all: Vec<Org> = cx.client().all(&Target::v1(&["orgs"])).await?;
            cx.terminal.list(&all, "no orgs", table)
        }
        Verb::Create { name } => {
            let made: Org = cx.client().post(&Target::v1(&["orgs"]), &CreateOrg { name }).await?;
            cx.terminal.answer(&made, |_| format!("{}\n", made.name))
        }
        Verb::Show { named } => {
            let found: Org = cx.client().get(&of(named.as_ref(), &[])).await?;
            cx.terminal.answer(&found, |paint| show(&found, paint))
        }
        Verb::Delete { named, yes } => {
            let target = of(Some(&named), &[]);
            let found: Org = cx.client().get(&target).await?;
            let what = format!(
                "this deletes the org {} with its projects, members, tokens, variables and secrets",
                found.name
            );
            cx.terminal.confirm(&what, yes)?;
            cx.client().delete(&target).await?;
            done(cx, &format!("deleted the org {}", found.name))
        }
        Verb::Usage { named } => {
            let usage: Usage = cx.client().get(&of(named.as_ref(), &["usage"])).await?;
            cx.terminal.answer(&usage, |paint| usage_table(&usage).render(paint, None))
        }
        Verb::Quota(args) => {
            let target = of(args.named.as_ref(), &["quota"]);
            let now: Quota = cx.client().get(&target).await?;
            let wanted = SetQuota {
                instances: args.instances.unwrap_or(now.instances),
                memory_bytes: args.memory.map_or(now.memory_bytes, |size| size.0),
                cpu_millis: args.cpu.map_or(now.cpu_millis, |cpu| cpu.0),
                builds_at_once: args.builds_at_once.unwrap_or(now.builds_at_once),
                releases_kept: args.releases_kept.unwrap_or(now.releases_kept),
                log_rate_bytes: args.log_rate.map_or(now.log_rate_bytes, |size| size.0),
                disk_bytes: args.disk.map_or(now.disk_bytes, |size| size.0),
            };
            let set: Quota = cx.client().put(&target, &wanted).await?;
            cx.terminal.answer(&set, |paint| quota_pairs(&set, paint))
        }
        Verb::RotateKey { named } => {
            let target = of(named.as_ref(), &["data-key", "rotate"]);
            let rotated: KeyRotated = cx.client().act(&target).await?;
            cx.terminal.answer(&rotated, |_| {
                format!("all secrets are sealed with key number {} now\n", rotated.key)
            })
        }
    }
}

fn table(orgs: &[Org]) -> Table {
    let now = units::now();
    let mut table = Table::new(&["ORG", "AGE", "INSTANCES", "MEMORY", "CPU", "ID"]);
    for org in orgs {
        table.row([
            org.name.to_string(),
            units::age(org.created, now),
            org.quota.instances.to_string(),
            units::size(org.quota.memory_bytes),
            units::cores(org.quota.cpu_millis),
            org.id.to_string(),
        ]);
    }
    table
}

fn show(org: &Org, paint: Paint) -> String {
    let lines = [
        ("org", org.name.to_string()),
        ("id", org.id.to_string()),
        ("created", org.created.to_string()),
    ];
    format!("{}{}", pairs(&lines, paint), quota_pairs(&org.quota, paint))
}

fn quota_pairs(quota: &Quota, paint: Paint) -> String {
    let lines = [
        ("instances", quota.instances.to_string()),
        ("memory", units::size(quota.memory_bytes)),
        ("cpu", units::cores(quota.cpu_millis)),
        ("builds at once", quota.builds_at_once.to_string()),
        ("releases kept", quota.releases_kept.to_string()),
        ("log rate", format!("{} per second and instance", units::size(quota.log_rate_bytes))),
        ("disk", units::size(quota.disk_bytes)),
    ];
    pairs(&lines, paint)
}

pub fn usage_table(usage: &Usage) -> Table {
    let quota = &usage.quota;
    let mut table = Table::new(&["WHAT", "USED", "QUOTA"]);
    let mut row = |what: &str, used: String, may: String| table.row([what.into(), used, may]);
    row("instances", usage.instances.to_string(), quota.instances.to_string());
    row("memory", units::size(usage.memory_bytes), units::size(quota.memory_bytes));
    row("cpu", units::cores(usage.cpu_millis), units::cores(quota.cpu_millis));
    row("builds", usage.builds.to_string(), quota.builds_at_once.to_string());
    row("disk", units::size(usage.disk_bytes), units::size(quota.disk_bytes));
    table
}

#[cfg(test)]
pub mod tests {
    use expect_test::expect;

    use super::*;

    pub fn usage() -> Usage {
        Usage {
            quota: Quota {
                instances: 50,
                memory_bytes: 8 << 30,
                cpu_millis: 4_000,
                builds_at_once: 2,
                releases_kept: 20,
                log_rate_bytes: 64 << 10,
                disk_bytes: 20 << 30,
            },
            instances: 3,
            memory_bytes: 768 << 20,
            cpu_millis: 1_500,
            builds: 0,
            disk_bytes: 1_234_567,
        }
    }

    #[test]
    fn cores_are_read_as_they_are_written() {
        assert_eq!(cores("0.5"), Ok(MilliCpu(500)));
        assert_eq!(cores("64"), Ok(MilliCpu(64_000)));
        for wrong in ["", "-1", "NaN", "inf", "1e99", "four"] {
            assert!(cores(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn usage_stands_beside_what_is_allowed() {
        expect![[r#"
            WHAT       USED     QUOTA
            instances  3        50
            memory     768 MiB  8 GiB
            cpu        1.5      4
            builds     0        2
            disk       1.1 MiB  20 GiB
        "#]]
        .assert_eq(&usage_table(&usage()).render(Paint::PLAIN, None));
    }
}
