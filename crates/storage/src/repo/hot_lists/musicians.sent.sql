SELECT m.no, m.first_name, m.last_name, m.email, m.phone, m.preferred_language, m.local_residence,
       m.notes, m.is_active, timestamptz_send(m.archived_at), timestamptz_send(m.created_at),
       timestamptz_send(m.updated_at),
       ARRAY(SELECT q.position_no FROM tenant.musician_qualification AS q
             WHERE q.tenant_id = $1 AND q.musician_no = m.no
             ORDER BY q.position_no) AS "qualifications!"
FROM tenant.musician AS m
WHERE m.tenant_id = $1
  AND m.no > $2
  AND m.archived_at IS NULL
ORDER BY m.no
LIMIT $3
