//! What detection makes of a source.

use expect_test::{Expect, expect};
use insula_build::detect;

use crate::show::{example, outcome, seen};

fn check_example(name: &str, expected: Expect) {
    expected.assert_eq(&outcome(detect(&example(name))));
}

fn check(files: &[(&str, &str)], expected: Expect) {
    expected.assert_eq(&seen(files));
}

#[test]
fn example_static() {
    check_example(
        "static",
        expect![[r#"
        web: static on files at /
    "#]],
    );
}

#[test]
fn example_python() {
    check_example(
        "python",
        expect![[r#"
        web: service on python at /
          $ python3 main.py
    "#]],
    );
}

#[test]
fn example_python_flask() {
    check_example(
        "python-flask",
        expect![[r#"
        web: service on python at /
          $ gunicorn --bind 0.0.0.0:$PORT --access-logfile - app:app
        build: make a virtual environment (python): ["python3", "-m", "venv", "/app/.venv"]
        build: install packages (python): ["/app/.venv/bin/pip", "install", "--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip", "-r", "requirements.txt"]
    "#]],
    );
}

#[test]
fn example_node() {
    check_example(
        "node",
        expect![[r#"
        web: service on node at /
          $ node server.js
    "#]],
    );
}

#[test]
fn example_node_express() {
    check_example(
        "node-express",
        expect![[r#"
        web: service on node at /
          $ node server.js
        build: install packages (node): ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--cache", "/cache/npm"]
    "#]],
    );
}

#[test]
fn example_worker() {
    check_example(
        "worker",
        expect![[r#"
        worker: worker on python
          $ python3 worker.py
    "#]],
    );
}

#[test]
fn example_job() {
    check_example(
        "job",
        expect![[r#"
        app job
        report: job on python
          $ python3 report.py
          memory 64MiB, variables {VariableName("ORDERS"): "orders.csv"}
    "#]],
    );
}

#[test]
fn example_multi() {
    check_example(
        "multi",
        expect![[r#"
        app multi
        assets: static on files in assets at /assets
        beat: worker on python in beat
          $ python3 main.py
          memory 64MiB, variables {VariableName("WEB_URL"): "http://web:8080"}
        web: service on python in web at /
          $ python3 main.py
          health HealthSpec { path: Some("/healthz"), startup: Millis(60000), interval: Millis(5000), timeout: Millis(3000) }
    "#]],
    );
}

#[test]
fn an_empty_folder_is_refused() {
    check(
        &[],
        expect![[r#"
        the folder is empty
          fix: deploy a folder with an index.html, a main.py, a package.json or a Procfile
    "#]],
    );
}
