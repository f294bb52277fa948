-- 1 where it was deleted: its versions stay as long as runs have it, its id for ever.
ALTER TABLE assistants ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
CREATE INDEX assistants_deleted ON assistants (key) WHERE deleted = 1;
