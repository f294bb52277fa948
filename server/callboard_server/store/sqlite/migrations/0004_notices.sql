-- What threads are told about jobs.
CREATE TABLE notices (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    notice_id TEXT NOT NULL,
    -- The thread that is told.
    thread INTEGER NOT NULL REFERENCES threads (key),
    -- The job's run that it is about, which may be gone since.
    run INTEGER NOT NULL,
    -- The event that added it.
    sequence INTEGER NOT NULL,
    -- 1 where it was read.
    read INTEGER NOT NULL,
    -- How many runs were queued because of it.
    wakes INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (tenant, notice_id)
);
CREATE INDEX notices_thread ON notices (thread);
CREATE INDEX notices_unread ON notices (thread, key) WHERE read = 0;
CREATE INDEX notices_run ON notices (run);
