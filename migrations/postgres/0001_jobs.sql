-- Jobs with all that is kept of them, processes, processors, and the public views (see ../README.md).
--
-- The same tables, columns and views as in ../sqlite: ids are text, times are milliseconds since 1970-01-01T00:00:00Z, JSON is
-- text, truth values are 0 or 1. What is compared or sorted by the server's rules is text in the order of its bytes
-- (collate "C"), whatever the database's language.

create table jobs (
    id text collate "C" not null primary key,
    process_id text collate "C" not null,
    process_version text not null,
    processor_digest text collate "C" not null,
    caller text collate "C" not null,
    status text collate "C" not null check (status in ('accepted', 'running', 'successful', 'failed', 'dismissed')),
    message text,
    progress bigint check (progress between 0 and 100),
    created bigint not null,
    started bigint,
    finished bigint,
    updated bigint not null,
    removed bigint,
    claim_owner text collate "C",
    claim_until bigint,
    -- When the final record was written; it is written once.
    recorded bigint,
    reason text,
    exit_code bigint,
    result_media_type text,
    result_size bigint,
    log_uri text,
    log_size bigint,
    relaunchable bigint not null check (relaunchable in (0, 1)),
    -- Whether the process was to be asked who may read and dismiss it.
    guarded bigint not null check (guarded in (0, 1)),
    -- Whose runs its run is among: repair is theirs alone.
    runner text collate "C" not null,
    nonce text,
    idempotency_key text collate "C",
    request_sha256 text,
    -- JSON array: archive keys of outputs that were removed, so that the removal can be repeated.
    removed_keys text,
    -- Wide columns stand last, so that lists do not read them. JSON but for `response`.
    receipt text,
    exit_state text,
    response text not null,
    requested_outputs text not null,
    declared_outputs text not null,
    inputs text not null,
    plan text not null,
    check ((finished is not null) = (status in ('successful', 'failed', 'dismissed'))),
    check ((claim_owner is null) = (claim_until is null))
);

-- The job list: one index per set of columns that a filter can fix, each in the order of the list behind them. What is
-- behind `id` lets duration filters look at the index alone. A filter without a status takes all states, one after another.
create index jobs_by_status on jobs (status, created desc, id desc, started, finished, removed) where removed is null;
create index jobs_by_process on jobs (process_id, status, created desc, id desc, started, finished, removed) where removed is null;
create index jobs_by_caller on jobs (caller, status, created desc, id desc, started, finished, removed) where removed is null;
create index jobs_by_caller_process on jobs (caller, process_id, status, created desc, id desc, started, finished, removed) where removed is null;

-- Repair looks only at jobs that have not ended: few.
create index jobs_unfinished on jobs (id) where finished is null;

-- Claims that are held: as many as jobs are finalized at this moment.
create index jobs_claimed on jobs (claim_until) where claim_owner is not null;

create unique index jobs_by_idempotency_key on jobs (caller, process_id, idempotency_key) where idempotency_key is not null;

-- The history of a job's status. A job enters a status once.
create table job_events (
    job_id text collate "C" not null references jobs (id) on delete cascade,
    status text collate "C" not null,
    message text,
    at bigint not null,
    primary key (job_id, status)
);

create table job_outputs (
    job_id text collate "C" not null references jobs (id) on delete cascade,
    position bigint not null,
    id text collate "C" not null,
    media_type text not null,
    size bigint not null,
    sha256 text not null,
    archive_key text,
    body bytea,
    primary key (job_id, position),
    check ((archive_key is null) <> (body is null))
);

-- Components by digest: every one that was ever deployed.
create table processors (
    digest text collate "C" not null primary key,
    size bigint not null,
    added bigint not null,
    bytes bytea not null
);

-- Which process was offered in which form, and when. At most one open row a process.
create table processes (
    seq bigint generated always as identity primary key,
    id text collate "C" not null,
    version text not null,
    digest text collate "C" not null,
    source text collate "C" not null,
    config_sha256 text not null,
    offered_from bigint not null,
    offered_until bigint
);
create unique index processes_offered on processes (id) where offered_until is null;
create index processes_by_id on processes (id, offered_from);

-- Calls that are due to subscribers, written in the transaction of the change they tell.
create table callbacks (
    job_id text collate "C" not null references jobs (id) on delete cascade,
    status text collate "C" not null,
    url text collate "C" not null,
    due bigint not null,
    attempts bigint not null default 0,
    primary key (job_id, status)
);
create index callbacks_due on callbacks (due);

-- One row that readiness rewrites to see whether a write succeeds.
create table write_probe (
    id bigint primary key check (id = 1),
    at bigint not null,
    filler bytea not null
);

-- Milliseconds since the epoch as RFC 3339 in UTC.
create function rfc3339_millis(millis bigint) returns text language sql immutable strict parallel safe as $$
    select to_char(timestamp '1970-01-01' + millis * interval '1 millisecond', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

create view job_history as
select
    id,
    process_id as process,
    process_version as version,
    processor_digest as digest,
    caller,
    status,
    rfc3339_millis(created) as created,
    rfc3339_millis(started) as started,
    rfc3339_millis(finished) as finished,
    (started - created) / 1000.0::double precision as queue_seconds,
    (finished - started) / 1000.0::double precision as run_seconds,
    inputs,
    result_media_type,
    result_size,
    log_uri,
    log_size,
    exit_code,
    reason,
    message,
    rfc3339_millis(removed) as removed
from jobs;

create view job_status_history as
select
    job_id as id,
    status,
    message,
    rfc3339_millis(at) as at
from job_events;

create view process_history as
select
    id,
    version,
    digest,
    source,
    config_sha256,
    rfc3339_millis(offered_from) as offered_from,
    rfc3339_millis(offered_until) as offered_until
from processes;
