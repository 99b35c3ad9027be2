-- How many connections each node may be using, so that one that comes takes none before another has left it. A
-- node says more before it takes more, and less once it has less. One that does not say is counted as a node only.

ALTER TABLE registry.nodes
    ADD COLUMN shared_connections integer NOT NULL DEFAULT 0
        CONSTRAINT nodes_shared_connections_check CHECK (shared_connections >= 0),
    ADD COLUMN dedicated_connections integer NOT NULL DEFAULT 0
        CONSTRAINT nodes_dedicated_connections_check CHECK (dedicated_connections >= 0);
COMMENT ON COLUMN registry.nodes.shared_connections IS 'Most connections that it uses to any one shared database.';
COMMENT ON COLUMN registry.nodes.dedicated_connections IS 'Most connections that it uses to dedicated databases together.';
