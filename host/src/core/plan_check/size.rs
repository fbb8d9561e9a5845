//! What Linux takes when a program is started (`execve`): anything larger ends in E2BIG, after the job was promised.

use crate::core::Violation;
use crate::core::plan::{Container, EnvValue};
use crate::core::pointer::join;

/// The longest single text, in bytes, with the zero byte at its end (`MAX_ARG_STRLEN`).
const ONE: usize = 128 * 1024;

/// All texts of one container together. Linux takes a quarter of the stack's limit, 2 MiB by default; the rest is for what the image and
/// the cluster add.
const ALL: usize = 1536 * 1024;

/// What a variable of the inputs may hold; with larger ones such a plan is refused.
const INPUTS: usize = 96 * 1024;

/// Bytes of the pointer to a text, which count as well.
const POINTER: usize = 8;

const REMEDY: &str = "let the container read it from its inputs, which may travel as a file, or from a volume";

/// Texts of this container that no program can be started with.
pub(super) fn violations(container: &Container, at: &str) -> Vec<Violation> {
    let name = container.name.escape_debug();
    let mut found = Vec::new();
    let mut all = 0_usize;
    let mut count = |bytes: usize| all = all.saturating_add(bytes).saturating_add(POINTER);
    for (list, texts) in [("command", &container.command), ("args", &container.args)] {
        for (index, text) in texts.iter().enumerate() {
            let bytes = text.len().saturating_add(1);
            count(bytes);
            if bytes > ONE {
                let message = format!(
                    "has {} bytes: container '{name}' cannot be started with a text of more than {} ({REMEDY})",
                    text.len(),
                    ONE - 1
                );
                found.push(Violation::new(join(&join(at, list), &index.to_string()), message));
            }
        }
    }
    for (index, variable) in container.env.iter().enumerate() {
        let value = match &variable.value {
            EnvValue::Literal(text) => text.len(),
            EnvValue::Inputs => INPUTS,
            EnvValue::SecretKey(_) | EnvValue::ConfigMapKey(_) => 0,
        };
        // `NAME=value` and the zero byte.
        let bytes = variable.name.len().saturating_add(value).saturating_add(2);
        count(bytes);
        if bytes > ONE {
            let message = format!(
                "has {} bytes with its name: container '{name}' cannot be started with a variable of more than {} ({REMEDY})",
                bytes - 1,
                ONE - 1
            );
            found.push(Violation::new(join(&join(at, "env"), &index.to_string()), message));
        }
    }
    if all > ALL {
        let message = format!(
            "the command, arguments and variables of container '{name}' have {all} bytes together: no more than {ALL} can be started with \
             ({REMEDY})"
        );
        found.push(Violation::new(at, message));
    }
    found
}
