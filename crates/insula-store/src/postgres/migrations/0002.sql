-- Format 2, the first that PostgreSQL had: what migrations/0001.sql and 0002.sql of SQLite make
-- together. Texts are ordered by their bytes, as SQLite does, whatever the database's collation.

CREATE TABLE format (id BIGINT PRIMARY KEY CHECK (id = 1), number BIGINT NOT NULL);
INSERT INTO format (id, number) VALUES (1, 2);

-- The last attempt of each writer that was committed: who lost the answer to a commit looks here.
CREATE TABLE writers (
    id TEXT PRIMARY KEY,
    attempt BIGINT NOT NULL,
    at TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE counters (name TEXT COLLATE "C" PRIMARY KEY, value BIGINT NOT NULL)
    WITH (fillfactor = 50);
-- `feed`: the last position given. `feed_trimmed`: the last position forgotten. `event`, `cohort`:
-- the last number given.
INSERT INTO counters (name, value)
VALUES ('feed', 0), ('feed_trimmed', 0), ('event', 0), ('cohort', 0);

-- One row for each thing that ever changed: where in the order of commits it did so last.
CREATE TABLE feed (
    kind TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL UNIQUE,
    PRIMARY KEY (kind, id)
);

CREATE TABLE orgs (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    created BIGINT NOT NULL,
    instances BIGINT NOT NULL,
    memory BIGINT NOT NULL,
    cpu BIGINT NOT NULL,
    builds_at_once BIGINT NOT NULL,
    releases_kept BIGINT NOT NULL,
    log_rate BIGINT NOT NULL,
    disk BIGINT NOT NULL
);
-- Outlives the org: a name is never handed to another one.
CREATE TABLE org_names (name TEXT COLLATE "C" PRIMARY KEY, org TEXT COLLATE "C" NOT NULL);
-- Outlives the org, likewise. `app` is what uses the host now.
CREATE TABLE hosts (host TEXT COLLATE "C" PRIMARY KEY, org TEXT COLLATE "C" NOT NULL, app TEXT COLLATE "C");
CREATE INDEX hosts_by_app ON hosts (app);

CREATE TABLE users (
    id TEXT COLLATE "C" PRIMARY KEY,
    email TEXT COLLATE "C" NOT NULL,
    -- In lower case: nobody is two people by a capital letter.
    email_key TEXT COLLATE "C" NOT NULL UNIQUE,
    operator BIGINT NOT NULL,
    created BIGINT NOT NULL,
    password TEXT COLLATE "C"
);
CREATE TABLE members (
    org TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    user_id TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    role TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (org, user_id)
);
CREATE INDEX members_by_user ON members (user_id);
CREATE TABLE invitations (
    id TEXT COLLATE "C" PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    email TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    invited_by TEXT COLLATE "C" NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    hash BYTEA NOT NULL UNIQUE
);
CREATE INDEX invitations_by_org ON invitations (org, id);
CREATE INDEX invitations_by_expiry ON invitations (expires);
CREATE TABLE tokens (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    org TEXT COLLATE "C" REFERENCES orgs (id),
    user_id TEXT COLLATE "C" REFERENCES users (id),
    role TEXT COLLATE "C",
    created BIGINT NOT NULL,
    expires BIGINT,
    last_used BIGINT,
    hash BYTEA NOT NULL UNIQUE
);
CREATE INDEX tokens_by_org ON tokens (org, id);
CREATE INDEX tokens_by_user ON tokens (user_id, id);
CREATE INDEX tokens_by_expiry ON tokens (expires);

CREATE TABLE projects (
    id TEXT COLLATE "C" PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    name TEXT COLLATE "C" NOT NULL,
    created BIGINT NOT NULL,
    UNIQUE (org, name)
);
CREATE TABLE environments (
    id TEXT COLLATE "C" PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    project TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    created BIGINT NOT NULL,
    UNIQUE (project, name)
);
CREATE INDEX environments_by_org ON environments (org, name, id);
CREATE TABLE apps (
    id TEXT COLLATE "C" PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    project TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    environment TEXT COLLATE "C" NOT NULL REFERENCES environments (id),
    name TEXT COLLATE "C" NOT NULL,
    created BIGINT NOT NULL,
    running BIGINT NOT NULL,
    scale TEXT COLLATE "C" NOT NULL,
    live_release TEXT COLLATE "C",
    live_deployment TEXT COLLATE "C",
    live_since BIGINT,
    -- The number of its newest release.
    releases BIGINT NOT NULL DEFAULT 0,
    UNIQUE (environment, name)
);
CREATE INDEX apps_by_org ON apps (org, name, id);
CREATE INDEX apps_by_project ON apps (project);
CREATE TABLE domains (
    id TEXT COLLATE "C" PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    app TEXT COLLATE "C" NOT NULL REFERENCES apps (id),
    host TEXT COLLATE "C" NOT NULL UNIQUE,
    created BIGINT NOT NULL
);
CREATE INDEX domains_by_app ON domains (app, id);

CREATE TABLE variables (
    org TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    scope TEXT COLLATE "C" NOT NULL,
    scope_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    updated BIGINT NOT NULL,
    PRIMARY KEY (scope_id, name)
);
CREATE INDEX variables_by_org ON variables (org);
CREATE TABLE data_keys (
    org TEXT COLLATE "C" NOT NULL REFERENCES orgs (id),
    id BIGINT NOT NULL,
    wrapped BYTEA NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (org, id)
);
CREATE TABLE secrets (
    org TEXT COLLATE "C" NOT NULL,
    scope TEXT COLLATE "C" NOT NULL,
    scope_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    key_id BIGINT NOT NULL,
    sealed BYTEA NOT NULL,
    PRIMARY KEY (scope_id, name),
    FOREIGN KEY (org, key_id) REFERENCES data_keys (org, id)
);
CREATE INDEX secrets_by_key ON secrets (org, key_id);

-- What follows belongs to an app, and an instance or a release may outlive its app for as long as
-- it takes to stop: no foreign keys to apps.
CREATE TABLE deployments (
    id TEXT COLLATE "C" PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    final BIGINT NOT NULL,
    build TEXT COLLATE "C",
    release_id TEXT COLLATE "C",
    previous TEXT COLLATE "C",
    -- The earlier release that it deploys again.
    source_release TEXT COLLATE "C",
    doc TEXT COLLATE "C" NOT NULL
);
CREATE INDEX deployments_by_app ON deployments (app, id);
CREATE INDEX deployments_by_org ON deployments (org, id);
CREATE INDEX deployments_under_way ON deployments (app, id) WHERE final = 0;
CREATE TABLE builds (
    id TEXT COLLATE "C" PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C" NOT NULL,
    deployment TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    doc TEXT COLLATE "C" NOT NULL
);
CREATE INDEX builds_by_app ON builds (app, id);
CREATE INDEX builds_by_org ON builds (org, id);
CREATE INDEX builds_by_deployment ON builds (deployment);
CREATE INDEX builds_by_state ON builds (state, org);
CREATE TABLE releases (
    id TEXT COLLATE "C" PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    deployment TEXT COLLATE "C" NOT NULL,
    artifact_kept BIGINT NOT NULL,
    -- When it stopped being live last; nothing if it never was, or is now.
    live_until BIGINT,
    doc TEXT COLLATE "C" NOT NULL,
    UNIQUE (app, number)
);
CREATE INDEX releases_by_org ON releases (org, id);
-- What instances share; what is left of an instance is small, and its id is sixteen bytes.
CREATE TABLE cohorts (
    id BIGINT PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL,
    project TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C" NOT NULL,
    component TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    release_id TEXT COLLATE "C" NOT NULL,
    deployment TEXT COLLATE "C" NOT NULL,
    run TEXT COLLATE "C",
    cpu BIGINT NOT NULL,
    memory BIGINT NOT NULL,
    pids BIGINT NOT NULL,
    disk BIGINT NOT NULL
);
CREATE INDEX cohorts_by_org ON cohorts (org);
CREATE INDEX cohorts_by_app ON cohorts (app);
CREATE INDEX cohorts_by_release ON cohorts (release_id);
CREATE INDEX cohorts_by_deployment ON cohorts (deployment, component);
CREATE TABLE instances (
    id BYTEA PRIMARY KEY,
    cohort BIGINT NOT NULL,
    node BYTEA NOT NULL,
    -- 0 run, 1 drain, 2 stop; the latter two since when.
    intent BIGINT NOT NULL,
    since BIGINT,
    created BIGINT NOT NULL,
    -- What its node reported, a document; nothing until it has.
    observed TEXT COLLATE "C"
);
CREATE INDEX instances_by_cohort ON instances (cohort, id);
CREATE TABLE runs (
    id TEXT COLLATE "C" PRIMARY KEY,
    org TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C" NOT NULL,
    release_id TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    final BIGINT NOT NULL,
    doc TEXT COLLATE "C" NOT NULL
);
CREATE INDEX runs_by_app ON runs (app, id);
CREATE INDEX runs_by_org ON runs (org, id);
CREATE INDEX runs_under_way ON runs (id) WHERE final = 0;

CREATE TABLE nodes (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    offer TEXT COLLATE "C" NOT NULL,
    site TEXT COLLATE "C" NOT NULL,
    agent_version TEXT COLLATE "C" NOT NULL,
    joined BIGINT NOT NULL,
    hello BIGINT NOT NULL,
    duty TEXT COLLATE "C" NOT NULL,
    lost BIGINT,
    ailments TEXT COLLATE "C" NOT NULL,
    relay TEXT COLLATE "C"
);

CREATE TABLE events (
    seq BIGINT PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    -- Empty for what concerns the operator alone.
    org TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C",
    doc TEXT COLLATE "C" NOT NULL
);
CREATE INDEX events_by_org ON events (org, seq);
CREATE INDEX events_by_app ON events (app, seq);

CREATE TABLE idempotency (
    caller TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    route TEXT COLLATE "C" NOT NULL,
    body TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    answer BYTEA NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_by_time ON idempotency (at);

-- Who needs a blob. A digest stays for as long as anything of the org holds it.
CREATE TABLE blob_holds (
    org TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    -- The id of a deployment or a release.
    holder TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    PRIMARY KEY (org, digest, holder)
);
CREATE INDEX blob_holds_by_holder ON blob_holds (holder);

-- Gateways that joined from elsewhere; the one beside a server needs no row.
CREATE TABLE gateways (
    id TEXT COLLATE "C" PRIMARY KEY,
    version TEXT COLLATE "C" NOT NULL,
    joined BIGINT NOT NULL,
    hello BIGINT NOT NULL
);

-- One-time permissions to join.
CREATE TABLE joins (
    id TEXT COLLATE "C" PRIMARY KEY,
    grants TEXT COLLATE "C" NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    used_at BIGINT,
    used_by TEXT COLLATE "C",
    hash BYTEA NOT NULL UNIQUE
);
CREATE INDEX joins_by_expiry ON joins (expires);

-- Which certificate of a member counts. A row outlives its member: an id never joins twice.
CREATE TABLE enrolments (
    member TEXT COLLATE "C" PRIMARY KEY,
    role TEXT COLLATE "C" NOT NULL,
    newest BIGINT NOT NULL,
    used BIGINT NOT NULL,
    since BIGINT NOT NULL,
    -- When the newest was given out.
    issued BIGINT NOT NULL,
    revoked BIGINT
);

-- The authority that signs the fleet's certificates. The key is sealed with the master key.
CREATE TABLE authority (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    certificate BYTEA NOT NULL,
    sealed_key BYTEA NOT NULL,
    created BIGINT NOT NULL
);

CREATE TABLE servers (
    id TEXT COLLATE "C" PRIMARY KEY,
    fleet TEXT COLLATE "C",
    version TEXT COLLATE "C" NOT NULL,
    seen BIGINT NOT NULL
);
CREATE TABLE leases (
    name TEXT COLLATE "C" PRIMARY KEY,
    holder TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    until BIGINT NOT NULL
);
