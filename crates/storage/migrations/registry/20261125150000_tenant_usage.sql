-- Who used how much of the databases. Each node adds the sums of its tenants every few seconds, so that whoever uses
-- most can be named without a label for each tenant in the metrics. Hours are this server's, so that all nodes' sums
-- of an hour are in one row. Old hours go with later additions.

CREATE TABLE registry.tenant_usage (
    hour timestamptz NOT NULL CONSTRAINT tenant_usage_hour_check CHECK (hour = date_trunc('hour', hour, 'UTC')),
    tenant_id uuid CONSTRAINT tenant_usage_tenant_id_fkey REFERENCES registry.tenants (id) ON DELETE CASCADE,
    database_us bigint NOT NULL CONSTRAINT tenant_usage_database_us_check CHECK (database_us >= 0),
    pool_wait_us bigint NOT NULL CONSTRAINT tenant_usage_pool_wait_us_check CHECK (pool_wait_us >= 0),
    transactions bigint NOT NULL CONSTRAINT tenant_usage_transactions_check CHECK (transactions >= 0),
    statements bigint NOT NULL CONSTRAINT tenant_usage_statements_check CHECK (statements >= 0),
    rows bigint NOT NULL CONSTRAINT tenant_usage_rows_check CHECK (rows >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenant_usage_key UNIQUE NULLS NOT DISTINCT (hour, tenant_id)
);
COMMENT ON TABLE registry.tenant_usage IS 'What each tenant used in each of the last hours, on all nodes.';
COMMENT ON COLUMN registry.tenant_usage.tenant_id IS 'NULL: those whom a node did not tell apart.';
COMMENT ON COLUMN registry.tenant_usage.database_us IS 'Microseconds that databases worked for it.';
COMMENT ON COLUMN registry.tenant_usage.pool_wait_us IS 'Microseconds that it waited for connections.';
CREATE INDEX tenant_usage_tenant_id_idx ON registry.tenant_usage (tenant_id);

GRANT SELECT, INSERT, UPDATE, DELETE ON registry.tenant_usage TO stagesub_control;
