-- What is looked for among many, where no index was of use: the platform's administrators among all people, and the
-- shared databases among those of single tenants. Each read the whole table.
CREATE INDEX users_superadmins_idx ON registry.users (id) WHERE is_superadmin;
CREATE INDEX databases_kind_idx ON registry.databases (kind, id);
