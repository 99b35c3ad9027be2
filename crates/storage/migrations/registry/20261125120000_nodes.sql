-- The servers that live, so that each can take its part of the connections there may be. A node says so every few
-- seconds; one that has not for longer than its lease is not counted, and its row goes with the next beat of
-- another. Times are this server's, so that all nodes are judged by one clock.

CREATE TABLE registry.nodes (
    id uuid CONSTRAINT nodes_pkey PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE registry.nodes IS 'One row a run of a server.';
COMMENT ON COLUMN registry.nodes.seen_at IS 'When it last said that it lives.';

GRANT SELECT, INSERT, UPDATE, DELETE ON registry.nodes TO stagesub_control;
