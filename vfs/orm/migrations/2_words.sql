ALTER TABLE note ADD COLUMN words INTEGER NOT NULL DEFAULT 0;
CREATE INDEX note_by_notebook ON note(notebook, id);
