-- A run comes due for more than a delayed start: the end of a sleep, of the pause before a retry, or
-- of an action's deadline.
ALTER TABLE runs RENAME COLUMN start_at TO due_at;
-- Whose run it is: as many of an assistant run at a time as its agent allows.
ALTER TABLE runs ADD COLUMN assistant TEXT NOT NULL DEFAULT '';

-- When something last happened in a session, and for how many seconds after that it is kept; null
-- where for ever.
ALTER TABLE sessions ADD COLUMN active_at REAL NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN ttl REAL;
CREATE INDEX sessions_expiry ON sessions (active_at + ttl) WHERE ttl IS NOT NULL;

CREATE TABLE actions (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    action_id TEXT NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (key),
    thread INTEGER NOT NULL REFERENCES threads (key),
    run INTEGER NOT NULL REFERENCES runs (key),
    -- 0 open, 1 answered, 2 closed without an answer.
    state INTEGER NOT NULL,
    data BLOB NOT NULL,
    -- The answer, and when it was answered or closed, in seconds since the epoch.
    response BLOB,
    ended_at REAL,
    UNIQUE (session, action_id)
);
CREATE INDEX actions_run ON actions (run);
CREATE INDEX actions_open ON actions (tenant, key) WHERE state = 0;
CREATE INDEX actions_open_thread ON actions (thread, key) WHERE state = 0;
CREATE INDEX actions_open_session ON actions (session, key) WHERE state = 0;
