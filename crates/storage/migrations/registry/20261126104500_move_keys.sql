-- Requests for moves may be asked twice too. The key is written before the move is begun, with the id that the move will
-- have: asking again finds the move, or begins it under the same id.
ALTER TABLE registry.idempotency_keys ADD COLUMN move_id uuid;
COMMENT ON TABLE registry.idempotency_keys IS
    'Which tenant, which member of one, or which move of one a request made, by the key that it was named with. Kept for a day.';
COMMENT ON COLUMN registry.idempotency_keys.move_id IS
    'Which move of the tenant was begun. No foreign key: it is written down first.';

-- How far behind the other side of a move is, for people to look at.
ALTER TABLE registry.moves ADD COLUMN lag_us bigint CONSTRAINT moves_lag_us_check CHECK (lag_us >= 0);
COMMENT ON COLUMN registry.moves.lag_us IS
    'Microseconds that a word took through the stream when that was last looked at. Nothing depends on it.';
