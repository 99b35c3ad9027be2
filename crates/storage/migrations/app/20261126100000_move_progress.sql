-- How far each stream of a move has been applied in this database: a row a stream, changed in the transaction that
-- applies the changes, so that a change and the word that it was applied are kept together or not at all. It is in
-- no publication: what it says counts here and nowhere else.
CREATE TABLE app.move_progress (
    move_id uuid NOT NULL,
    stream text NOT NULL CONSTRAINT move_progress_stream_check CHECK (stream IN ('forward', 'reverse')),
    lsn pg_lsn NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT move_progress_pkey PRIMARY KEY (move_id, stream)
);
COMMENT ON TABLE app.move_progress IS
    'Up to where in the other database''s log a move''s changes are applied here. Two rows a move at most; they go with it.';

GRANT SELECT, INSERT, UPDATE, DELETE ON app.move_progress TO stagesub_mover;
