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
