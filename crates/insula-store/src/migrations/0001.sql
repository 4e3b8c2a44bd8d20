-- Format 1. Types are INTEGER, TEXT and BLOB; times are milliseconds since 1970; flags are 0 or 1.
-- `doc` is a versioned document of the model; the columns beside it are what queries look for.

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
-- `feed`: the last position given. `feed_trimmed`: the last position forgotten. `event`: likewise.
INSERT INTO counters (name, value) VALUES ('feed', 0), ('feed_trimmed', 0), ('event', 0);

-- One row for each thing that ever changed: where in the order of commits it did so last.
CREATE TABLE feed (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    seq INTEGER NOT NULL UNIQUE,
    PRIMARY KEY (kind, id)
);

CREATE TABLE orgs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    memory INTEGER NOT NULL,
    cpu INTEGER NOT NULL,
    builds_at_once INTEGER NOT NULL,
    releases_kept INTEGER NOT NULL,
    log_rate INTEGER NOT NULL,
    disk INTEGER NOT NULL
);
-- Outlives the org: a name is never handed to another one.
CREATE TABLE org_names (name TEXT PRIMARY KEY, org TEXT NOT NULL);
-- Outlives the org, likewise. `app` is what uses the host now.
CREATE TABLE hosts (host TEXT PRIMARY KEY, org TEXT NOT NULL, app TEXT);
CREATE INDEX hosts_by_app ON hosts (app);

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL,
    -- In lower case: nobody is two people by a capital letter.
    email_key TEXT NOT NULL UNIQUE,
    operator INTEGER NOT NULL,
    created INTEGER NOT NULL,
    password TEXT
);
CREATE TABLE members (
    org TEXT NOT NULL REFERENCES orgs (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    role TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (org, user_id)
);
CREATE INDEX members_by_user ON members (user_id);
CREATE TABLE invitations (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES orgs (id),
    email TEXT NOT NULL,
    role TEXT NOT NULL,
    invited_by TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    hash BLOB NOT NULL UNIQUE
);
CREATE INDEX invitations_by_org ON invitations (org, id);
CREATE INDEX invitations_by_expiry ON invitations (expires);
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    org TEXT REFERENCES orgs (id),
    user_id TEXT REFERENCES users (id),
    role TEXT,
    created INTEGER NOT NULL,
    expires INTEGER,
    last_used INTEGER,
    hash BLOB NOT NULL UNIQUE
);
CREATE INDEX tokens_by_org ON tokens (org, id);
CREATE INDEX tokens_by_user ON tokens (user_id, id);
CREATE INDEX tokens_by_expiry ON tokens (expires);

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (org, name)
);
CREATE TABLE environments (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES orgs (id),
    project TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (project, name)
);
CREATE INDEX environments_by_org ON environments (org, name, id);
CREATE TABLE apps (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES orgs (id),
    project TEXT NOT NULL REFERENCES projects (id),
    environment TEXT NOT NULL REFERENCES environments (id),
    name TEXT NOT NULL,
    created INTEGER NOT NULL,
    running INTEGER NOT NULL,
    scale TEXT NOT NULL,
    live_release TEXT,
    live_deployment TEXT,
    live_since INTEGER,
    -- The number of its newest release.
    releases INTEGER NOT NULL DEFAULT 0,
    UNIQUE (environment, name)
);
CREATE INDEX apps_by_org ON apps (org, name, id);
CREATE INDEX apps_by_project ON apps (project);
CREATE TABLE domains (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES orgs (id),
    app TEXT NOT NULL REFERENCES apps (id),
    host TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
);
CREATE INDEX domains_by_app ON domains (app, id);

CREATE TABLE variables (
    org TEXT NOT NULL REFERENCES orgs (id),
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    updated INTEGER NOT NULL,
    PRIMARY KEY (scope_id, name)
);
CREATE INDEX variables_by_org ON variables (org);
CREATE TABLE data_keys (
    org TEXT NOT NULL REFERENCES orgs (id),
    id INTEGER NOT NULL,
    wrapped BLOB NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (org, id)
);
CREATE TABLE secrets (
    org TEXT NOT NULL,
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    key_id INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (scope_id, name),
    FOREIGN KEY (org, key_id) REFERENCES data_keys (org, id)
);
CREATE INDEX secrets_by_key ON secrets (org, key_id);

-- What follows belongs to an app, and an instance or a release may outlive its app for as long as
-- it takes to stop: no foreign keys to apps.
CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    app TEXT NOT NULL,
    state TEXT NOT NULL,
    final INTEGER NOT NULL,
    build TEXT,
    release_id TEXT,
    previous TEXT,
    -- The earlier release that it deploys again.
    source_release TEXT,
    doc TEXT NOT NULL
);
CREATE INDEX deployments_by_app ON deployments (app, id);
CREATE INDEX deployments_by_org ON deployments (org, id);
CREATE INDEX deployments_under_way ON deployments (app, id) WHERE final = 0;
CREATE TABLE builds (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    app TEXT NOT NULL,
    deployment TEXT NOT NULL,
    state TEXT NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX builds_by_app ON builds (app, id);
CREATE INDEX builds_by_org ON builds (org, id);
CREATE INDEX builds_by_deployment ON builds (deployment);
CREATE INDEX builds_by_state ON builds (state, org);
CREATE TABLE releases (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    app TEXT NOT NULL,
    number INTEGER NOT NULL,
    deployment TEXT NOT NULL,
    artifact_kept INTEGER NOT NULL,
    -- When it stopped being live last; nothing if it never was, or is now.
    live_until INTEGER,
    doc TEXT NOT NULL,
    UNIQUE (app, number)
);
CREATE INDEX releases_by_org ON releases (org, id);
CREATE TABLE instances (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    project TEXT NOT NULL,
    environment TEXT NOT NULL,
    app TEXT NOT NULL,
    release_id TEXT NOT NULL,
    node TEXT NOT NULL,
    run TEXT,
    doc TEXT NOT NULL
);
CREATE INDEX instances_by_org ON instances (org, id);
CREATE INDEX instances_by_app ON instances (app, id);
CREATE INDEX instances_by_node ON instances (node, id);
CREATE INDEX instances_by_release ON instances (release_id);
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    app TEXT NOT NULL,
    release_id TEXT NOT NULL,
    state TEXT NOT NULL,
    final INTEGER NOT NULL,
    doc TEXT NOT NULL
);
CREATE INDEX runs_by_app ON runs (app, id);
CREATE INDEX runs_by_org ON runs (org, id);
CREATE INDEX runs_under_way ON runs (id) WHERE final = 0;

CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    cpu INTEGER NOT NULL,
    memory INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    mode TEXT NOT NULL,
    runtimes TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    joined INTEGER NOT NULL,
    hello INTEGER NOT NULL
);

CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    -- Empty for what concerns the operator alone.
    org TEXT NOT NULL,
    app TEXT,
    doc TEXT NOT NULL
);
CREATE INDEX events_by_org ON events (org, seq);
CREATE INDEX events_by_app ON events (app, seq);

CREATE TABLE idempotency (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    route TEXT NOT NULL,
    body TEXT NOT NULL,
    status INTEGER NOT NULL,
    answer BLOB NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_by_time ON idempotency (at);

-- Who needs a blob. A digest stays for as long as anything of the org holds it.
CREATE TABLE blob_holds (
    org TEXT NOT NULL,
    digest TEXT NOT NULL,
    -- The id of a deployment or a release.
    holder TEXT NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (org, digest, holder)
);
CREATE INDEX blob_holds_by_holder ON blob_holds (holder);
