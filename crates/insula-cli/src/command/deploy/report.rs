//! How a deployment ended: one object for programs, a few lines for people.

use std::fmt::Write as _;
use std::time::Duration;

use insula_model::Millis;
use insula_wire::problem::Mistake;
use insula_wire::rest::deployment::{Cause, Deployment, Phase, Plan};
use serde::Serialize;

use super::prepare::Prepared;
use super::upload::Wanted;
use crate::failure::Failure;
use crate::show::paint::Paint;
use crate::show::{clean, units};

/// What `--json` prints: documented in docs/developers.md, so it only grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Empty if nothing was begun, and of what answers no requests.
    pub url: String,
    /// `v3`, once a release was cut.
    pub release: Option<String>,
    /// A state of a deployment, or `refused` if there is none.
    pub state: String,
    pub cause: Option<ReportCause>,
    pub phases: Vec<Phase>,
    pub deployment: Option<String>,
    pub app: Option<String>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportCause {
    #[serde(flatten)]
    pub cause: Cause,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Mistake>,
}

/// What was done here and not by the server.
pub fn local_phase(name: &str, took: Duration) -> Phase {
    let ended = units::now();
    let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let started =
        insula_model::Timestamp::from_millis(ended.as_millis().saturating_sub_unsigned(took));
    Phase { phase: name.into(), started, ended: Some(ended), took_ms: Some(took) }
}

impl Report {
    pub fn new(deployment: &Deployment, app: &str, local: &[Phase]) -> Self {
        let cause = deployment.cause.clone();
        Self {
            url: deployment.url.clone(),
            release: deployment.number.map(|number| number.to_string()),
            state: deployment.state.clone(),
            cause: cause.map(|cause| ReportCause { cause, errors: Vec::new() }),
            phases: local.iter().chain(&deployment.phases).cloned().collect(),
            deployment: Some(deployment.id.to_string()),
            app: Some(app.to_owned()),
            warnings: deployment.warnings.clone(),
        }
    }

    pub fn refused(failure: &Failure) -> Self {
        let cause = Cause {
            code: failure.details.code.clone().unwrap_or_else(|| "refused".into()),
            message: failure.message.clone(),
            hint: failure.hint.clone(),
            component: None,
            exit: None,
            tail: failure.details.tail.clone(),
        };
        Self {
            url: String::new(),
            release: None,
            state: "refused".into(),
            cause: Some(ReportCause { cause, errors: failure.details.mistakes.clone() }),
            phases: Vec::new(),
            deployment: None,
            app: None,
            warnings: Vec::new(),
        }
    }

    fn total(&self) -> Millis {
        Millis(self.phases.iter().filter_map(|phase| phase.took_ms).sum())
    }

    /// What is told on stderr about a deployment that is live.
    pub fn live(&self, next: &str, paint: Paint) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            let _ = writeln!(text, "{} {}", paint.yellow("warning:"), clean::line(warning));
        }
        let release = self.release.as_deref().unwrap_or_default();
        let phases: Vec<String> = self
            .phases
            .iter()
            .filter_map(|phase| {
                Some(format!("{} {}", clean::line(&phase.phase), units::measured(phase.took_ms?)))
            })
            .collect();
        let total = units::measured(self.total().0);
        let _ = writeln!(
            text,
            "{} {release} in {total} {}",
            paint.green("live:"),
            paint.dim(&format!("({})", phases.join(", ")))
        );
        let _ = write!(text, "{}", paint.dim(&format!("next: {}", clean::line(next))));
        text
    }
}

/// What `--plan` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    app: String,
    app_exists: bool,
    files: usize,
    size_bytes: u64,
    /// What the server lacks of it.
    send_files: usize,
    send_bytes: u64,
    left_out: Vec<String>,
    components: Vec<insula_wire::rest::release::Component>,
    steps: Vec<String>,
    warnings: Vec<String>,
    /// Whether the server has looked at it, too: at its quota and runtimes.
    checked: bool,
}

impl Planned {
    pub fn new(
        prepared: &Prepared,
        app: &str,
        app_exists: bool,
        missing: &[Wanted],
        checked: Option<Plan>,
    ) -> Self {
        let detected = &prepared.detected;
        let was_checked = checked.is_some();
        let plan = checked.unwrap_or_else(|| Plan {
            components: insula_wire::rest::release::Component::all(&detected.spec),
            steps: detected.plan.steps.iter().map(|step| step.name.clone()).collect(),
            warnings: detected.warnings.clone(),
        });
        Self {
            app: app.to_owned(),
            app_exists,
            files: prepared.manifest.entries().len(),
            size_bytes: prepared.total().0,
            send_files: missing.len(),
            send_bytes: missing.iter().map(|chunk| chunk.len).sum(),
            left_out: prepared.folder.left_out.clone(),
            components: plan.components,
            steps: plan.steps,
            warnings: plan.warnings,
            checked: was_checked,
        }
    }

