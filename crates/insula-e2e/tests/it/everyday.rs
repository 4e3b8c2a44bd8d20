//! What happens on a good day.

use anyhow::{Result, ensure};
use insula_e2e::machine::Machine;
use insula_e2e::{folder, story};

#[test]
fn a_static_folder_becomes_a_url_and_a_change_becomes_live() -> Result<()> {
    let machine = Machine::start()?;
    let site =
        folder::with(&[("index.html", "<h1>one</h1>"), ("css/a.css", "h1{}"), (".env", "no")])?;
    let deployed = machine.deploy(site.path(), "site")?;
    ensure!(deployed["state"] == "live", "{deployed}");
    let url = story::url(&deployed)?;
    ensure!(machine.visit(&url, "/")?.text() == "<h1>one</h1>");
    ensure!(
        machine.visit(&url, "/css/a.css")?.header("content-type")
            == Some("text/css; charset=utf-8")
            || machine.visit(&url, "/css/a.css")?.header("content-type") == Some("text/css")
    );
    ensure!(machine.visit(&url, "/.env")?.status == 404, "dotfiles are never served");
    ensure!(machine.visit(&url, "/../../etc/passwd")?.status != 200);
    folder::write(site.path(), "index.html", "<h1>two</h1>")?;
    machine.deploy(site.path(), "site")?;
    ensure!(machine.visit(&url, "/")?.text() == "<h1>two</h1>");
    machine.json(&["rollback", "v1", "--app", "site", "--yes"])?;
    ensure!(machine.visit(&url, "/")?.text() == "<h1>one</h1>");
    let stranger =
        machine.visit(&format!("http://nobody.localhost:{}/", machine.edge.port()), "/")?;
    ensure!(stranger.status == 404 && stranger.header("x-request-id").is_some(), "{stranger:?}");
    Ok(())
}
