-- Users, and the event of each change in the transaction that makes it.
CREATE SCHEMA IF NOT EXISTS identity;
CREATE TABLE IF NOT EXISTS identity.users (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  email text NOT NULL,
  changes integer NOT NULL DEFAULT 1
);
CREATE OR REPLACE FUNCTION identity.save_user(who uuid, mail text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE now_is identity.users;
BEGIN
  INSERT INTO identity.users (id, tenant_id, email) VALUES (who, '0191f8f2-0000-7000-8000-000000000001', mail)
    ON CONFLICT (id) DO UPDATE SET email = mail, changes = identity.users.changes + 1
    RETURNING * INTO now_is;
  INSERT INTO identity.outbox (event_type, aggregate_id, payload)
    VALUES (CASE now_is.changes WHEN 1 THEN 'UserCreated' ELSE 'UserUpdated' END, who,
            jsonb_build_object('user_id', who, 'tenant_id', now_is.tenant_id, 'email', mail, 'changes', now_is.changes));
END $$;
-- What another service keeps of the users, for its own use.
CREATE SCHEMA IF NOT EXISTS linting;
CREATE TABLE IF NOT EXISTS linting.users (
  user_id uuid PRIMARY KEY,
  email text NOT NULL CONSTRAINT email_has_a_host CHECK (position('@' IN email) > 1),
  changes integer NOT NULL
);
