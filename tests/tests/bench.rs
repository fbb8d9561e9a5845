//! The bench still measures every figure; how fast is not asked here.

use std::process::Command;

#[test]
fn every_figure_is_measured() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(["--quick", "--rows", "3000"]).output().unwrap();
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}\n{log}");
    for figure in [
        "authorize + shape",
        "GET /processes/hello-world",
        "asynchronous POST",
        "GET /jobs?limit=10, 3,000 rows",
        "log of",
        "growth of resident memory",
        "start to ready",
        "idle memory",
        "cores",
    ] {
        assert!(table.contains(figure), "{figure} is not in\n{table}");
    }
    assert!(!table.contains("NOT MEASURED"), "{table}");
}
