//! The bench still measures every figure; how fast is not asked here.

use std::process::Command;

use vespiary_tests::{Namespace, cluster};

/// Runs it: every figure is in its table.
fn measured(words: &[&str], figures: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(words).output().unwrap();
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}\n{log}");
    for figure in figures {
        assert!(table.contains(figure), "{figure} is not in\n{table}");
    }
    assert!(!table.contains("NOT MEASURED"), "{table}");
}

#[test]
fn every_figure_is_measured() {
    let figures = [
        "authorize + shape",
        "GET /processes/hello-world",
        "asynchronous POST",
        "GET /jobs?limit=10, 3,000 rows",
        "log of",
        "growth of resident memory",
        "start to ready",
        "idle memory",
        "cores",
    ];
    measured(&["--quick", "--rows", "3000"], &figures);
}

#[test]
fn every_figure_of_a_cluster_is_measured() {
    if !cluster::is_wanted() || !Namespace::is_possible() {
        let must = std::env::var("VESPIARY_TEST_ALL").is_ok_and(|all| all == "1");
        assert!(!must, "VESPIARY_TEST_ALL is set, and VESPIARY_E2E=cluster or KUBECONFIG not");
        eprintln!("not tried: VESPIARY_E2E=cluster or KUBECONFIG not set");
        return;
    }
    let figures = [
        "asynchronous POST to its 201",
        "container terminated in the API to result readable",
        "synchronous call over a container of 50 ms",
        "calls to the API server for any GET but live logs",
        "suspended Jobs",
        "from a stream into S3",
    ];
    measured(&["cluster", "--quick"], &figures);
}
