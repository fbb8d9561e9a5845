//! The machine fails: disk full, a folder that cannot be written to, a second server. A clear error, nothing corrupted, recovery.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use vespiary_tests::{Folder, Server, ServerOptions, local_only, until};

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A file system of so many MiB at this place, where this user may make one; gone when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None`, and it says so, where that takes rights that this user does not have; with `VESPIARY_TEST_ROOT=1` that is a failure.
    fn mount(at: &'a Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={mebibytes}m");
        if run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", at.to_str().unwrap()]) {
            return Some(Self(at));
        }
        let must = std::env::var("VESPIARY_TEST_ROOT").is_ok_and(|root| root == "1");
        assert!(!must, "VESPIARY_TEST_ROOT is set, and a small file system cannot be mounted");
        eprintln!("not tried: mounting a small file system needs root");
        None
    }

    fn fill(&self) {
        let file = std::fs::File::create(self.0.join("filler")).unwrap();
        let piece = vec![1u8; 64 * 1024];
        while std::io::Write::write_all(&mut &file, &piece).is_ok() {}
        let small = vec![1u8; 512];
        while std::io::Write::write_all(&mut &file, &small).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    if local_only() {
        return;
    }
    let folder = Folder::new();
    let data = folder.path().join("data");
    let Some(disk) = SmallDisk::mount(&data, 48) else { return };
    let options = ServerOptions::default();
    let server = Server::try_launch(Arc::clone(&folder), options, None).unwrap();
    let client = server.client();
    let before = client.submit("hello-world", &json!({ "name": "before" })).await;
    client.ended(&before).await;
    let running = client.submit("echo", &json!({ "message": "x", "pause": 2 })).await;
    client.reaches(&running, "running").await;
    disk.fill();
    let body = json!({ "inputs": { "name": "full" } });
    let refused = until("a write to be refused", Duration::from_secs(20), || async {
        let answer = client.execute("hello-world", &body, &[("prefer", "respond-async")]).await;
        (answer.status != 201).then_some(answer)
    })
    .await
    .expect(503);
    assert_eq!(refused.problem(), "unavailable");
    assert!(!refused.header("retry-after").is_empty());
    // What was there is still readable.
    assert_eq!(client.get(&format!("/jobs/{before}/results")).await.expect(200).text(), "Hello 'before'!");
    client.get("/readyz").await.expect(503);
    client.get("/healthz").await.expect(200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    disk.free();
    // All that was accepted comes to its end, and new work is taken.
    until("new work to be accepted", Duration::from_secs(30), || async {
        (client.execute("hello-world", &body, &[("prefer", "respond-async")]).await.status == 201).then_some(())
    })
    .await;
    // Its container may have failed for want of room; what counts is that it ended.
    client.ended(&running).await;
    let jobs = client.get("/jobs?limit=1000").await.expect(200).json();
    for job in jobs["jobs"].as_array().unwrap() {
        let ended = client.ended(job["jobID"].as_str().unwrap()).await;
        assert!(matches!(ended["status"].as_str(), Some("successful" | "failed")), "{ended}");
    }
    client.get("/readyz").await.expect(200);
    let check = server.sql("select count(*) as jobs from job_history where status = 'accepted'");
    assert_eq!(check[0]["jobs"], 0);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_away_takes_no_server_out_of_service() {
    if local_only() {
        return;
    }
    let server = Server::start();
    let client = server.client();
    let (archive, away) = (server.folder().join("data/archive"), server.folder().join("data/away"));
    std::fs::rename(&archive, &away).unwrap();
    // A file where the folder should be: true for every user, root too.
    std::fs::write(&archive, "in the way").unwrap();
    let told = client.get("/readyz").await.expect(503).json();
    let failing: Vec<_> = told["parts"].as_array().unwrap().iter().filter(|part| part["ready"] == false).collect();
    assert!(matches!(&failing[..], [part] if part["name"] == "archive"), "{told}");
    // What the manifests' probe asks; a list needs the database alone.
    let told = client.get("/readyz?exclude=archive&exclude=runner").await.expect(200).json();
    assert_eq!(told["parts"].as_array().unwrap().len(), 2, "{told}");
    client.get("/jobs").await.expect(200);
    client.get("/readyz?exclude=archives").await.expect(400);
    std::fs::remove_file(&archive).unwrap();
    std::fs::rename(&away, &archive).unwrap();
    client.get("/readyz").await.expect(200);
}

#[test]
fn a_data_folder_that_cannot_be_written_to() {
    let folder = Folder::new();
    // A file where the folder should be: true for every user, root too.
    std::fs::write(folder.path().join("data"), "in the way").unwrap();
    let log = Server::try_launch(Arc::clone(&folder), ServerOptions::default(), None).map(|_| ()).unwrap_err();
    assert!(log.contains("cannot use the data folder"), "{log}");
    std::fs::remove_file(folder.path().join("data")).unwrap();
    assert!(Server::try_launch(folder, ServerOptions::default(), None).is_ok(), "recovers when it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_data_folder() {
    if local_only() {
        return;
    }
    let folder = Folder::new();
    let data = folder.path().join("data");
    let Some(disk) = SmallDisk::mount(&data, 48) else { return };
    let server = Server::try_launch(Arc::clone(&folder), ServerOptions::default(), None).unwrap();
    let client = server.client();
    let id = client.submit("hello-world", &json!({ "name": "a" })).await;
    client.ended(&id).await;
    drop(server);
    let at = data.to_str().unwrap();
    assert!(run("mount", &["-o", "remount,ro", at]));
    let log = Server::try_launch(Arc::clone(&folder), ServerOptions::default(), None).map(|_| ()).unwrap_err();
    assert!(log.contains("cannot use the data folder"), "{log}");
    assert!(run("mount", &["-o", "remount,rw", at]));
    let server = Server::try_launch(Arc::clone(&folder), ServerOptions::default(), None).unwrap();
    assert_eq!(server.client().job(&id).await["status"], "successful");
    drop(server);
    drop(disk);
}

#[test]
fn a_second_server_on_the_same_folder_is_turned_away() {
    let server = Server::start();
    let options = ServerOptions::default();
    let log = Server::try_launch(server.keep_folder(), options, None).map(|_| ()).unwrap_err();
    assert!(log.contains("another server uses the data folder"), "{log}");
}

#[test]
fn a_wrong_configuration_is_told_as_a_whole_before_anything_listens() {
    let folder = Folder::new();
    let options =
        ServerOptions::default().config("server: { listn: x }\njobs: { finish_concurrency: many }\nnonsense: 1\n");
    let log = Server::try_launch(folder, options, None).map(|_| ()).unwrap_err();
    for word in ["listn", "jobs.finish_concurrency", "nonsense"] {
        assert!(log.contains(word), "{word} in {log}");
    }
}
