//! Whether what is asked for fits into the org's quota, in the transaction that asks.

use insula_model::app::App;
use insula_model::build::BuildPlan;
use insula_model::spec::{AppSpec, ComponentSpec};
use insula_model::tenancy::Org;
use insula_model::{Bytes, MilliCpu, OrgId};
use insula_store::quotas::{self, Ask};
use insula_store::{Tx, orgs};
use insula_wire::problem::Code;

use crate::error::ApiError;

/// Refuses unless the org has room for an app as it is in `app`, running `spec`.
pub fn fits(tx: &Tx, app: &App, spec: &AppSpec) -> Result<(), ApiError> {
    fits_asking(tx, app, Ask::of(spec, app))
}

/// The same for what it has: what is live and what is under way, the greater of both.
pub fn fits_as_it_is(tx: &Tx, app: &App) -> Result<(), ApiError> {
    fits_asking(tx, app, quotas::ask_of(tx, app)?)
}

fn fits_asking(tx: &Tx, app: &App, asked: Ask) -> Result<(), ApiError> {
    if !app.running {
        return Ok(());
    }
    let org = orgs::get(tx, app.org)?.ok_or_else(|| ApiError::not_found("org"))?;
    let others = quotas::ask_without(tx, app.org, Some(app.id))?;
    decide(&org, others, asked)
}

/// Refuses unless the org has room for one more run of this component.
pub fn run_fits(tx: &Tx, org: OrgId, component: &ComponentSpec) -> Result<(), ApiError> {
    let org = orgs::get(tx, org)?.ok_or_else(|| ApiError::not_found("org"))?;
    let others = quotas::ask_without(tx, org.id, None)?;
    decide(&org, others, Ask::of_run(component))
}

/// Refuses what has to be built where nothing may be: it would wait for ever.
pub fn build_fits(org: &Org, plan: &BuildPlan) -> Result<(), ApiError> {
    if plan.steps.is_empty() || org.quota.builds_at_once > 0 {
        return Ok(());
    }
    Err(over(
        format!("`{}` may not build anything, and this has to be built", org.name),
        "deploy what needs no build, or ask the operator for builds".into(),
    ))
}

/// Pure: what all others ask for, what this one asks for, and what there may be.
fn decide(org: &Org, others: Ask, asked: Ask) -> Result<(), ApiError> {
    let (name, quota, sum) = (&org.name, &org.quota, others.plus(asked));
    if sum.instances > quota.instances {
        let (max, need) = (quota.instances, sum.instances);
        let left = quota.instances.saturating_sub(others.instances);
        let noun = if max == 1 { "instance" } else { "instances" };
        return Err(over(
            format!("`{name}` may run {max} {noun}; with this it would need {need}"),
            match left {
                0 => "none is left: stop something else, or ask for more".into(),
                1 => "1 is left: scale to that, stop something else, or ask for more".into(),
                _ => {
                    format!("{left} are left: scale to that, stop something else, or ask for more")
                }
            },
        ));
    }
    if sum.memory > quota.memory {
        let (max, need) = (quota.memory, sum.memory);
        let left = Bytes(quota.memory.0.saturating_sub(others.memory.0));
        return Err(over(
            format!("`{name}` may use {max} of memory; with this it would need {need}"),
            format!("{left} is left: ask for less, stop something else, or ask for more"),
        ));
    }
    if sum.cpu > quota.cpu {
        let (max, need) = (quota.cpu, sum.cpu);
        let left = MilliCpu(quota.cpu.0.saturating_sub(others.cpu.0));
        return Err(over(
            format!("`{name}` may use {max} cores; with this it would need {need}"),
            format!("{left} are left: ask for less, stop something else, or ask for more"),
        ));
    }
    Ok(())
}

/// Refuses a source for which the org's disk has no room.
pub fn disk_fits(org: &Org, used: Bytes, more: Bytes) -> Result<(), ApiError> {
    let (max, need) = (org.quota.disk, Bytes(used.0.saturating_add(more.0)));
    if need <= max {
        return Ok(());
    }
    let (name, left) = (&org.name, Bytes(max.0.saturating_sub(used.0)));
    Err(over(
        format!("`{name}` may keep {max} of sources and artifacts; with this it would need {need}"),
        format!("{left} is left: delete apps, or ask for more"),
    ))
}

fn over(said: String, hint: String) -> ApiError {
    ApiError::new(Code::QuotaExceeded, said).hint(hint)
}

#[cfg(test)]
mod tests {
    use insula_model::tenancy::Quota;
    use insula_model::{OrgId, Timestamp};

    use super::*;

    fn org() -> Org {
        let created = Timestamp::from_millis(0);
        let id = OrgId::from_parts(created, [1; 10]);
        Org { id, name: "acme".parse().unwrap(), quota: Quota::default(), created }
    }

    fn ask(instances: u32, memory: Bytes, cpu: u32) -> Ask {
        Ask { instances, memory, cpu: MilliCpu(cpu) }
    }

    #[test]
    fn what_fits_exactly_fits_and_one_more_does_not() {
        let (org, none) = (org(), Ask::default());
        let full = ask(50, Bytes::gib(16), 32_000);
        assert!(decide(&org, none, full).is_ok());
        assert!(decide(&org, full, none).is_ok());
        for one in [ask(1, Bytes(0), 0), ask(0, Bytes(1), 0), ask(0, Bytes(0), 1)] {
            let refused = decide(&org, full, one).unwrap_err();
            assert_eq!(refused.code(), Code::QuotaExceeded);
        }
    }

    #[test]
    fn the_refusal_says_what_there_is_and_what_is_left() {
        let refused = decide(&org(), ask(45, Bytes(0), 0), ask(15, Bytes(0), 0)).unwrap_err();
        let problem = refused.problem();
        assert_eq!(problem.detail, "`acme` may run 50 instances; with this it would need 60");
        assert!(problem.hint.as_ref().unwrap().starts_with("5 are left"));

        let one = Org { quota: Quota { instances: 1, ..Quota::default() }, ..org() };
        for (others, hint) in [
            (0, "1 is left: scale to that, stop something else, or ask for more"),
            (1, "none is left: stop something else, or ask for more"),
        ] {
            let refused = decide(&one, ask(others, Bytes(0), 0), ask(2, Bytes(0), 0)).unwrap_err();
            let problem = refused.problem();
            assert!(problem.detail.starts_with("`acme` may run 1 instance;"), "{}", problem.detail);
            assert_eq!(problem.hint.as_deref(), Some(hint));
        }
    }
}
