-- A thousand orchestras in one shared database: a few large, many small, a fifth with next to nothing. Rows of all lie
-- mixed on the pages, as they do where everybody works every day. Run by the administrator, who checks no foreign key.
SET session_replication_role = replica;
SET synchronous_commit = off;

CREATE TEMPORARY TABLE sized AS
SELECT k, gen_random_uuid() AS tenant_id,
       CASE WHEN k > 800 THEN 1 + k % 5
            ELSE ceil(1000000 * k ^ -1.1 / sum(CASE WHEN k <= 800 THEN k ^ -1.1 END) OVER ()) END::integer AS size
FROM generate_series(1, 1000) AS k;

-- The day in a tenant's life decides where a row lies, so that nobody's lie side by side.
CREATE TEMPORARY TABLE numbered AS
SELECT tenant_id, no, '2024-01-01'::timestamptz + no * interval '700 days' / size AS at
FROM sized CROSS JOIN LATERAL generate_series(1, size) AS no
ORDER BY no::float / size, tenant_id;

-- Indexes other than keys are made again when the rows are there, which is quicker.
CREATE TEMPORARY TABLE remade AS
SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'tenant'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid);
DO $$ DECLARE name text; BEGIN FOR name IN SELECT r.name FROM remade AS r LOOP
    EXECUTE 'DROP INDEX ' || name;
END LOOP; END $$;

INSERT INTO app.tenant_fence (tenant_id, state, epoch) SELECT tenant_id, 'active', 1 FROM sized;

INSERT INTO tenant.settings
    (tenant_id, reminder_percentage, ranking_conflict_strategy, language, timezone, default_response_hours)
SELECT tenant_id, 75, 'simple', 'sv', 'Europe/Stockholm', 48 FROM sized;

INSERT INTO tenant.quota (tenant_id, resource, used, allowed, limits_version)
SELECT tenant_id, resource, 0, NULL, 1
FROM sized CROSS JOIN UNNEST('{active_projects,instruments,musicians}'::text[]) AS resource;

INSERT INTO tenant.id_counter (tenant_id, kind, last)
SELECT tenant_id, kind, size
FROM sized CROSS JOIN UNNEST('{MUS,INST,POS,LIST,PROJ,NEED,REQ,FILE}'::text[]) AS kind;

INSERT INTO tenant.instrument (tenant_id, no, name, display_order, archived_at, created_at, updated_at)
SELECT tenant_id, no, 'Instrument ' || no, no, CASE WHEN no % 9 = 0 THEN now() END, now(), now()
FROM generate_series(1, 12) AS no CROSS JOIN sized;

INSERT INTO tenant.position (tenant_id, no, instrument_no, name, hierarchy_level, created_at, updated_at)
SELECT tenant_id, no, 1 + no % 12, 'Stämma ' || no, 1 + no % 3, now(), now()
FROM generate_series(1, 24) AS no CROSS JOIN sized;

INSERT INTO tenant.ranking_list (tenant_id, no, position_no, list_type, description, created_at, updated_at)
SELECT tenant_id, no, 1 + no % 24, (ARRAY['A', 'B', 'C'])[1 + no / 24], NULL, now(), now()
FROM generate_series(1, 71) AS no CROSS JOIN sized;

INSERT INTO tenant.email_template (tenant_id, mail_type, language, subject, body)
SELECT tenant_id, mail_type, language, 'Förfrågan', 'Hej!'
FROM UNNEST('{request,reminder,confirmation,position_filled}'::text[]) AS mail_type
CROSS JOIN UNNEST('{sv,en}'::text[]) AS language CROSS JOIN sized;

INSERT INTO tenant.musician
    (tenant_id, no, first_name, last_name, email, phone, preferred_language, local_residence, notes, is_active,
     archived_at, created_at, updated_at)
SELECT tenant_id, no, 'Anna', 'Vik ' || no, 'Anna.Vik.' || no || '@example.se', '070-' || no,
       CASE WHEN no % 4 = 0 THEN 'en' ELSE 'sv' END, no % 3 = 0, CASE WHEN no % 5 = 0 THEN 'Spelar gärna i helgerna' END,
       no % 9 <> 0, CASE WHEN no % 11 = 0 THEN at END, at, at
FROM numbered;

INSERT INTO tenant.musician_qualification (tenant_id, musician_no, position_no, created_at, updated_at)
SELECT tenant_id, no, 1 + no % 24, at, at FROM numbered WHERE no % 3 = 1;

INSERT INTO tenant.project
    (tenant_id, no, name, start_date, week_number, rehearsal_schedule, concert_info, notes, status, created_at, updated_at)
SELECT tenant_id, no, 'Konsert ' || no, at::date, 1 + no % 52, NULL, NULL, NULL,
       CASE WHEN no % 10 = 0 THEN 'active' WHEN no % 10 = 1 THEN 'planned' ELSE 'completed' END, at, at
FROM numbered JOIN sized USING (tenant_id) WHERE no <= 5 + size / 50;

INSERT INTO tenant.audit
    (tenant_id, id, at, actor, actor_id, actor_role, action, model, record_id, changes, ip_address, user_agent,
     request_id, created_at, updated_at)
SELECT tenant_id, gen_random_uuid(), at, 'user', tenant_id, 'admin', 'update', 'musician', no::text, NULL, NULL, NULL,
       NULL, at, at
FROM numbered WHERE no % 8 = 1;

INSERT INTO tenant.idempotency_key
    (tenant_id, user_id, key, fingerprint, status, location, content_type, body, created_at, updated_at)
SELECT tenant_id, tenant_id, 'key-' || no, decode(repeat('00', 32), 'hex'), 201, NULL, 'application/json', '{}', at, at
FROM numbered WHERE no % 20 = 1;

SET maintenance_work_mem = '128MB';
DO $$ DECLARE definition text; BEGIN FOR definition IN SELECT r.definition FROM remade AS r LOOP
    EXECUTE definition;
END LOOP; END $$;

ANALYZE;
