-- Webhooks to send, and for some days those that were: an id is never sent anew.
CREATE TABLE outbox (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    delivery_id TEXT NOT NULL,
    -- The name of a webhook in the configuration.
    destination TEXT NOT NULL,
    -- Empty once it is over.
    body BLOB NOT NULL,
    -- When it was put in, and when it is to be sent next, in seconds since the epoch.
    create_time REAL NOT NULL,
    due_at REAL NOT NULL,
    -- How often it was sent in vain.
    attempts INTEGER NOT NULL DEFAULT 0,
    -- 0 pending, 1 delivered, 2 dropped.
    state INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant, delivery_id)
);
CREATE INDEX outbox_pending ON outbox (destination, due_at, key) WHERE state = 0;
CREATE INDEX outbox_over ON outbox (create_time) WHERE state > 0;
