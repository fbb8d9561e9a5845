use super::fixture::Database;
use crate::store::JobStore;
use crate::store::contract::fixture::job;
use std::time::Instant;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore]
async fn figures() {
    let Some(database) = Database::create().await else { return };
    let store = crate::store::postgres::PostgresStore::open(&database.url(), &Default::default()).await.unwrap();
    for tasks in [1, 16, 1, 16] {
        let began = Instant::now();
        let each = if tasks == 1 { 1000 } else { 400 };
        futures::future::join_all((0..tasks).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    store.insert(job("hello", "ann", 1)).await.unwrap();
                }
            })
        }))
        .await;
        println!("{tasks} tasks: {:.0} inserts/s", (tasks * each) as f64 / began.elapsed().as_secs_f64());
    }
    let began = Instant::now();
    for _ in 0..300 {
        store.list(&Default::default(), None, 50).await.unwrap();
    }
    println!("page of 50 of all: {:.0} us", began.elapsed().as_micros() as f64 / 300.0);
}
