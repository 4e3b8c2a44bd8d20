//! `insula apps`: list, make, show, delete.

use insula_model::AppName;
use insula_wire::rest::app::{App, CreateApp};
use insula_wire::rest::instance::Instance;

use super::done;
use crate::context::{Cx, Guess};
use crate::failure::Outcome;
use crate::show::paint::Paint;
use crate::show::{Table, clean, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List apps (what `insula apps` alone does)
    List {
        /// Of all projects and environments
        #[arg(long)]
        all: bool,
    },
    /// Make an app with nothing in it yet
    Create {
        /// Small letters, digits and single hyphens, beginning with a letter
        name: AppName,
    },
    /// Show an app
    Show {
        /// By name or id [default: the folder's]
        #[arg(value_name = "APP")]
        named: Option<String>,
    },
    /// End an app, with its releases, variables, secrets and domains
    Delete {
        /// By name or id
        #[arg(value_name = "APP")]
        named: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    match args.verb.unwrap_or(Verb::List { all: false }) {
        Verb::List { all } => {
            let target = if all { cx.org(&["apps"]) } else { cx.apps_here() };
            let apps: Vec<App> = cx.client().all(&target).await?;
            let nothing = format!("no apps in {}; deploy one: insula deploy", cx.here());
            cx.terminal.list(&apps, &nothing, |apps| table(apps, all))
        }
        Verb::Create { name } => {
            let body = CreateApp {
                name,
                project: cx.place.project.parse()?,
                environment: cx.place.env.parse()?,
            };
            let app: App = cx.client().post(&cx.org(&["apps"]), &body).await?;
            cx.terminal.answer(&app, |_| format!("{}\n", app.name))
        }
        Verb::Show { named } => {
            let app = match named {
                Some(named) => cx.app_named(&named).await?,
                None => cx.app(Guess::Harmless).await?,
            };
            cx.terminal.answer(&app, |paint| show(&app, paint))
        }
        Verb::Delete { named, yes } => {
            let app = cx.app_named(&named).await?;
            let instances: Vec<Instance> =
                cx.client().all(&cx.of_app(&app, &["instances"])).await?;
            let running = units::count(instances.len(), "instance", "instances");
            let what = format!(
                "this deletes the app {} of {} with all its releases, variables, secrets, logs and \
                 domains, and stops {running}{}",
                app.name,
                cx.here(),
                match app.url.as_str() {
                    "" => String::new(),
                    url => format!("; {} answers no more", clean::line(url)),
                }
            );
            cx.terminal.confirm(&what, yes)?;
            cx.client().delete(&cx.of_app(&app, &[])).await?;
            done(cx, &format!("deleted the app {}", app.name))
        }
    }
}

fn state(app: &App) -> &'static str {
    match (app.running, &app.live) {
        (false, _) => "stopped",
        (true, Some(_)) => "live",
        (true, None) => "-",
    }
}

fn url(app: &App) -> String {
    if app.url.is_empty() { "-".into() } else { clean::line(&app.url).into_owned() }
}

fn table(apps: &[App], all: bool) -> Table {
    let now = units::now();
    let release = |app: &App| app.live.as_ref().map_or("-".into(), |live| live.number.to_string());
    let since =
        |app: &App| app.live.as_ref().map_or("-".into(), |live| units::age(live.since, now));
    if all {
        let mut table = Table::new(&["PROJECT", "ENV", "APP", "STATE", "RELEASE", "SINCE", "URL"]);
        for app in apps {
            table.row_with_state(
                3,
                [
                    app.project_name.to_string(),
                    app.environment_name.to_string(),
                    app.name.to_string(),
                    state(app).into(),
                    release(app),
                    since(app),
                    url(app),
                ],
            );
        }
        return table;
    }
    let mut table = Table::new(&["APP", "STATE", "RELEASE", "SINCE", "URL"]);
    for app in apps {
        table.row_with_state(
            1,
            [app.name.to_string(), state(app).into(), release(app), since(app), url(app)],
        );
    }
    table
}

fn show(app: &App, paint: Paint) -> String {
    let mut lines = vec![
        ("app", app.name.to_string()),
        ("id", app.id.to_string()),
        ("project", app.project_name.to_string()),
        ("environment", app.environment_name.to_string()),
        ("state", paint.state(state(app))),
    ];
    if let Some(live) = &app.live {
        lines.push(("release", format!("{} since {}", live.number, live.since)));
    }
    if !app.scale.is_empty() {
        let scale = app.scale.iter().map(|(name, count)| format!("{name}={count}"));
        lines.push(("scale", scale.collect::<Vec<_>>().join(" ")));
    }
    lines.push(("created", app.created.to_string()));
    lines.push(("url", url(app)));
    crate::show::pairs(&lines, paint)
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;
    use insula_wire::rest::app::Live;

    use super::*;

    /// As the API answers, so that names of fields are tested with it.
    pub fn app() -> App {
        App {
            id: "app_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            name: "shop".parse().unwrap(),
            project: "prj_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            project_name: "default".parse().unwrap(),
            environment: "env_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            environment_name: "production".parse().unwrap(),
            created: insula_model::Timestamp::from_millis(0),
            running: true,
            scale: BTreeMap::from([("web".parse().unwrap(), 3)]),
            live: Some(Live {
                release: "rel_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
                number: insula_model::release::ReleaseNumber(3),
                deployment: "dep_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
                since: units::now(),
            }),
            url: "http://shop-w8y0ab.localhost:8080/".into(),
        }
    }

    #[test]
    fn apps_are_listed_with_where_they_answer() {
        let stopped = App { running: false, live: None, url: "http://x\u{1b}[2J".into(), ..app() };
        let worker = App { url: String::new(), ..app() };
        expect![[r#"
            APP   STATE    RELEASE  SINCE  URL
            shop  live     v3       0 s    http://shop-w8y0ab.localhost:8080/
            shop  stopped  -        -      http://x�[2J
            shop  live     v3       0 s    -
        "#]]
        .assert_eq(&table(&[app(), stopped, worker], false).render(Paint::PLAIN, None));
    }
}
