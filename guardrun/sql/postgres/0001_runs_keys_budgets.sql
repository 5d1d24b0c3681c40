-- The ledger in Postgres, schema 1. Everything is named with its schema, whatever search_path says.
--
-- Durations are microseconds (…_us), lists and objects JSON text, as in the embedded ledger.
-- Text that people choose may be longer than an index entry can be (2704 bytes): it is indexed by
-- its SHA-256 or by its first characters. The server's clock decides; what it decides by is
-- written with clock_timestamp(), because now() is older by every wait for a lock.

CREATE TABLE guardrun.schema_version (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row a run, refused ones included. A row that is 'running' while its alive_until has passed
-- is interrupted: readers say so, and whoever takes its key over writes it down. A run that was
-- cut off has no finished_at; that is how late truth from the spool is told from what it must not
-- replace.
CREATE TABLE guardrun.runs (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id        uuid NOT NULL UNIQUE,  -- UUIDv7
    job           text NOT NULL,
    host          text NOT NULL,
    username      text NOT NULL,
    pid           bigint NOT NULL,
    owner         text NOT NULL,         -- host:pid:job_id
    argv          text NOT NULL,         -- redacted
    fingerprint   text NOT NULL,         -- SHA-256 of COMMAND's words before redaction
    lock          text,
    key           text,
    key_id        bytea,                 -- SHA-256 of the key, as keys.id
    needs         text NOT NULL,
    path          text NOT NULL,         -- job_ids of the guardruns around this one
    token         text,                  -- of this run's claim of its key
    started_at    timestamptz NOT NULL,  -- by its host's clock, as in its log lines
    enqueued_at   timestamptz,           -- by its host's clock
    finished_at   timestamptz,           -- by its host's clock
    duration_us   bigint,
    result        text NOT NULL,         -- 'running', or as in the log
    exit_code     integer,               -- guardrun's; 128+N where it ended by signal N
    command_code  integer,               -- COMMAND's, of its last attempt
    signal        integer,               -- guardrun's, else COMMAND's
    reason        text,
    attempts      integer NOT NULL DEFAULT 0,
    held          boolean NOT NULL DEFAULT false,  -- the lock was ours
    lock_wait_us  bigint,
    fencing_token bigint,
    lease_lost    boolean NOT NULL DEFAULT false,
    held_by       text,
    stale         boolean NOT NULL DEFAULT false,  -- its claim was somebody else's when it finished
    alive_until   timestamptz            -- by the server's clock; renewed while the run is alive
) WITH (fillfactor = 90);  -- room for renewals, which touch no index

-- Newest first; id settles ties. A query must repeat the conditions, and left(job, 128) = left(…).
CREATE INDEX runs_by_start ON guardrun.runs (started_at, id);
CREATE INDEX runs_by_job ON guardrun.runs (left(job, 128), started_at, id);
CREATE INDEX runs_by_key ON guardrun.runs (key_id, started_at, id) WHERE key_id IS NOT NULL;

-- Running rows, dead runs and refusals: few among many.
CREATE INDEX runs_by_result ON guardrun.runs (result, started_at, id) WHERE result <> 'success';

-- A run goes by the end of its id, six characters or more: history prints eight.
CREATE INDEX runs_by_end ON guardrun.runs (right(job_id::text, 6));

CREATE TABLE guardrun.attempts (
    job_id      uuid NOT NULL,
    number      integer NOT NULL,
    started_at  timestamptz NOT NULL,    -- by the host's clock
    duration_us bigint NOT NULL,
    result      text NOT NULL,
    exit_code   integer,
    signal      integer,
    reason      text,
    PRIMARY KEY (job_id, number)
);

-- Apart from runs, so that reading a million runs does not read what they printed.
CREATE TABLE guardrun.outputs (
    job_id uuid PRIMARY KEY,
    stdout bytea NOT NULL,
    stderr bytea NOT NULL
);

-- running → succeeded | failed | interrupted. What stands here outlives the run's own row. It is
-- not the whole truth: read guardrun.key_states. All instants are the server's.
--
-- token is unique not because two might be the same, but so that an UPDATE of it takes the row's
-- strongest lock: it waits for a transaction that has called guardrun.complete, and a renewal,
-- which leaves it alone, does not.
CREATE TABLE guardrun.keys (
    id          bytea PRIMARY KEY,       -- SHA-256 of the key's UTF-8
    key         text NOT NULL,
    state       text NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'interrupted')),
    token       text UNIQUE,             -- of the latest claim: who may move the key on
    job_id      uuid NOT NULL,           -- of the latest claim, as owner and fingerprint are
    owner       text NOT NULL,
    fingerprint text NOT NULL,
    follows     uuid,                    -- job_id of the interrupted run before it, if any
    claimed_at  timestamptz NOT NULL,
    claim_until timestamptz,             -- renewed while the run is alive
    finished_at timestamptz,
    expires_at  timestamptz,             -- from then on the key does not block; NULL while it may
    key_ttl_us  bigint                   -- of the latest claim, for a completion; NULL: forever
) WITH (fillfactor = 80);

