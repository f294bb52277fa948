-- Whether a run is cancelled when nobody streams it.
ALTER TABLE runs ADD COLUMN attended INTEGER NOT NULL DEFAULT 0;
CREATE INDEX runs_attended ON runs (queued_at, key) WHERE attended = 1 AND state < 5;
