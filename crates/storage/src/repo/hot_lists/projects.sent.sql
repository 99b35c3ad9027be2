SELECT no, name, start_date, week_number, rehearsal_schedule, concert_info, notes, status,
       timestamptz_send(created_at), timestamptz_send(updated_at)
FROM tenant.project
WHERE tenant_id = $1
  AND no > $2
ORDER BY no
LIMIT $3
