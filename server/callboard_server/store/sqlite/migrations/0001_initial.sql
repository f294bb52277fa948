-- Every row belongs to a tenant; what a caller names is found by (tenant, id), and everything
-- inside refers to the short integer keys. Messages of the contract are kept whole in `data`;
-- a column stands beside it only where a query needs it. Keys are never used again: the events of
-- a deleted thread stay.

-- The one server process that may write: see ownership.py.
CREATE TABLE owner (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    worker_id TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    lease_end REAL NOT NULL
);

CREATE TABLE sessions (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    head INTEGER NOT NULL DEFAULT 0,
    oldest INTEGER NOT NULL DEFAULT 1,
    UNIQUE (tenant, session_id)
);

CREATE TABLE threads (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (key),
    parent INTEGER REFERENCES threads (key),
    metadata TEXT NOT NULL DEFAULT '{}',
    "values" BLOB NOT NULL DEFAULT x'',
    data BLOB NOT NULL,
    UNIQUE (tenant, thread_id)
);
CREATE INDEX threads_roots ON threads (tenant) WHERE parent IS NULL;
CREATE INDEX threads_session ON threads (session);
CREATE INDEX threads_parent ON threads (parent) WHERE parent IS NOT NULL;

CREATE TABLE runs (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    run_id TEXT NOT NULL,
    thread INTEGER NOT NULL REFERENCES threads (key),
    state INTEGER NOT NULL,
    -- Its place in line, oldest first: when it was admitted or, if it was delayed, due. Nanoseconds.
    queued_at INTEGER NOT NULL DEFAULT 0,
    -- 1 where the run is the next of its thread and only wants a slot.
    ready INTEGER NOT NULL DEFAULT 0,
    -- When a delayed run may start, in seconds since the epoch; null where it is not delayed.
    start_at REAL,
    -- The terminal state that was asked for while it runs, or 0.
    stop INTEGER NOT NULL DEFAULT 0,
    data BLOB NOT NULL,
    UNIQUE (tenant, run_id)
);
CREATE INDEX runs_tenant ON runs (tenant);
CREATE INDEX runs_thread ON runs (thread, state);
CREATE INDEX runs_ready ON runs (queued_at, key) WHERE ready = 1;
CREATE INDEX runs_delayed ON runs (start_at) WHERE start_at IS NOT NULL;
CREATE INDEX runs_live ON runs (state) WHERE state < 5;

CREATE TABLE jobs (
    thread INTEGER PRIMARY KEY REFERENCES threads (key),
    tenant TEXT NOT NULL,
    parent INTEGER REFERENCES threads (key),
    run INTEGER NOT NULL REFERENCES runs (key),
    labels TEXT NOT NULL DEFAULT '{}',
    data BLOB NOT NULL
);
CREATE INDEX jobs_parent ON jobs (parent) WHERE parent IS NOT NULL;

CREATE TABLE assistants (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    assistant_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    version INTEGER NOT NULL,
    metadata TEXT NOT NULL DEFAULT '{}',
    UNIQUE (tenant, assistant_id)
);

CREATE TABLE assistant_versions (
    assistant INTEGER NOT NULL REFERENCES assistants (key),
    version INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (assistant, version)
) WITHOUT ROWID;

CREATE TABLE requests (
    tenant TEXT NOT NULL,
    method TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    response BLOB NOT NULL,
    create_time REAL NOT NULL,
    PRIMARY KEY (tenant, method, request_id)
) WITHOUT ROWID;
CREATE INDEX requests_time ON requests (create_time);

CREATE TABLE events (
    session INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    thread INTEGER NOT NULL,
    run INTEGER,
    kind INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (session, sequence)
) WITHOUT ROWID;
CREATE INDEX events_thread ON events (thread, sequence);
CREATE INDEX events_messages ON events (thread, sequence) WHERE kind = 24;
-- What takes messages back: runs_rolled_back and claim_voided.
CREATE INDEX events_voids ON events (thread, sequence) WHERE kind IN (38, 45);
