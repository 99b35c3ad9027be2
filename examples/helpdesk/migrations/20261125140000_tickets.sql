-- What the help desk keeps: tickets, and what is said about each. tenant_id stands in front of every key, so that no
-- comment can hang on another customer's ticket. Policies and grants are put around the tables when the service opens.
CREATE TABLE helpdesk.ticket (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    subject text NOT NULL CONSTRAINT ticket_subject_check CHECK (length(subject) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ticket_pkey PRIMARY KEY (tenant_id, id)
);

CREATE TABLE helpdesk.comment (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    ticket_id uuid NOT NULL,
    body text NOT NULL CONSTRAINT comment_body_check CHECK (length(body) BETWEEN 1 AND 5000),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT comment_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT comment_ticket_id_fkey FOREIGN KEY (tenant_id, ticket_id)
        REFERENCES helpdesk.ticket (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX comment_ticket_id_idx ON helpdesk.comment (tenant_id, ticket_id, created_at);
