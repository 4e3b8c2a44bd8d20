//! An app as a program sees it: through the API, with the operator's token.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::http::Answer;
use crate::machine::{Machine, wait_for};
use crate::story::MOMENT;

/// Builds that fetch packages take longer than a moment.
pub const BUILD_TIME_MAX: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct App<'m> {
    machine: &'m Machine,
    org: String,
    pub id: String,
    pub url: String,
}

/// The object in a good answer.
pub fn good(answer: &Answer) -> Result<Value> {
    let text = answer.text();
    ensure!((200..300).contains(&answer.status), "status {}: {text}", answer.status);
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text:?}"))
}

/// The status, the stable code and the whole text of a refusal.
pub fn refusal(answer: &Answer) -> Result<(u16, String, String)> {
    let text = answer.text();
    ensure!(answer.status >= 400, "it was not refused: {} {text}", answer.status);
    let problem: Value =
        serde_json::from_str(&text).with_context(|| format!("not a problem: {text:?}"))?;
    let code = problem["code"].as_str().with_context(|| format!("no code in {problem}"))?;
    Ok((answer.status, code.to_owned(), text.clone()))
}

impl<'m> App<'m> {
    pub fn find(machine: &'m Machine, name: &str) -> Result<Self> {
        Self::find_in(machine, "default", name)
    }

    pub fn find_in(machine: &'m Machine, org: &str, name: &str) -> Result<Self> {
        let listed = good(&machine.api("GET", &format!("/v1/orgs/{org}/apps"), None)?)?;
        let items = listed["items"].as_array().context("a page")?;
        let found = items.iter().find(|app| app["name"] == name);
        Self::of(machine, org, found.with_context(|| format!("no app {name} in {listed}"))?)
    }

    pub fn create(machine: &'m Machine, name: &str) -> Result<Self> {
        let body = json!({"name": name, "project": "default", "environment": "production"});
        let made = good(&machine.api("POST", "/v1/orgs/default/apps", Some(&body))?)?;
        Self::of(machine, "default", &made)
    }

    fn of(machine: &'m Machine, org: &str, app: &Value) -> Result<Self> {
        let text = |key: &str| {
            let found = app[key].as_str().map(str::to_owned);
            found.with_context(|| format!("no {key} in {app}"))
        };
        Ok(Self {
            machine,
            org: org.to_owned(),
            id: text("id")?,
            url: app["url"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// A request to something of the org.
    pub fn of_org(&self, method: &str, rest: &str, body: Option<&Value>) -> Result<Answer> {
        self.machine.api(method, &format!("/v1/orgs/{}/{rest}", self.org), body)
    }

    /// A request to something of the app.
    pub fn ask(&self, method: &str, rest: &str, body: Option<&Value>) -> Result<Answer> {
        self.of_org(method, &format!("apps/{}/{rest}", self.id), body)
    }

    pub fn get(&self, rest: &str) -> Result<Value> {
        good(&self.ask("GET", rest, None)?).with_context(|| rest.to_owned())
    }

    pub fn post(&self, rest: &str, body: &Value) -> Result<Value> {
        good(&self.ask("POST", rest, Some(body))?).with_context(|| rest.to_owned())
    }

    pub fn list(&self, rest: &str) -> Result<Vec<Value>> {
        let page = self.get(rest)?;
        Ok(page["items"].as_array().with_context(|| format!("not a page: {page}"))?.clone())
    }

    /// Sends an archive as the source of a deployment.
    pub fn send_archive(&self, media_type: &str, archive: &[u8]) -> Result<Answer> {
        let path = format!("/v1/orgs/{}/apps/{}/deployments/archive", self.org, self.id);
        self.machine.api_bytes("POST", &path, media_type, archive)
    }

    /// Waits for the end of a deployment.
    pub fn verdict(&self, deployment: &Value) -> Result<Value> {
        let id = deployment["id"].as_str().or(deployment["deployment"].as_str());
        let id = id.with_context(|| format!("no id in {deployment}"))?.to_owned();
        let mut last = Value::Null;
        wait_for(&format!("the end of {id}"), BUILD_TIME_MAX, || {
            last = good(&self.of_org("GET", &format!("deployments/{id}"), None)?)?;
            Ok(last["done"] == true)
        })
        .with_context(|| last.to_string())?;
        Ok(last)
    }

    pub fn roll_back(&self, number: u32) -> Result<Value> {
        let deployment = self.post("rollback", &json!({"number": number}))?;
        self.verdict(&deployment)
    }

    /// Runs a job, or a command, to its end.
    pub fn run(&self, component: &str, command: Option<&[&str]>) -> Result<Value> {
        let mut body = json!({"component": component});
        if let Some(command) = command {
            body["command"] = json!(command);
        }
        let run = self.post("runs", &body)?;
        let id = run["id"].as_str().context("id of a run")?.to_owned();
        let mut last = Value::Null;
        wait_for(&format!("the end of {id}"), MOMENT, || {
            last = good(&self.of_org("GET", &format!("runs/{id}"), None)?)?;
            Ok(last["done"] == true)
        })
        .with_context(|| last.to_string())?;
        Ok(last)
    }

    /// The lines that a selection of the app's logs holds.
    pub fn log(&self, query: &str) -> Result<Vec<String>> {
        let lines = self.list(&format!("logs?tail=10000{query}"))?;
        Ok(lines.iter().filter_map(|l| l["line"].as_str().map(str::to_owned)).collect())
    }

    pub fn wait_log(&self, text: &str) -> Result<()> {
        let mut last = Vec::new();
        wait_for(&format!("`{text}` in the log"), MOMENT, || {
            last = self.log("")?;
            Ok(last.iter().any(|line| line.contains(text)))
        })
        .with_context(|| format!("{last:?}"))
    }

    pub fn events(&self) -> Result<Vec<Value>> {
        let page = good(&self.of_org("GET", &format!("events?app={}", self.id), None)?)?;
        Ok(page["items"].as_array().with_context(|| format!("not a page: {page}"))?.clone())
    }

    /// Waits for an event of this type and returns it.
    pub fn event(&self, kind: &str) -> Result<Value> {
        let mut found = None;
        wait_for(&format!("an event {kind}"), MOMENT, || {
            found = self.events()?.into_iter().find(|event| event["type"] == kind);
            Ok(found.is_some())
        })
        .with_context(|| format!("{:?}", self.events()))?;
        found.context("an event")
    }

    /// The reasons for something, as one text.
    pub fn why(&self, subject: &str) -> Result<String> {
        let why = good(&self.of_org("GET", &format!("why?subject={subject}"), None)?)?;
        match why["summary"].as_str() {
            Some(_) => Ok(why.to_string()),
            None => bail!("no summary in {why}"),
        }
    }

    pub fn visit(&self, path: &str) -> Result<Answer> {
        self.machine.visit(&self.url, path)
    }

    /// Waits until a path answers like this.
    pub fn wait_answer(&self, path: &str, wanted: &str) -> Result<()> {
        let mut last = String::new();
        wait_for(&format!("{path} answers {wanted:?}"), MOMENT, || {
            let answer = self.visit(path);
            // A page of the gateway's own may hold any word.
            let good = answer.as_ref().is_ok_and(|a| a.status == 200);
            last = answer.map_or_else(|error| format!("{error:#}"), |a| a.text());
            Ok(good && last.contains(wanted))
        })
        .with_context(|| format!("it answers {last:?}"))
    }
}
