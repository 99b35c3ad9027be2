-- A registry of 100,000 orchestras, 2,000 of which have databases of their own, and their people.
SET session_replication_role = replica;
SET synchronous_commit = off;

CREATE TEMPORARY TABLE made AS SELECT n, gen_random_uuid() AS id FROM generate_series(1, 100000) AS n;
CREATE TEMPORARY TABLE people AS SELECT n, gen_random_uuid() AS id FROM generate_series(1, 120000) AS n;

INSERT INTO registry.codes (code, tenant_id) SELECT upper(lpad(to_hex(n), 6, '0')), id FROM made;

INSERT INTO registry.tenants
    (id, code, name, subdomain, subscription, trial_ends_at, subscription_ends_at, status, version, created_at)
SELECT id, upper(lpad(to_hex(n), 6, '0')), 'Orkester ' || n, 'orkester-' || n,
       (ARRAY['small', 'medium', 'institution'])[1 + n % 3], NULL, now() + interval '1 year',
       CASE WHEN n % 50 = 0 THEN 'suspended' WHEN n % 997 = 0 THEN 'closing' WHEN n % 30000 = 1 THEN 'provisioning'
            ELSE 'active' END,
       2 * n, now()
FROM made;

INSERT INTO registry.databases (id, kind, tenant_id, status, server_identifier, host, port, name)
SELECT gen_random_uuid(), 'dedicated', id, CASE WHEN n % 500 = 0 THEN 'creating' ELSE 'ready' END,
       'server-' || n % 20, 'db-' || n % 20 || '.example', 5432, 'tenant_' || n
FROM made WHERE n <= 2000;

INSERT INTO registry.database_logins (database_id, role, sealed)
SELECT id, role, repeat('x', 200)
FROM registry.databases
CROSS JOIN UNNEST('{stagesub_migrator,stagesub_app,stagesub_mover}'::text[]) AS role
WHERE kind = 'dedicated';

INSERT INTO registry.directory (tenant_id, database_id, placement, epoch)
SELECT m.id, coalesce(own.id, shared.id), CASE WHEN own.id IS NULL THEN 'shared' ELSE 'dedicated' END, 1
FROM made AS m
LEFT JOIN registry.databases AS own ON own.tenant_id = m.id
CROSS JOIN (SELECT id FROM registry.databases WHERE kind = 'shared' ORDER BY id LIMIT 1) AS shared
WHERE m.n % 30000 <> 1;

INSERT INTO registry.users
    (id, email, password_hash, first_name, last_name, last_login, is_active, is_superadmin, auth_epoch, version)
SELECT id, 'Person.' || n || '@example.se', repeat('h', 97), 'Anna', 'Vik ' || n, now(), n % 30 <> 0, n <= 3, 0, 2 * n + 1
FROM people;

-- One large orchestra; most have one or two people.
INSERT INTO registry.memberships (tenant_id, user_id, role)
SELECT m.id, p.id, CASE WHEN p.n > 100000 THEN 'user' ELSE 'admin' END
FROM people AS p JOIN made AS m ON m.n = 1 + p.n % 100000;
INSERT INTO registry.memberships (tenant_id, user_id, role)
SELECT m.id, p.id, 'viewer' FROM people AS p JOIN made AS m ON m.n = 5 WHERE p.n BETWEEN 50000 AND 53000;

INSERT INTO registry.identities (issuer, subject, user_id)
SELECT 'https://accounts.example', 'subject-' || n, id FROM people WHERE n % 3 = 0;

INSERT INTO registry.platform_audit (tenant_id, at, actor, actor_id, actor_role, action, model, record_id)
SELECT m.id, '2025-01-01'::timestamptz + n * interval '1 minute', 'user', m.id, 'admin', 'sign_in', 'user', 'x'
FROM generate_series(1, 200000) AS n JOIN made AS m USING (n);

INSERT INTO registry.idempotency_keys (user_id, key, fingerprint, tenant_id, at_tenant, member_id, created_at, updated_at)
SELECT p.id, 'key-' || p.n, decode(repeat('00', 32), 'hex'), m.id, m.id, p.id,
       now() - p.n * interval '1 second', now() - p.n * interval '1 second'
FROM people AS p JOIN made AS m USING (n) WHERE p.n <= 50000;

INSERT INTO registry.nodes (id, seen_at) SELECT gen_random_uuid(), now() FROM generate_series(1, 4);

-- Two days of a platform on which a tenth of the tenants is at work.
INSERT INTO registry.tenant_usage (hour, tenant_id, database_us, pool_wait_us, transactions, statements, rows)
SELECT date_trunc('hour', now(), 'UTC') - h * interval '1 hour', m.id, n, n, n, n, n
FROM generate_series(0, 47) AS h JOIN made AS m ON m.n % 10 = 0;

-- Every second tenant was moved once, and some are being moved now.
INSERT INTO registry.moves
    (id, tenant_id, source_id, source_placement, target_id, target_placement, path, state, heading, epoch, prefix, owner,
    token, lease_until, ended_at)
SELECT gen_random_uuid(), m.id, shared.id, 'shared', own.id, 'dedicated', 'stream',
       CASE WHEN m.n % 200 > 0 THEN 'finished'
            ELSE (ARRAY['copy', 'catch_up', 'verify', 'fence', 'decided', 'active', 'back', 'aborted'])[1 + m.n / 200 % 8] END,
       'target', 1, repeat('0', 32), CASE WHEN m.n % 200 = 0 THEN own.id END, 1,
       CASE WHEN m.n % 200 = 0 THEN now() + m.n % 3000 * interval '1 second' ELSE '-infinity' END,
       CASE WHEN m.n % 200 > 0 THEN now() END
FROM made AS m
CROSS JOIN (SELECT id FROM registry.databases WHERE kind = 'shared' ORDER BY id LIMIT 1) AS shared
JOIN (SELECT id, row_number() OVER (ORDER BY id) AS n FROM registry.databases WHERE kind = 'dedicated') AS own
    ON own.n = 1 + m.n % 2000
WHERE m.n % 2 = 0;

INSERT INTO registry.move_tables (move_id, schema_name, table_name, place, rows, bytes, done)
SELECT m.id, 'tenant', 'table_' || t, t, 1000, 100000, m.ended_at IS NOT NULL
FROM registry.moves AS m CROSS JOIN generate_series(1, 3) AS t;

INSERT INTO registry.move_cleanups (move_id, object, database_id, name, place, done_at)
SELECT m.id, c.object, m.source_id, 'stagesub_move', c.place, m.ended_at
FROM registry.moves AS m
CROSS JOIN UNNEST('{rows,publication,slot}'::text[]) WITH ORDINALITY AS c (object, place);

UPDATE registry.version SET version = 300000;

ANALYZE;
