//! The `vespiary` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    vespiary::cli::main()
}
