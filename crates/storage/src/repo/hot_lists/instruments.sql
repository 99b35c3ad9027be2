SELECT no, name, display_order, archived_at, created_at, updated_at
FROM tenant.instrument
WHERE tenant_id = $1
  AND no > $2
  AND archived_at IS NULL
ORDER BY no
LIMIT $3
