-- Format 2: a fleet. Nodes say more of themselves, may be lost, and join with a token; several
-- servers may share a store.

ALTER TABLE nodes ADD COLUMN offer TEXT NOT NULL DEFAULT '{}';
UPDATE nodes SET offer = json_object(
    'capacity', json_object('cpu', cpu, 'memory', memory, 'instances', instances),
    'mode', mode,
    'runtimes', json(runtimes));
ALTER TABLE nodes DROP COLUMN cpu;
ALTER TABLE nodes DROP COLUMN memory;
ALTER TABLE nodes DROP COLUMN instances;
ALTER TABLE nodes DROP COLUMN mode;
ALTER TABLE nodes DROP COLUMN runtimes;
ALTER TABLE nodes ADD COLUMN site TEXT NOT NULL DEFAULT '{"pool":null,"zone":null,"labels":{}}';
ALTER TABLE nodes ADD COLUMN duty TEXT NOT NULL DEFAULT '{"duty":"serve"}';
ALTER TABLE nodes ADD COLUMN lost INTEGER;
ALTER TABLE nodes ADD COLUMN ailments TEXT NOT NULL DEFAULT '[]';
ALTER TABLE nodes ADD COLUMN relay TEXT;

-- Gateways that joined from elsewhere; the one beside a server needs no row.
CREATE TABLE gateways (
    id TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    joined INTEGER NOT NULL,
    hello INTEGER NOT NULL
);

-- One-time permissions to join.
CREATE TABLE joins (
    id TEXT PRIMARY KEY,
    grants TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used_at INTEGER,
    used_by TEXT,
    hash BLOB NOT NULL UNIQUE
);
CREATE INDEX joins_by_expiry ON joins (expires);

-- Which certificate of a member counts. A row outlives its member: an id never joins twice.
CREATE TABLE enrolments (
    member TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    newest INTEGER NOT NULL,
    used INTEGER NOT NULL,
    since INTEGER NOT NULL,
    -- When the newest was given out.
    issued INTEGER NOT NULL,
    revoked INTEGER
);

-- The authority that signs the fleet's certificates. The key is sealed with the master key.
CREATE TABLE authority (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    certificate BLOB NOT NULL,
    sealed_key BLOB NOT NULL,
    created INTEGER NOT NULL
);

CREATE TABLE servers (
    id TEXT PRIMARY KEY,
    fleet TEXT,
    version TEXT NOT NULL,
    seen INTEGER NOT NULL
);
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    until INTEGER NOT NULL
);

-- What instances share goes into cohorts; what is left of an instance is small, and its id is
-- sixteen bytes instead of text.
CREATE TABLE cohorts (
    id INTEGER PRIMARY KEY,
    org TEXT NOT NULL,
    project TEXT NOT NULL,
    environment TEXT NOT NULL,
    app TEXT NOT NULL,
    component TEXT NOT NULL,
    kind TEXT NOT NULL,
    release_id TEXT NOT NULL,
    deployment TEXT NOT NULL,
    run TEXT,
    cpu INTEGER NOT NULL,
    memory INTEGER NOT NULL,
    pids INTEGER NOT NULL,
    disk INTEGER NOT NULL
);
CREATE INDEX cohorts_by_org ON cohorts (org);
CREATE INDEX cohorts_by_app ON cohorts (app);
CREATE INDEX cohorts_by_release ON cohorts (release_id);
CREATE INDEX cohorts_by_deployment ON cohorts (deployment, component);
-- `cohort`: the last number given.
INSERT INTO counters (name, value) VALUES ('cohort', 0);

ALTER TABLE instances RENAME TO instances_1;
CREATE TABLE instances (
    id BLOB PRIMARY KEY NOT NULL,
    cohort INTEGER NOT NULL,
    node BLOB NOT NULL,
    -- 0 run, 1 drain, 2 stop; the latter two since when.
    intent INTEGER NOT NULL,
    since INTEGER,
    created INTEGER NOT NULL,
    -- What its node reported, a document; nothing until it has.
    observed TEXT
) WITHOUT ROWID;
CREATE INDEX instances_by_cohort ON instances (cohort);

