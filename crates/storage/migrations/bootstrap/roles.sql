-- The platform's roles, none of which may log in yet: a login gets its password in the transaction that
-- stores its sealed connection string. Roles belong to the whole server, so each is made only if missing.
-- docs/roles.md says what each is for.
DO $roles$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY[
        'stagesub_owner', 'stagesub_migrator', 'stagesub_app',
        'stagesub_auth', 'stagesub_control', 'stagesub_mover'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
    -- Members of the owner: the migrator makes what it owns, the mover needs publications and ANALYZE.
    FOREACH wanted IN ARRAY ARRAY['stagesub_migrator', 'stagesub_mover'] LOOP
        IF NOT pg_catalog.pg_has_role(wanted, 'stagesub_owner', 'MEMBER') THEN
            EXECUTE format('GRANT stagesub_owner TO %I', wanted);
        END IF;
    END LOOP;
END
$roles$;
