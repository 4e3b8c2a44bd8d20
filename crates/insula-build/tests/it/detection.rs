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

#[test]
fn python_without_a_command_is_started_as_its_framework_is() {
    check(
        &[("requirements.txt", "Flask==3\ngunicorn\n"), ("app.py", "shop = Flask(__name__)\n")],
        expect![[r#"
            web: service on python at /
              $ gunicorn --bind 0.0.0.0:$PORT app:shop
            build: make a virtual environment (python): ["python3", "-m", "venv", "/app/.venv"]
            build: install packages (python): ["/app/.venv/bin/pip", "install", "--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip", "-r", "requirements.txt"]
        "#]],
    );
    check(
        &[("requirements.txt", "fastapi[standard]\n"), ("app/main.py", "api = FastAPI()\n")],
        expect![[r#"
            web: service on python at /
              $ uvicorn --host 0.0.0.0 --port $PORT app.main:api
            build: make a virtual environment (python): ["python3", "-m", "venv", "/app/.venv"]
            build: install packages (python): ["/app/.venv/bin/pip", "install", "--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip", "-r", "requirements.txt"]
        "#]],
    );
    check(
        &[("requirements.txt", "flask\n"), ("main.py", "app = Flask(__name__)\n")],
        expect![[r#"
            web: service on python at /
              $ flask --app main:app run --host 0.0.0.0 --port $PORT
            build: make a virtual environment (python): ["python3", "-m", "venv", "/app/.venv"]
            build: install packages (python): ["/app/.venv/bin/pip", "install", "--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip", "-r", "requirements.txt"]
            warning: this runs Flask's development server; add gunicorn to the requirements
        "#]],
    );
    check(
        &[
            ("requirements.txt", "django\ngunicorn\n"),
            ("manage.py", ""),
            ("shop/wsgi.py", ""),
            (".python-version", "# pinned\n3.14\n"),
        ],
        expect![[r#"
            web: service on python at /
              $ gunicorn --bind 0.0.0.0:$PORT shop.wsgi
            build: make a virtual environment (python): ["python3", "-m", "venv", "/app/.venv"]
            build: install packages (python): ["/app/.venv/bin/pip", "install", "--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip", "-r", "requirements.txt"]
            warning: Django: `migrate` and `collectstatic` are not run yet; run them by hand for now
            warning: .python-version asks for python 3.14; the one that is installed is used
        "#]],
    );
    check(
        &[("main.py", "print()"), ("runtime.txt", "python-3.11.4")],
        expect![[r#"
        web: service on python at /
          $ python3 main.py
        warning: runtime.txt asks for python 3.11.4; the one that is installed is used
    "#]],
    );
}

#[test]
fn pyproject_is_installed_as_what_it_is() {
    let main = ("main.py", "");
    check(
        &[
            main,
            (
                "pyproject.toml",
                "[project]\nname='a'\ndependencies=['flask>=3', 'x; python_version>\"3\"']\n",
            ),
            ("uv.lock", ""),
        ],
        expect![[r#"
            web: service on python at /
              $ python3 main.py
            build: make a virtual environment (python): ["python3", "-m", "venv", "/app/.venv"]
            build: install packages (python): ["/app/.venv/bin/pip", "install", "--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip", "flask>=3", "x; python_version>\"3\""]
            warning: uv.lock is not read yet; pip chooses the versions
        "#]],
    );
    check(
        &[(
            "pyproject.toml",
            "[build-system]\nrequires=[]\n[project]\nname='a'\n[project.scripts]\nserve='a:b'\n",
        )],
        expect![[r#"
            web: service on python at /
              $ serve
            build: make a virtual environment (python): ["python3", "-m", "venv", "/app/.venv"]
            build: install packages (python): ["/app/.venv/bin/pip", "install", "--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip", "."]
        "#]],
    );
    check(
        &[main, ("pyproject.toml", "[tool.ruff]\n")],
        expect![[r#"
        web: service on python at /
          $ python3 main.py
    "#]],
    );
    check(
        &[main, ("pyproject.toml", "[project]\ndependencies=['--index-url=http://evil']\n")],
        expect![[r#"
            pyproject.toml: project.dependencies: `--index-url=http://evil` is not a requirement
              fix: write it as in "flask>=3"
        "#]],
    );
    check(
        &[main, ("pyproject.toml", "[tool.poetry.dependencies]\nflask='*'\n")],
        expect![[r#"
        pyproject.toml: tool.poetry.dependencies: the packages are listed for Poetry, which is not available yet
          fix: list them in [project] dependencies, or in a requirements.txt
    "#]],
    );
    check(
        &[main, ("pyproject.toml", "[project\n")],
        expect![[r#"
        pyproject.toml:1: not TOML: unclosed table, expected `]`
          fix: correct the line
    "#]],
    );
}

#[test]
fn node_is_installed_and_built() {
    check(
        &[
            (
                "package.json",
                r#"{"scripts":{"start":"next start","build":"next build"},"dependencies":{"next":"1"},"devDependencies":{"a":"1"},"engines":{"node":"20.x"}}"#,
            ),
            ("package-lock.json", "{}"),
        ],
        expect![[r#"
            web: service on node at /
              $ next start
            build: install packages (node): ["npm", "ci", "--include=dev", "--no-audit", "--no-fund", "--cache", "/cache/npm"]
            build: build (node): ["npm", "run", "build"]
            build: leave out packages for development (node): ["npm", "prune", "--omit=dev", "--no-audit", "--no-fund", "--cache", "/cache/npm"]
            warning: package.json asks for node 20.x; the one that is installed is used
        "#]],
    );
    check(
        &[
            ("package.json", r#"{"main":"src/it's.js","dependencies":{"a":"1"}}"#),
            ("src/it's.js", ""),
            ("yarn.lock", ""),
        ],
        expect![[r#"
            web: service on node at /
              $ node 'src/it'\''s.js'
            build: install packages (node): ["npm", "install", "--omit=dev", "--no-audit", "--no-fund", "--cache", "/cache/npm"]
            warning: yarn.lock is not read yet; npm chooses the versions
        "#]],
    );
    check(
        &[("package.json", r#"{"scripts":{"start":"node a","prestart":"node b"}}"#)],
        expect![[r#"
            web: service on node at /
              $ npm start
        "#]],
    );
    check(
        &[
            (
                "package.json",
                r#"{"scripts":{"start":"vite","build":"vite build"},"devDependencies":{"vite":"5"}}"#,
            ),
            ("index.html", ""),
        ],
        expect![[r#"
            web: static on files in dist at /
            build: install packages (node): ["npm", "install", "--include=dev", "--no-audit", "--no-fund", "--cache", "/cache/npm"]
            build: build (node): ["npm", "run", "build"]
            warning: this is taken for a static site: it is built, and `dist` is served; paths that are no files answer 404
        "#]],
    );
    check(
        &[("server.js", "")],
        expect![[r#"
        web: service on node at /
          $ node server.js
    "#]],
    );
    check(
        &[("package.json", "{}"), ("index.html", "")],
        expect![[r#"
        web: static on files at /
    "#]],
    );
    check(
        &[("package.json", "{\n\"scripts\": }")],
        expect![[r#"
        package.json:2: not JSON: expected value at line 2 column 12
          fix: correct the line
    "#]],
    );
    check(
        &[("package.json", r#"{"scripts":{"start":1},"dependencies":{}}"#)],
        expect![[r#"
        package.json: scripts.start: this is no text
          fix: write a command
    "#]],
    );
}

#[test]
fn static_sites_are_found() {
    check(
        &[("public/index.html", ""), ("README.md", "")],
        expect![[r#"
        web: static on files in public at /
    "#]],
    );
    check(
        &[("index.html", ""), ("index.js", "")],
        expect![[r#"
        web: static on files at /
    "#]],
    );
    check(
        &[("Staticfile", "root: site\npushstate: enabled\n"), ("site/a.html", "")],
        expect![[r#"
            web: static on files in site at /
            warning: Staticfile: `pushstate` is not honoured; only `root` is
        "#]],
    );
    check(
        &[("Staticfile", "root: ../x\n")],
        expect![[r#"
        Staticfile:1: root: there is no folder `../x`
          fix: name a folder that is there
    "#]],
    );
}

#[test]
fn folders_made_for_stratus_run_unchanged() {
    check(
        &[("stratus_init.sh", "#!/bin/bash\npython app.py\n"), ("requirements.txt", "flask")],
        expect![[r#"
            web: service on host at /
              $ chmod +x ./stratus_init.sh; exec ./stratus_init.sh
        "#]],
    );
    check(
        &[("stratus_init.sh", "python app.py\n")],
        expect![[r#"
        web: service on host at /
          $ exec sh ./stratus_init.sh
    "#]],
    );
    check(
        &[("stratus_init.sh", "#!/bin/sh\r\npython app.py\r\n")],
        expect![[r#"
        web: service on host at /
          $ chmod +x ./stratus_init.sh; exec ./stratus_init.sh
        warning: stratus_init.sh has the line ends of Windows; its first line may not be understood
    "#]],
    );
    check(
        &[("stratus_init.sh", "#!/bin/sh\n"), ("Procfile", "web: ./a")],
        expect![[r#"
        web: service on host at /
          $ ./a
        warning: stratus_init.sh is not run: there is a Procfile
    "#]],
    );
}

#[test]
fn a_procfile_says_what_runs() {
    check(
        &[
            (
                "Procfile",
                "web: bin/serve\nrelease: ./migrate\nBig_Worker: node w.js\ncron1: 0 * * * * ./tick\nwsgi: app:app\ncustom: echo -n\n",
            ),
            ("requirements.txt", "flask"),
            ("package.json", r#"{"dependencies":{"a":"1"}}"#),
            ("Dockerfile", ""),
            ("app.json", "{}"),
        ],
        expect![[r#"
            big-worker: worker on node
              $ node w.js
            custom: worker on host
              $ echo -n
            web: service on host at /
              $ bin/serve
            build: make a virtual environment (python): ["python3", "-m", "venv", "/app/.venv"]
            build: install packages (python): ["/app/.venv/bin/pip", "install", "--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip", "-r", "requirements.txt"]
            build: install packages (node): ["npm", "install", "--omit=dev", "--no-audit", "--no-fund", "--cache", "/cache/npm"]
            warning: app.json is not read yet; nothing in it has an effect
            warning: Dockerfile is not read yet; nothing in it has an effect
            warning: Procfile:2: `release` is not run yet; run it by hand for now
            warning: Procfile:3: `Big_Worker` is called `big-worker` here
            warning: Procfile:4: schedules are not available yet; `cron1` is not run
            warning: Procfile:5: `wsgi` is a kind of Piku's and is not run
        "#]],
    );
    check(
        &[("Procfile", "a_b: x\na-b: y\n1st: z\n")],
        expect![[r#"
        Procfile:2: a-b: `a-b` has the same name as line 1: `a-b`
          fix: choose names that differ in more than case and _
        Procfile:3: 1st: `1st` is not a name for a component: use 1 to 40 of a-z, 0-9 and single hyphens, beginning with a letter, not ending with a hyphen
          fix: rename it
    "#]],
    );
    check(
        &[("Procfile", "release: x\n")],
        expect![[r#"
        Procfile: there is no process to run in it
          fix: add a line as in `web: ./serve --port $PORT`
    "#]],
    );
    check(
        &[("Procfile", "<<<<<<< HEAD\nweb: a\n")],
        expect![[r#"
        Procfile:1: `<<<<<<< HEAD` was left behind by a merge
          fix: resolve the conflict
    "#]],
    );
}

#[test]
fn what_is_not_recognised_is_told_what_was_looked_for() {
    check(
        &[("README.md", "hello")],
        expect![[r#"
        nothing here says what to run. Looked for: insula.toml, Procfile, stratus_init.sh, requirements.txt, pyproject.toml, package.json, main.py and app.py and the like, server.js, Staticfile, index.html, public/index.html
          fix: say it in a Procfile, as in `web: ./serve --port $PORT`
    "#]],
    );
    check(
        &[("go.mod", ""), ("Dockerfile", ""), ("web/package.json", "{}")],
        expect![[r#"
        nothing here says what to run; go.mod (Go) is not understood yet; Dockerfile is not read yet. Looked for: insula.toml, Procfile, stratus_init.sh, requirements.txt, pyproject.toml, package.json, main.py and app.py and the like, server.js, Staticfile, index.html, public/index.html
          fix: deploy the folder `web`, or say in a Procfile what to run
    "#]],
    );
    check(
        &[("requirements.txt", "flask"), ("lib/x.py", "")],
        expect![[r#"
        nothing here says what to run; there are Python packages, but none of main.py, app.py, start.py, bot.py, hello.py, server.py. Looked for: insula.toml, Procfile, stratus_init.sh, requirements.txt, pyproject.toml, package.json, main.py and app.py and the like, server.js, Staticfile, index.html, public/index.html
          fix: say it in a Procfile, as in `web: ./serve --port $PORT`
    "#]],
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    use insula_build::{SourceFile, SourceView};
    let listed = |size| SourceFile { path: "insula.toml".into(), size, executable: false };
    let mut view = SourceView::new([listed(2)]);
    view.put("insula.toml", vec![0xff, 0xfe]);
    expect![[r#"
        insula.toml: this is not UTF-8 text
          fix: save it as UTF-8
    "#]]
    .assert_eq(&outcome(detect(&view)));
    let view = SourceView::new([listed(1 << 30)]);
    assert!(view.wanted().is_empty());
    expect![[r#"
        insula.toml: 1GiB is more than the 512KiB it may have
          fix: shorten it
    "#]]
    .assert_eq(&outcome(detect(&view)));
    expect![[r#"
        insula.toml: this cannot be read: it is a link, or too deep
          fix: put the file itself there
    "#]]
    .assert_eq(&outcome(detect(&SourceView::new([listed(10)]))));
}

#[test]
fn every_key_of_insula_toml_has_its_effect() {
    check(
        &[(
            "insula.toml",
            r#"
schema = 1
app = "shop"
[components.web]
kind = "service"
build = { runtime = "host" }
run = " ./serve "
root = "./"
port = 3000
instances = 2
cpu = 1
memory = "1GiB"
pids = 50
disk = "10MiB"
routes = [{ path = "/" }, { path = "/api/", preserve = true }]
health = { path = "/healthz?x=1", startup = "2m", interval = "1s", timeout = "500ms" }
liveness = { path = "/livez", interval = "10s", failures = 5 }
isolation = "standard"
rollout = { strategy = "rolling", unavailable = 1 }
drain = "5s"
stop = { signal = "INT", grace = "1m" }
[components.web.variables]
API_KEY = "hunter2"
[components.one]
kind = "worker"
run = "x"
single = true
failover = "lease"
placement = { pool = "gpu", zones = ["north"], labels = { disk = "ssd" } }
[[components.docs.routes]]
path = "/docs"
[components.docs]
kind = "static"
"#,
        )],
        expect![[r#"
            app shop
            docs: static on files at /docs
            one: worker on host
              $ x
              single true, failover lease, placement PlacementSpec { pool: Some(PoolName("gpu")), zones: {ZoneName("north")}, labels: {LabelName("disk"): LabelValue("ssd")}, architecture: None }
            web: service on host at / at /api (kept)
              $ ./serve
              port 3000, instances 2, cpu 1, memory 1GiB, pids 50, disk 10MiB, rollout Rolling { surge: 0, unavailable: 1 }, drain 5s, stop StopSpec { signal: Int, grace: Millis(60000) }, health HealthSpec { path: Some("/healthz?x=1"), startup: Millis(120000), interval: Millis(1000), timeout: Millis(500) }, liveness Some(LivenessSpec { path: "/livez", interval: Millis(10000), timeout: Millis(3000), failures: 5 }), variables {VariableName("API_KEY"): "hunter2"}
        "#]],
    );
}

#[test]
fn what_insula_toml_leaves_out_is_found() {
    let main = ("web/main.py", "");
    check(
        &[("insula.toml", ""), ("Procfile", "web: ./x")],
        expect![[r#"
        web: service on host at /
          $ ./x
    "#]],
    );
    check(
        &[("insula.toml", "app = \"a\"\n"), ("index.html", "")],
        expect![[r#"
        app a
        web: static on files at /
    "#]],
    );
    check(
        &[("insula.toml", "[components.web]\nroot='web'\n"), main],
        expect![[r#"
        web: service on python in web at /
          $ python3 main.py
    "#]],
    );
    check(
        &[
            ("insula.toml", "[components.clock]\nkind='worker'\n[components.web]\n"),
            ("Procfile", "clock: ./tick\nweb: node x\n"),
        ],
        expect![[r#"
            clock: worker on host
              $ ./tick
            web: service on node at /
              $ node x
        "#]],
    );
    check(
        &[
            (
                "insula.toml",
                "[components.site]\nkind='static'\nroot='dist'\nbuild={runtime='node'}\n",
            ),
            ("package.json", r#"{"scripts":{"build":"x"},"devDependencies":{"y":"1"}}"#),
        ],
        expect![[r#"
            site: static on files in dist at /
            build: install packages (node): ["npm", "install", "--include=dev", "--no-audit", "--no-fund", "--cache", "/cache/npm"]
            build: build (node): ["npm", "run", "build"]
        "#]],
    );
    check(
        &[("insula.toml", "[components.site]\n"), ("index.html", "")],
        expect![[r#"
        site: static on files at /
    "#]],
    );
    // Two components of one folder install it once.
    check(
        &[
            (
                "insula.toml",
                "[components.a]\nrun='python3 a.py'\n[components.b]\nkind='worker'\nrun='python3 b.py'\n",
            ),
            ("requirements.txt", "flask"),
        ],
        expect![[r#"
            a: service on python at /
              $ python3 a.py
            b: worker on python
              $ python3 b.py
            build: make a virtual environment (python): ["python3", "-m", "venv", "/app/.venv"]
            build: install packages (python): ["/app/.venv/bin/pip", "install", "--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip", "-r", "requirements.txt"]
        "#]],
    );
}

#[test]
fn every_mistake_in_insula_toml_is_told_at_once() {
    check(
        &[(
            "insula.toml",
            r#"
schema = 2
app = "My App"
colour = "red"
[componets.x]
[components.web]
kind = "servce"
command = "x"
run = ["a", "b"]
root = "../x"
port = 0
instances = 0
cpu = "half"
memory = 512
pids = 1
disk = "100GiB"
routes = [{ path = "a" }, { path = "/b%20" }, { paht = "/" }, { path = "/a//b" }]
health = { path = "healthz", startup = "0s", retries = 2 }
liveness = { interval = "1ms" }
single = "yes"
failover = "maybe"
rollout = { strategy = "rolling", surge = 0 }
placement = { zones = "north", labels = { "a b" = "x" }, architecture = "z80" }
isolation = "gvisor"
drain = "fast"
stop = { signal = "KILL", grace = 30 }
image = "ghcr.io/acme/shop"
build = { dockerfile = "Dockerfile", runtime = "ruby" }
[components.web.variables]
PORT = "1"
INSULA_APP = "x"
"A-B" = "x"
COUNT = 3
[components.Bad_Name]
run = "x"
[components.list]
run = "x"
routes = "/x"
cpu = nan
isolation = "strong"
stop = 1
"#,
        )],
        expect![[r#"
            insula.toml:2: schema: 2 is not possible
              fix: write the version of this format, `schema = 1`
            insula.toml:3: app: `My App` is not a name for an app: use 1 to 40 of a-z, 0-9 and single hyphens, beginning with a letter, not ending with a hyphen
              fix: write it as in `app = "shop"`
            insula.toml:4: colour: there is no such key
              fix: leave it out; known are schema, app, components
            insula.toml:5: componets: there is no such key
              fix: did you mean `components`?
            insula.toml:7: components.web.kind: `servce` is not one of service, worker, job, static
              fix: did you mean `service`?
            insula.toml:8: components.web.command: there is no such key
              fix: did you mean `run`?
            insula.toml:9: components.web.run: this is a list; it should be text
              fix: write it as in `run = "python3 main.py"`
            insula.toml:10: components.web.root: `../x` is not a folder of the source
              fix: write a path below the top, as in `services/web`
            insula.toml:11: components.web.port: 0 is not possible
              fix: write a port from 1 to 65535
            insula.toml:12: components.web.instances: 0 is not possible
              fix: write a number of instances from 1 to 250
            insula.toml:13: components.web.cpu: this is text; it should be a number
              fix: write it as in `cpu = 0.5`
            insula.toml:14: components.web.memory: this is a whole number; it should be text
              fix: write it as in `memory = "256MiB"`
            insula.toml:15: components.web.pids: 1 is not possible
              fix: write a number of processes from 4 to 32768
            insula.toml:16: components.web.disk: 100GiB is not possible
              fix: write a size from 1MiB to 64GiB
            insula.toml:17: components.web.routes[2].paht: there is no such key
              fix: did you mean `path`?
            insula.toml:17: components.web.routes[0].path: `a` is not a route: it does not begin with `/`
              fix: write a path as in `/` or `/assets`
            insula.toml:17: components.web.routes[1].path: `/b%20` is not a route: it holds a character that is not compared literally
              fix: write a path as in `/` or `/assets`
            insula.toml:17: components.web.routes: a route has no path
              fix: write `{ path = "/" }`
            insula.toml:17: components.web.routes[3].path: `/a//b` is not a route: one of its parts is empty or made of dots
              fix: write a path as in `/` or `/assets`
            insula.toml:18: components.web.health.retries: there is no such key
              fix: leave it out; known are path, startup, interval, timeout
            insula.toml:18: components.web.health.startup: 0s is not possible
              fix: write a span of time from 1s to 1h
            insula.toml:18: components.web.health.path: `healthz` is not a path to ask for
              fix: write a path as in `/healthz`
            insula.toml:19: components.web.liveness.interval: 1ms is not possible
              fix: write a span of time from 100ms to 10m
            insula.toml:19: components.web.liveness: a liveness probe has no path
              fix: write it as in `liveness = { path = "/livez" }`
            insula.toml:20: components.web.single: this is text; it should be true or false
              fix: write it as in `single = true`
            insula.toml:21: components.web.failover: `maybe` is not one of never, lease
              fix: write one of never, lease
            insula.toml:22: components.web.rollout: with neither `surge` nor `unavailable` nothing can move
              fix: allow one of them: `surge = 1`
            insula.toml:23: components.web.placement.zones: this is text; it should be a list of texts
              fix: write it as in `zones = ["north", "south"]`
            insula.toml:23: components.web.placement.labels.a b: `a b` is not a name for a label: use 1 to 63 of a-z, A-Z, 0-9, `.`, `_`, `-` and `/`, beginning and ending with a letter or digit
              fix: choose another name
            insula.toml:23: components.web.placement.architecture: `z80` is not one of x86_64, aarch64
              fix: write one of x86_64, aarch64
            insula.toml:24: components.web.isolation: the isolation `gvisor` is not available yet; it comes later
              fix: write "standard", or leave it out
            insula.toml:25: components.web.drain: `fast` is not a span of time: write a whole number and ms, s, m or h, as in 15s
              fix: write it as in `drain = "15s"`
            insula.toml:26: components.web.stop.signal: `KILL` is not one of TERM, INT, QUIT, HUP, USR1, USR2
              fix: write one of TERM, INT, QUIT, HUP, USR1, USR2
            insula.toml:26: components.web.stop.grace: this is a whole number; it should be text
              fix: write it as in `grace = "30s"`
            insula.toml:27: components.web.image: running an image is not available yet; it comes later
              fix: leave it out, and let `build = { runtime = "python" }` or `run` say what to start
            insula.toml:28: components.web.build.dockerfile: building from a Dockerfile is not available yet; it comes later
              fix: write `build = { runtime = "python" }` or "node", or leave `build` out
            insula.toml:28: components.web.build.runtime: `ruby` is not one of python, node, files, host
              fix: write one of python, node, files, host
            insula.toml:30: components.web.variables.PORT: `PORT` is set by the platform
              fix: write `port = …` instead
            insula.toml:31: components.web.variables.INSULA_APP: `INSULA_APP` is set by the platform
              fix: choose another name
            insula.toml:32: components.web.variables.A-B: `A-B` is not a name for a variable: use letters, digits and _, not beginning with a digit, 128 characters at most
              fix: choose another name
            insula.toml:33: components.web.variables.COUNT: this is a whole number; it should be text
              fix: write it as in `COUNT = "…"`
            insula.toml:34: components.Bad_Name: `Bad_Name` is not a name for a component: use 1 to 40 of a-z, 0-9 and single hyphens, beginning with a letter, not ending with a hyphen
              fix: write it as in `[components.web]`
            insula.toml:38: components.list.routes: this is text; it should be a list of tables
              fix: write it as in `routes = [{ path = "/" }]`
            insula.toml:39: components.list.cpu: NaN is not possible
              fix: write a number of cores from 0.01 to 256
            insula.toml:40: components.list.isolation: `strong` is not an isolation
              fix: write "standard", or leave it out
            insula.toml:41: components.list.stop: this is a whole number; it should be a table
              fix: write it as in `stop = { signal = "TERM", grace = "30s" }`
        "#]],
    );
}

#[test]
fn rules_that_look_at_several_keys_are_kept() {
    check(
        &[
            (
                "insula.toml",
                r#"
[components.a]
run = "x"
routes = [{ path = "/x" }, { path = "/x/" }]
[components.b]
run = "x"
routes = [{ path = "/x" }]
single = true
instances = 2
[components.job]
kind = "job"
run = "x"
routes = []
instances = 2
port = 1
[components.worker]
kind = "worker"
health = {}
[components.site]
kind = "static"
run = "x"
root = "nowhere"
[components.built]
kind = "static"
build = { runtime = "python" }
[components.site-built]
kind = "static"
build = { runtime = "node" }
[components.empty]
root = "docs"
[components.files]
kind = "worker"
build = { runtime = "files" }
run = "x"
[components.file]
root = "docs/a.md"
run = "x"
"#,
            ),
            ("docs/a.md", ""),
        ],
        expect![[r#"
            insula.toml:4: components.a.routes: the route `/x` stands here twice
              fix: keep one of them
            insula.toml:7: components.b.routes: the route `/x` belongs to `a` already
              fix: give each its own prefix; the longest that matches wins
            insula.toml:8: components.b.single: `single` means never two at once, and `instances` asks for more
              fix: leave out one of them
            insula.toml:13: components.job.routes: this means nothing here: a job runs when it is asked to, and has no port
              fix: leave it out, or choose another kind
            insula.toml:14: components.job.instances: this means nothing here: a job runs when it is asked to, and has no port
              fix: leave it out, or choose another kind
            insula.toml:15: components.job.port: this means nothing here: a job runs when it is asked to, and has no port
              fix: leave it out, or choose another kind
            insula.toml:16: components.worker: this worker has no command, and none was found
              fix: add `run = "…"`, a shell line
            insula.toml:18: components.worker.health: this means nothing here: a worker has no port
              fix: leave it out, or choose another kind
            insula.toml:21: components.site.run: this means nothing here: static files are served by the platform; nothing of yours runs
              fix: leave it out, or choose another kind
            insula.toml:22: components.site.root: there is no folder `nowhere` in the source
              fix: name a folder that is there and not left out by an ignore file
            insula.toml:25: components.built.build: static files are not built by `python`
              fix: write "files" or "node", or leave it out
            insula.toml:28: components.site-built.build: there is no package.json that says how to build it
              fix: add one, or leave `build` out
            insula.toml:29: components.empty: this service has no command, and none was found in `docs`
              fix: add `run = "…"`, a shell line
            insula.toml:33: components.files.build: a worker does not serve files
              fix: choose another runtime, or `kind = "static"`
            insula.toml:36: components.file.root: `docs/a.md` is a file
              fix: name a folder that is there and not left out by an ignore file
        "#]],
    );
}

#[test]
fn a_file_that_is_no_toml_is_told_where() {
    check(
        &[("insula.toml", "schema = 1\napp = \n")],
        expect![[r#"
        insula.toml:2: not TOML: string values must be quoted, expected literal string
          fix: correct the line
    "#]],
    );
    check(
        &[("insula.toml", "a = 1\na = 2\n")],
        expect![[r#"
        insula.toml:2: not TOML: duplicate key
          fix: correct the line
    "#]],
    );
    check(
        &[("insula.toml", "components = 3\n")],
        expect![[r#"
        insula.toml:1: components: this is a whole number; it should be a table
          fix: write it as in `[components.web]`
    "#]],
    );
    check(
        &[("insula.toml", "[[components]]\n")],
        expect![[r#"
        insula.toml:1: components: this is a list; it should be a table
          fix: write it as in `[components.web]`
    "#]],
    );
    check(
        &[("insula.toml", "components.web = 3\n")],
        expect![[r#"
        insula.toml:1: components.web: this is a whole number; it should be a table
          fix: write it as in `[components.web]`
    "#]],
    );
}

#[test]
fn what_is_beyond_the_limits_is_refused() {
    let long = "x".repeat(70_000);
    let many: String = (0..40).map(|n| format!("[components.c{n}]\nrun='x'\n")).collect();
    let routes: Vec<String> = (0..40).map(|n| format!("{{path='/{n}'}}")).collect();
    let routes = format!("[components.a]\nrun='x'\nroutes=[{}]\n", routes.join(","));
    let variables: String = (0..600).map(|n| format!("V{n}='x'\n")).collect();
    let variables = format!("[components.a]\nrun='x'\n[components.a.variables]\n{variables}");
    let value = format!("[components.a]\nrun='x'\n[components.a.variables]\nA='{long}'\n");
    let run = format!("[components.a]\nrun='{long}'\n");
    let deep = format!("a = {}1{}\n", "[".repeat(500), "]".repeat(500));
    for (text, told) in [
        (many, "40 components; an app has 32 at most"),
        (routes, "40 routes; 32 at most"),
        (variables, "600 variables; 512 at most"),
        (value, "the value is longer than 64KiB"),
        (run, "the command is longer than 8192 bytes"),
        (deep, "not TOML: cannot recurse further"),
    ] {
        let seen = seen(&[("insula.toml", &text)]);
        assert!(seen.contains(told), "{seen}");
    }
    let unknown: String = (0..500).map(|n| format!("k{n} = 1\n")).collect();
    let text = seen(&[("insula.toml", &unknown)]);
    assert_eq!(text.matches("there is no such key").count(), 50);
    assert!(text.trim_end().ends_with("and 150 more"), "{text}");
}