CREATE INDEX keys_by_claim ON guardrun.keys (claimed_at);
CREATE INDEX keys_by_expiry ON guardrun.keys (expires_at) WHERE expires_at IS NOT NULL;

-- Claims that COMMAND itself has completed, in its own transaction. The key has then succeeded,
-- whatever keys.state says.
CREATE TABLE guardrun.completions (
    token        text PRIMARY KEY,
    key_id       bytea NOT NULL,
    job_id       uuid NOT NULL,
    completed_at timestamptz NOT NULL
);

CREATE INDEX completions_by_time ON guardrun.completions (completed_at);

-- Retries spent, by job, by the server's clock.
CREATE TABLE guardrun.budgets (
    job_digest bytea NOT NULL,           -- SHA-256 of the job's name
    job        text NOT NULL,
    spent_at   timestamptz NOT NULL,
    spent      integer NOT NULL,
    PRIMARY KEY (job_digest, spent_at)
);

CREATE INDEX budgets_by_time ON guardrun.budgets (spent_at);

-- What the keys really are: a completed claim has succeeded, a claim that was not renewed in time
-- is interrupted. finished_at and expires_at belong to the state told here; free: any run may
-- claim it (it failed, or its success has expired). For people, and for a first look: nothing here
-- has waited for a lock; and clock_timestamp(), being volatile, would keep queries from the
-- indexes below.
CREATE VIEW guardrun.key_states AS
SELECT told.*,
       coalesce(told.state = 'failed' OR told.expires_at <= statement_timestamp(), false) AS free
  FROM (SELECT keys.id, keys.key,
               CASE WHEN by_command THEN 'succeeded'
                    WHEN keys.state = 'running' AND keys.claim_until <= statement_timestamp()
                    THEN 'interrupted'
                    ELSE keys.state
                END AS state,
               keys.token, keys.job_id, keys.owner, keys.fingerprint, keys.follows,
               keys.claimed_at, keys.claim_until,
               CASE WHEN by_command THEN completions.completed_at
                    ELSE keys.finished_at
                END AS finished_at,
               CASE WHEN by_command
                    THEN completions.completed_at + keys.key_ttl_us * interval '1 microsecond'
                    ELSE keys.expires_at
                END AS expires_at,
               keys.key_ttl_us
          FROM guardrun.keys
          LEFT JOIN guardrun.completions ON completions.token = keys.token
         CROSS JOIN LATERAL (SELECT completions.token IS NOT NULL AND keys.state <> 'succeeded')
               AS recorded (by_command)) AS told;

-- When COMMAND itself completed a claim; NULL when it did not. VOLATILE and plpgsql for one
-- purpose: it looks at what is committed at the moment of the call, not when the statement around
-- it began, which may have waited for the very transaction that completed the claim.
CREATE FUNCTION guardrun.completed_at(claim_token text) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog
AS $$
BEGIN
    RETURN (SELECT c.completed_at FROM guardrun.completions AS c WHERE c.token = claim_token);
END
$$;

-- Completes a key inside COMMAND's own transaction: its effect and this commit together or not at
-- all. Raises when the claim is not the caller's (any more): whoever was fenced off cannot commit.
-- The lock is the weakest there is: renewals pass, a takeover waits for the caller's transaction.
CREATE FUNCTION guardrun.complete(key text, claim_token text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog
AS $$
DECLARE
    claim record;
BEGIN
    SELECT k.id, k.token, k.state, k.job_id
      INTO claim
      FROM guardrun.keys AS k
     WHERE k.id = sha256(convert_to(complete.key, 'UTF8'))
       FOR KEY SHARE;
    IF claim.token IS DISTINCT FROM complete.claim_token
       OR claim.state IS DISTINCT FROM 'running' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'RG001',
            MESSAGE = 'guardrun: this claim of the key is not held (any more)',
            DETAIL = format('Key %L is %s.', complete.key,
                            CASE WHEN claim.id IS NULL THEN 'unknown'
                                 WHEN claim.token = complete.claim_token THEN claim.state
                                 ELSE 'another run''s, or was never claimed with this token'
                             END),
            HINT = 'Pass $GUARDRUN_IDEMPOTENCY_KEY and $GUARDRUN_CLAIM_TOKEN, and roll back.';
    END IF;
    INSERT INTO guardrun.completions (token, key_id, job_id, completed_at)
    VALUES (claim.token, claim.id, claim.job_id, clock_timestamp())
    ON CONFLICT (token) DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'RG002',
            MESSAGE = 'guardrun: this claim of the key has been completed before',
            HINT = 'One claim completes once: roll back, its effect is already there.';
    END IF;
END
$$;

-- Whoever is to have access is granted it by name.
REVOKE ALL ON SCHEMA guardrun FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA guardrun FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA guardrun FROM PUBLIC;
