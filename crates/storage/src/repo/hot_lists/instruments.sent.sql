SELECT no, name, display_order, timestamptz_send(archived_at), timestamptz_send(created_at),
       timestamptz_send(updated_at)
FROM tenant.instrument
WHERE tenant_id = $1
  AND no > $2
  AND archived_at IS NULL
ORDER BY no
LIMIT $3