-- An id as text is a prefix and 26 digits to the base 32: two of the first byte, then eight for
-- every five bytes.
CREATE TEMP TABLE ids_1 (id TEXT PRIMARY KEY, bytes BLOB NOT NULL);
INSERT INTO ids_1 (id, bytes)
WITH RECURSIVE
    places (place) AS (SELECT 0 UNION ALL SELECT place + 1 FROM places WHERE place < 25),
    known (id) AS (SELECT id FROM instances_1 UNION SELECT node FROM instances_1),
    digits (id, part, digit) AS (
        SELECT id,
               (place + 6) / 8,
               (instr('0123456789abcdefghjkmnpqrstvwxyz', substr(id, place - 26, 1)) - 1)
                   << (5 * (7 - (place + 6) % 8))
        FROM known CROSS JOIN places)
SELECT id,
       unhex(printf('%02X%010X%010X%010X',
                    SUM(digit) FILTER (WHERE part = 0), SUM(digit) FILTER (WHERE part = 1),
                    SUM(digit) FILTER (WHERE part = 2), SUM(digit) FILTER (WHERE part = 3)))
FROM digits GROUP BY id;

CREATE TEMP TABLE shared_1 AS
SELECT id, org, project, environment, app, release_id, run,
       json_extract(doc, '$.component') AS component,
       json_extract(doc, '$.kind') AS kind,
       json_extract(doc, '$.deployment') AS deployment,
       json_extract(doc, '$.cpu') AS cpu,
       json_extract(doc, '$.memory') AS memory,
       COALESCE(json_extract(doc, '$.pids'), 0) AS pids,
       COALESCE(json_extract(doc, '$.disk'), 0) AS disk
FROM instances_1;
INSERT INTO cohorts (org, project, environment, app, component, kind, release_id, deployment, run,
                     cpu, memory, pids, disk)
SELECT DISTINCT org, project, environment, app, component, kind, release_id, deployment, run,
                cpu, memory, pids, disk
FROM shared_1 ORDER BY deployment, component, run;
UPDATE counters SET value = (SELECT COUNT(*) FROM cohorts) WHERE name = 'cohort';

INSERT INTO instances (id, cohort, node, intent, since, created, observed)
WITH
    said (id, node, intent, since, created, observed) AS (
        SELECT id, node,
               json_extract(doc, '$.intent.intent'), json_extract(doc, '$.intent.since'),
               json_extract(doc, '$.created'), json_extract(doc, '$.observed')
        FROM instances_1)
SELECT own.bytes,
       c.id,
       node.bytes,
       CASE said.intent WHEN 'run' THEN 0 WHEN 'drain' THEN 1 WHEN 'stop' THEN 2 END,
       -- `2026-01-31T12:00:00.250Z`
       unixepoch(said.since) * 1000 + CAST(substr(said.since, 21, 3) AS INTEGER),
       unixepoch(said.created) * 1000 + CAST(substr(said.created, 21, 3) AS INTEGER),
       CASE json_extract(said.observed, '$.observed')
           WHEN 'unknown' THEN NULL ELSE json_set(said.observed, '$.schema', 1) END
FROM said
    JOIN ids_1 own ON own.id = said.id
    JOIN ids_1 node ON node.id = said.node
    JOIN shared_1 s ON s.id = said.id
    JOIN cohorts c ON c.deployment = s.deployment AND c.component = s.component
        AND c.run IS s.run AND c.release_id = s.release_id AND c.app = s.app
        AND c.environment = s.environment AND c.project = s.project AND c.org = s.org
        AND c.kind = s.kind AND c.cpu = s.cpu AND c.memory = s.memory
        AND c.pids = s.pids AND c.disk = s.disk;
DROP TABLE shared_1;
DROP TABLE ids_1;
DROP TABLE instances_1;
