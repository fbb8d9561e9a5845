use std::time::Instant;
use super::*;
use crate::store::contract::fixture::{Dice, at, job};
use crate::core::JobStatus::*;

struct Raw(String);
#[async_trait]
impl Work for Raw {
    type Answer = ();
    async fn apply(&self, c: &mut sqlx::SqliteConnection, _: &mut Vec<JobId>) -> Result<(), StoreError> {
        sqlx::query(AssertSqlSafe(self.0.clone())).fetch_all(c).await.map_err(classify)?;
        Ok(())
    }
}

fn pct(mut v: Vec<f64>) -> String {
    v.sort_by(|a, b| a.total_cmp(b));
    format!("p50 {:.2} p99 {:.2} max {:.2} ms", v[v.len() / 2], v[v.len() * 99 / 100], v[v.len() - 1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure() {
    let path = std::path::PathBuf::from(std::env::var("SCRATCH_DB").unwrap());
    let fresh = !path.exists();
    let store = SqliteStore::open(&path, &Settings { deadline_ms: 600_000, ..Settings::default() }).await.unwrap();
    if fresh {
        let t = Instant::now();
        for chunk in 0..20 {
            let lo = chunk * 50_000;
            let hi = lo + 50_000;
            store.write(Raw(format!("with recursive n(i) as (select {lo} union all select i + 1 from n where i < {hi} - 1), \
             r as (select i, (i * 2654435761) % 10007 as h, (i * 40503) % 997 as g from n) \
             insert into jobs (id, process_id, process_version, processor_digest, caller, status, created, started, finished, updated, \
                relaunchable, response, requested_outputs, declared_outputs, inputs, plan) \
             select printf('%08x-%04x-7000-8000-%012x', i / 65536, i % 65536, h), 'process-' || (g % 20), '1.0.0', 'sha256:' || hex(zeroblob(32)), 'caller-' || (h % 50), s, \
               1767323045678 + i * 50, 1767323045678 + i * 50 + 100, case when s in ('accepted','running') then null else 1767323045678 + i * 50 + 100 + h * 10 end, 1767323045678, \
               1, 'raw', 'null', '{{}}', '{{\"x\":\"' || hex(zeroblob(200)) || '\"}}', '{{\"x\":\"' || hex(zeroblob(400)) || '\"}}' \
             from (select *, case when h < 2 then 'accepted' when h < 5 then 'running' when h < 500 then 'failed' when h < 600 then 'dismissed' else 'successful' end as s from r)"))).await.unwrap();
        }
        println!("fill {:?}", t.elapsed());
    }
    let p = |n: &[usize]| n.iter().map(|n| format!("process-{n}").parse().unwrap()).collect::<Vec<ProcessIdAlias>>();
    type ProcessIdAlias = crate::core::ProcessId;
    let c = || Some("caller-7".to_owned());
    let d = JobFilter::default;
    let range = Some(at(1767323045678 + 10_000_000)..=at(1767323045678 + 20_000_000));
    let filters = [
        ("none", d()), ("running", JobFilter { statuses: vec![Running], ..d() }), ("failed+dismissed", JobFilter { statuses: vec![Failed, Dismissed], ..d() }),
        ("process", JobFilter { process_ids: p(&[3]), ..d() }), ("3 processes", JobFilter { process_ids: p(&[1, 2, 3]), ..d() }),
        ("20 processes", JobFilter { process_ids: p(&(0..20).collect::<Vec<_>>()), ..d() }),
        ("30 processes", JobFilter { process_ids: p(&(10..40).collect::<Vec<_>>()), ..d() }),
        ("30 unknown", JobFilter { process_ids: p(&(100..130).collect::<Vec<_>>()), ..d() }),
        ("process+failed", JobFilter { process_ids: p(&[3]), statuses: vec![Failed], ..d() }), ("caller", JobFilter { caller: c(), ..d() }),
        ("caller+process", JobFilter { caller: c(), process_ids: p(&[3]), ..d() }), ("range", JobFilter { created: range.clone(), ..d() }),
        ("min 50s", JobFilter { min_duration_seconds: Some(50), ..d() }), ("min 99999s", JobFilter { min_duration_seconds: Some(99_999), ..d() }),
        ("min 99999s process", JobFilter { min_duration_seconds: Some(99_999), process_ids: p(&[3]), ..d() }),
        ("max 0 s caller+range", JobFilter { max_duration_seconds: Some(0), caller: c(), created: range, ..d() }),
    ];
    let mut dice = Dice(77);
    for limit in [10, 100] {
        for (name, filter) in &filters {
            let mut times = Vec::new();
            for n in 0..300 {
                let after = (n > 0).then(|| PageKey { created: at(1767323045678 + dice.below(50_000_000) as i64), id: JobId::new() });
                let t = Instant::now();
                store.list(filter, after, limit).await.unwrap();
                times.push(t.elapsed().as_secs_f64() * 1e3);
            }
            println!("list {limit:4} {name:22} {}", pct(times));
        }
    }
    for tasks in [1_usize, 8, 64, 256] {
        let t = Instant::now();
        let per = if tasks == 1 { 500 } else { 6_000 / tasks };
        let all: Vec<_> = (0..tasks).map(|_| { let store = Arc::clone(&store); tokio::spawn(async move { for _ in 0..per {
            let mut new = job("process-3", "caller-7", Timestamp::now().as_millis());
            new.request.inputs = serde_json::json!({"x": "y".repeat(300)});
            store.insert(new).await.unwrap(); } }) }).collect();
        for one in all { one.await.unwrap(); }
        println!("insert x{tasks}: {:.0}/s", (tasks * per) as f64 / t.elapsed().as_secs_f64());
    }
    // Bare: the same statement, one transaction each, one connection, no store around it.
    for synchronous in ["full", "normal"] {
        let mut c = SqliteConnectOptions::new().filename(&path).pragma("synchronous", synchronous).pragma("cache_size", "-8192").connect().await.unwrap();
        let t = Instant::now();
        for _ in 0..500 {
            let new = job("process-3", "caller-7", Timestamp::now().as_millis());
            let w = insert::Insert::new(new).unwrap();
            sqlx::query("begin immediate").execute(&mut c).await.unwrap();
            w.apply(&mut c, &mut Vec::new()).await.unwrap();
            sqlx::query("commit").execute(&mut c).await.unwrap();
        }
        println!("bare {synchronous}: {:.0}/s", 500.0 / t.elapsed().as_secs_f64());
    }
    println!("{}", std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("VmHWM")).collect::<Vec<_>>().join(" "));
    store.shutdown().await;
}
