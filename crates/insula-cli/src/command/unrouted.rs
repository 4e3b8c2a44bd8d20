//! What there is to say of a release that answers no requests: it has workers or jobs alone.
//!
//! The server gives no URL for one; this says what to type instead.

use insula_wire::rest::app::App;
use insula_wire::rest::release::{Component, Release};

use crate::context::Cx;
use crate::failure::Failure;
use crate::show::clean;

const JOB: &str = "job";

/// The components of a release; none if it cannot be asked, since this is only for a hint.
pub async fn components(cx: &Cx, release: Option<impl ToString>) -> Vec<Component> {
    let Some(release) = release else { return Vec::new() };
    let target = cx.org(&["releases", &release.to_string()]);
    let found: Result<Release, _> = cx.client().get(&target).await;
    found.map(|release| release.components).unwrap_or_default()
}

/// The job that is named where one has to be: the first, of an app that has nothing else.
fn only_jobs(components: &[Component]) -> Option<&Component> {
    components.iter().all(|one| one.kind == JOB).then(|| components.first()).flatten()
}

/// What to type next, after a deployment that went live.
pub fn next(components: &[Component]) -> String {
    match only_jobs(components) {
        Some(job) => format!("insula run {}", job.name),
        None => "insula logs -f · insula ps · insula rollback".into(),
    }
}

/// Why `ps` shows nothing of an app that is live.
pub fn no_instances(app: &App, components: &[Component]) -> String {
    match only_jobs(components) {
        Some(job) => {
            format!("no instances: `{0}` runs when told to: insula run {0}", job.name)
        }
        None => format!("no instances; ask why: insula why {}", app.name),
    }
}

/// Where it answers, or why it does not.
pub fn url(app: &App) -> Result<&str, Failure> {
    match (app.url.as_str(), &app.live) {
        ("", Some(_)) => Err(Failure::failed(format!("`{}` answers no requests", app.name))
            .hint("see what it does: insula logs -f, insula runs")),
        ("", None) => Err(Failure::failed(format!("nothing of `{}` is live yet", app.name))
            .hint("deploy it: insula deploy")),
        (url, _) => Ok(url),
    }
}

/// A URL on a line of its own, or nothing.
pub fn line(url: &str) -> String {
    match url {
        "" => String::new(),
        url => format!("{}\n", clean::line(url)),
    }
}

#[cfg(test)]
mod tests {
    use insula_model::spec::{ComponentKind, ComponentSpec};

    use super::*;
    use crate::command::apps::tests::app;

    fn component(name: &str, kind: ComponentKind) -> Component {
        Component::new(&name.parse().unwrap(), &ComponentSpec::of_kind(kind))
    }

    #[test]
    fn what_comes_next_is_what_it_can_do() {
        let report = component("report", ComponentKind::Job);
        let worker = component("queue", ComponentKind::Worker);
        assert_eq!(next(std::slice::from_ref(&report)), "insula run report");
        assert!(next(&[report, worker]).starts_with("insula logs -f"));
        assert!(next(&[]).starts_with("insula logs -f"), "nothing is known of it");
    }

    #[test]
    fn a_job_that_is_not_told_to_run_is_nothing_to_ask_about() {
        let report = component("report", ComponentKind::Job);
        let worker = component("queue", ComponentKind::Worker);
        assert_eq!(
            no_instances(&app(), std::slice::from_ref(&report)),
            "no instances: `report` runs when told to: insula run report"
        );
        assert_eq!(
            no_instances(&app(), &[report, worker]),
            "no instances; ask why: insula why shop"
        );
    }

    #[test]
    fn an_app_without_a_url_is_not_opened() {
        assert_eq!(url(&app()), Ok("http://shop-w8y0ab.localhost:8080/"));
        let worker = App { url: String::new(), ..app() };
        let failure = url(&worker).unwrap_err();
        assert_eq!((failure.exit.0, failure.message.as_str()), (1, "`shop` answers no requests"));
        let fresh = App { url: String::new(), live: None, ..app() };
        assert_eq!(url(&fresh).unwrap_err().message, "nothing of `shop` is live yet");
        assert_eq!(line(""), "");
    }
}
