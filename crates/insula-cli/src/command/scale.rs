//! `insula scale web=3`: how many instances of each component run.

use std::collections::BTreeMap;

use insula_model::ComponentName;
use insula_wire::rest::app::{App, Scale};
use insula_wire::rest::release::Release;

use crate::context::{Cx, Guess};
use crate::failure::{Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// As in web=3; without any, shows what is asked for now
    #[arg(value_parser = parse, value_name = "COMPONENT=N")]
    components: Vec<(ComponentName, u32)>,
}

fn parse(text: &str) -> Result<(ComponentName, u32), String> {
    let (name, count) = text.split_once('=').ok_or("write it as web=3")?;
    let name = name.parse().map_err(|error: insula_model::names::NameError| error.to_string())?;
    Ok((name, count.parse().map_err(|_| format!("`{count}` is not a number of instances"))?))
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    if args.components.is_empty() {
        let app = cx.app(Guess::Harmless).await?;
        let now = asked_now(cx, &app).await?;
        return cx.terminal.answer(&now, |_| line(&now));
    }
    let app = cx.app(Guess::No).await?;
    let mut components = BTreeMap::new();
    for (name, count) in args.components {
        if components.insert(name.clone(), count).is_some() {
            return Err(Failure::usage(format!("{name} is named twice")));
        }
    }
    let app: App = cx.client().post(&cx.of_app(&app, &["scale"]), &Scale { components }).await?;
    cx.terminal.answer(&app, |_| line(&app.scale))
}

/// What the release says, and where somebody has said otherwise since.
async fn asked_now(cx: &Cx, app: &App) -> Result<BTreeMap<ComponentName, u32>, Failure> {
    let mut all = BTreeMap::new();
    if let Some(live) = &app.live {
        let target = cx.org(&["releases", &live.release.to_string()]);
        let release: Release = cx.client().get(&target).await?;
        let stays = release.components.iter().filter(|one| one.kind != "job");
        all.extend(stays.map(|one| (one.name.clone(), one.instances)));
    }
    all.extend(app.scale.clone());
    Ok(all)
}

fn line(scale: &BTreeMap<ComponentName, u32>) -> String {
    let parts: Vec<_> = scale.iter().map(|(name, count)| format!("{name}={count}")).collect();
    format!("{}\n", parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_a_name_and_a_number() {
        let (name, count) = parse("web=3").unwrap();
        assert_eq!((name.as_str(), count), ("web", 3));
        for wrong in ["web", "web=", "web=x", "web=-1", "Web=1", "=1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
