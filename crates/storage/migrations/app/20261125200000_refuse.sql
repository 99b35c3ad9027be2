-- Reads that are one message look at the tenant's fence within the statement that reads: one executor and one snapshot
-- serve both, where a CALL before it takes its own. So what was looked at and what is read are of the same moment.
-- Where the look was in vain, the statement calls this.

CREATE FUNCTION app.refuse(expected_epoch bigint) RETURNS boolean
    -- STABLE: a condition on no column, in which nothing is volatile, is asked once and before any row is read. A
    -- volatile one would be asked of each row, and so never where there are none.
    -- Not STRICT: NULL in place of a refusal would be no rows, and silence.
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $refuse$
BEGIN
    RAISE EXCEPTION 'this database does not serve the tenant at epoch %', expected_epoch
        USING ERRCODE = 'TN001';
END
$refuse$;
COMMENT ON FUNCTION app.refuse(bigint) IS
    'Raises what app.enter raises (TN001). What a read that is one message asks for instead of rows, unless its tenant''s fence has its epoch.';

REVOKE ALL ON FUNCTION app.refuse(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.refuse(bigint) TO stagesub_app;
