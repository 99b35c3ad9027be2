-- Requests for moves may be asked twice too. The key is written before the move is begun, with the id that the move will
-- have: asking again finds the move, or begins it under the same id.
ALTER TABLE registry.idempotency_keys ADD COLUMN move_id uuid;
COMMENT ON TABLE registry.idempotency_keys IS
    'Which tenant, which member of one, or which move of one a request made, by the key that it was named with. Kept for a day.';
COMMENT ON COLUMN registry.idempotency_keys.move_id IS
    'Which move of the tenant was begun. No foreign key: it is written down first.';