    pub fn render(&self, paint: Paint) -> String {
        let mut text = String::new();
        let new = if self.app_exists { "" } else { " (would be made)" };
        let _ = writeln!(text, "app: {}{new}", clean::line(&self.app));
        let _ = writeln!(
            text,
            "source: {}, {}; {} of it to be sent",
            units::count(self.files, "file", "files"),
            units::size(self.size_bytes),
            units::size(self.send_bytes),
        );
        for component in &self.components {
            let run = component.run.as_deref().unwrap_or("serves files");
            let _ = writeln!(
                text,
                "component {}: {} ({}) x{}, {} cores, {}: {}",
                paint.bold(component.name.as_str()),
                clean::line(&component.kind),
                clean::line(&component.runtime),
                component.instances,
                units::cores(component.cpu_millis),
                units::size(component.memory_bytes),
                clean::line(run),
            );
        }
        for step in &self.steps {
            let _ = writeln!(text, "build: {}", clean::line(step));
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "{} {}", paint.yellow("warning:"), clean::line(warning));
        }
        if !self.checked {
            let _ = writeln!(
                text,
                "{}",
                paint.dim("quota and runtimes are checked by the server once it has the files")
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_model::Timestamp;

    use super::*;

    fn report() -> Report {
        let at = Timestamp::from_millis;
        let phase = |name: &str, from: i64, to: i64| Phase {
            phase: name.into(),
            started: at(from),
            ended: Some(at(to)),
            took_ms: Some((to - from) as u64),
        };
        Report {
            url: "http://shop-3f9k2x.localhost:8080/".into(),
            release: Some("v3".into()),
            state: "live".into(),
            cause: None,
            phases: vec![phase("upload", 0, 48), phase("start", 48, 1_252)],
            deployment: Some("dep_01j8z3k5v7e6n9q2r4t6w8y0ab".into()),
            app: Some("shop".into()),
            warnings: vec!["python 3.9 is not there; 3.11 is used\u{1b}[2J".into()],
        }
    }

    #[test]
    fn a_report_has_the_shape_that_is_documented() {
        expect![[r#"
            {
              "url": "http://shop-3f9k2x.localhost:8080/",
              "release": "v3",
              "state": "live",
              "cause": null,
              "phases": [
                {
                  "phase": "upload",
                  "started": "1970-01-01T00:00:00.000Z",
                  "ended": "1970-01-01T00:00:00.048Z",
                  "took_ms": 48
                },
                {
                  "phase": "start",
                  "started": "1970-01-01T00:00:00.048Z",
                  "ended": "1970-01-01T00:00:01.252Z",
                  "took_ms": 1204
                }
              ],
              "deployment": "dep_01j8z3k5v7e6n9q2r4t6w8y0ab",
              "app": "shop",
              "warnings": [
                "python 3.9 is not there; 3.11 is used\u001b[2J"
              ]
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&report()).unwrap());
    }

    #[test]
    fn a_refusal_has_the_same_shape_with_its_mistakes() {
        let mut failure = Failure::failed("insula.toml has a mistake").hint("mend it");
        failure.details.code = Some("invalid_spec".into());
        failure.details.mistakes = vec![Mistake {
            file: Some("insula.toml".into()),
            line: Some(4),
            key: Some("components.web.port".into()),
            message: "70000 is not possible".into(),
            fix: None,
        }];
        expect![[r#"
            {
              "url": "",
              "release": null,
              "state": "refused",
              "cause": {
                "code": "invalid_spec",
                "message": "insula.toml has a mistake",
                "hint": "mend it",
                "tail": [],
                "errors": [
                  {
                    "file": "insula.toml",
                    "line": 4,
                    "key": "components.web.port",
                    "message": "70000 is not possible"
                  }
                ]
              },
              "phases": [],
              "deployment": null,
              "app": null,
              "warnings": []
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&Report::refused(&failure)).unwrap());
    }

    #[test]
    fn a_success_ends_with_its_times_and_what_to_type_next() {
        expect![[r#"
            warning: python 3.9 is not there; 3.11 is used�[2J
            live: v3 in 1.25 s (upload 48 ms, start 1.20 s)
            next: insula ps"#]]
        .assert_eq(&report().live("insula ps", Paint::PLAIN));
    }
}
