-- Jobs with all that is kept of them, processes, processors, and the public views (see ../README.md).
--
-- Ids are text, times are milliseconds since 1970-01-01T00:00:00Z, JSON is text, truth values are 0 or 1: the same file
-- works in other databases but for `without rowid` and the text form of times in the views.

create table jobs (
    id text not null primary key,
    process_id text not null,
    process_version text not null,
    processor_digest text not null,
    caller text not null,
    status text not null check (status in ('accepted', 'running', 'successful', 'failed', 'dismissed')),
    message text,
    progress integer check (progress between 0 and 100),
    created bigint not null,
    started bigint,
    finished bigint,
    updated bigint not null,
    removed bigint,
    claim_owner text,
    claim_until bigint,
    -- When the final record was written; it is written once.
    recorded bigint,
    reason text,
    exit_code integer,
    result_media_type text,
    result_size bigint,
    log_uri text,
    log_size bigint,
    relaunchable integer not null check (relaunchable in (0, 1)),
    -- Whether the process was to be asked who may read and dismiss it.
    guarded integer not null check (guarded in (0, 1)),
    -- Whose runs its run is among: repair is theirs alone.
    runner text not null,
    nonce text,
    idempotency_key text,
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
    job_id text not null references jobs (id) on delete cascade,
    status text not null,
    message text,
    at bigint not null,
    primary key (job_id, status)
) without rowid;

create table job_outputs (
    job_id text not null references jobs (id) on delete cascade,
    position integer not null,
    id text not null,
    media_type text not null,
    size bigint not null,
    sha256 text not null,
    archive_key text,
    body blob,
    primary key (job_id, position),
    check ((archive_key is null) <> (body is null))
);

-- Components by digest: every one that was ever deployed.
create table processors (
    digest text not null primary key,
    size bigint not null,
    added bigint not null,
    bytes blob not null
);

-- Which process was offered in which form, and when. At most one open row a process.
create table processes (
    seq integer primary key,
    id text not null,
    version text not null,
    digest text not null,
    source text not null,
    config_sha256 text not null,
    offered_from bigint not null,
    offered_until bigint
);
create unique index processes_offered on processes (id) where offered_until is null;
create index processes_by_id on processes (id, offered_from);

-- Calls that are due to subscribers, written in the transaction of the change they tell.
create table callbacks (
    job_id text not null references jobs (id) on delete cascade,
    status text not null,
    url text not null,
    due bigint not null,
    attempts integer not null default 0,
    primary key (job_id, status)
) without rowid;
create index callbacks_due on callbacks (due);

-- One row that readiness rewrites to see whether a write succeeds.
create table write_probe (
    id integer primary key check (id = 1),
    at bigint not null,
    filler blob not null
);

create view job_history as
select
    id,
    process_id as process,
    process_version as version,
    processor_digest as digest,
    caller,
    status,
    strftime('%Y-%m-%dT%H:%M:%S', created / 1000, 'unixepoch') || printf('.%03dZ', created % 1000) as created,
    strftime('%Y-%m-%dT%H:%M:%S', started / 1000, 'unixepoch') || printf('.%03dZ', started % 1000) as started,
    strftime('%Y-%m-%dT%H:%M:%S', finished / 1000, 'unixepoch') || printf('.%03dZ', finished % 1000) as finished,
    (started - created) / 1000.0 as queue_seconds,
    (finished - started) / 1000.0 as run_seconds,
    inputs,
    result_media_type,
    result_size,
    log_uri,
    log_size,
    exit_code,
    reason,
    message,
    strftime('%Y-%m-%dT%H:%M:%S', removed / 1000, 'unixepoch') || printf('.%03dZ', removed % 1000) as removed
from jobs;

create view job_status_history as
select
    job_id as id,
    status,
    message,
    strftime('%Y-%m-%dT%H:%M:%S', at / 1000, 'unixepoch') || printf('.%03dZ', at % 1000) as at
from job_events;

create view process_history as
select
    id,
    version,
    digest,
    source,
    config_sha256,
    strftime('%Y-%m-%dT%H:%M:%S', offered_from / 1000, 'unixepoch') || printf('.%03dZ', offered_from % 1000) as offered_from,
    strftime('%Y-%m-%dT%H:%M:%S', offered_until / 1000, 'unixepoch') || printf('.%03dZ', offered_until % 1000) as offered_until
from processes;
