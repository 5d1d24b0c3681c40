-- The embedded ledger, schema 1.
--
-- Times are microseconds since 1970, durations microseconds (…_us), lists and objects JSON text.
-- Only SQLite 3.24 is asked for (no STRICT, no RETURNING): long-lived distributions ship 3.34.

-- One row a run, refused ones included. A run that was cut off has result 'interrupted' and no
-- finished_at; that is how late truth from the spool is told from the truth it must not replace.
CREATE TABLE runs (
    id            INTEGER PRIMARY KEY,
    job_id        TEXT NOT NULL UNIQUE,  -- UUIDv7
    job           TEXT NOT NULL,
    host          TEXT NOT NULL,
    username      TEXT NOT NULL,
    pid           INTEGER NOT NULL,
    owner         TEXT NOT NULL,         -- host:pid:job_id
    argv          TEXT NOT NULL,         -- redacted
    fingerprint   TEXT NOT NULL,         -- SHA-256 of COMMAND's words before redaction
    lock          TEXT,
    key           TEXT,
    needs         TEXT NOT NULL,
    path          TEXT NOT NULL,         -- job_ids of the guardruns around this one
    token         TEXT,                  -- of this run's claim of its key
    started_at    INTEGER NOT NULL,
    enqueued_at   INTEGER,
    finished_at   INTEGER,
    duration_us   INTEGER,
    result        TEXT NOT NULL,         -- 'running', or as in the log
    exit_code     INTEGER,               -- guardrun's; 128+N where it ended by signal N
    command_code  INTEGER,               -- COMMAND's, of its last attempt
    signal        INTEGER,               -- guardrun's, else COMMAND's
    reason        TEXT,
    attempts      INTEGER NOT NULL DEFAULT 0,
    held          INTEGER NOT NULL DEFAULT 0,  -- the lock was ours
    lock_wait_us  INTEGER,
    fencing_token INTEGER,
    lease_lost    INTEGER NOT NULL DEFAULT 0,
    held_by       TEXT,
    stale         INTEGER NOT NULL DEFAULT 0  -- its claim was somebody else's when it finished
);

-- Newest first. (The rowid at the end of every index settles ties.)
CREATE INDEX runs_by_start ON runs (started_at);
CREATE INDEX runs_by_job ON runs (job, started_at);
CREATE INDEX runs_by_key ON runs (key, started_at) WHERE key IS NOT NULL;

-- Running rows, dead runs and refusals: few among many. A query must repeat the condition.
CREATE INDEX runs_by_result ON runs (result, started_at) WHERE result <> 'success';

CREATE TABLE attempts (
    job_id      TEXT NOT NULL,
    number      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    result      TEXT NOT NULL,
    exit_code   INTEGER,
    signal      INTEGER,
    reason      TEXT,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;

-- Apart from runs, so that reading a million runs does not read what they printed.
CREATE TABLE outputs (
    job_id TEXT PRIMARY KEY,
    stdout BLOB NOT NULL,
    stderr BLOB NOT NULL
) WITHOUT ROWID;

-- running → succeeded | failed | interrupted. What stands here outlives the run's own row.
CREATE TABLE keys (
    key         TEXT PRIMARY KEY,
    state       TEXT NOT NULL,
    token       TEXT NOT NULL,    -- of the latest claim: who may move the key on
    job_id      TEXT NOT NULL,    -- of the latest claim, as owner and fingerprint are
    owner       TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    claimed_at  INTEGER NOT NULL,
    finished_at INTEGER,
    expires_at  INTEGER           -- from then on the key does not block; NULL while it may
) WITHOUT ROWID;

CREATE INDEX keys_by_expiry ON keys (expires_at) WHERE expires_at IS NOT NULL;

-- Retries spent, by job.
CREATE TABLE budgets (
    job      TEXT NOT NULL,
    spent_at INTEGER NOT NULL,
    spent    INTEGER NOT NULL,
    PRIMARY KEY (job, spent_at)
) WITHOUT ROWID;
