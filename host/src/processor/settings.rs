//! The limits of processors. All of them are bounds, none is a promise.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::Violation;

/// What a processor may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Milliseconds that one call of `authorize` or `shape` may take; 1 to 60000.
    pub deadline_ms: u32,
    /// Milliseconds that `describe` may take when a processor is loaded; 1 to 600000. Longer than `deadline_ms`, since a
    /// server that starts is busy.
    pub load_deadline_ms: u32,
    /// MiB of memory that one call may have; 1 to 4096.
    pub memory_mib: u32,
    /// KiB that one answer of a processor may have; 1 to 65536.
    pub output_kib: u32,
    /// MiB that a processor's file may have; 1 to 1024.
    pub component_mib: u32,
    /// Calls that run at once, of one process half as many; 1 to 1024. Each keeps up to 2 MiB of memory between calls.
    pub concurrent_calls: u32,
    /// Milliseconds that a call waits for a free place before the request is turned away; at most 60000.
    pub queue_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline_ms: 100,
            load_deadline_ms: 2000,
            memory_mib: 64,
            output_kib: 1024,
            component_mib: 64,
            concurrent_calls: 16,
            queue_ms: 5000,
        }
    }
}

impl Settings {
    /// All values that are out of their bounds, by the name of the setting.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let bounds = [
            ("deadline_ms", self.deadline_ms, 1, 60_000),
            ("load_deadline_ms", self.load_deadline_ms, 1, 600_000),
            ("memory_mib", self.memory_mib, 1, 4096),
            ("output_kib", self.output_kib, 1, 65_536),
            ("component_mib", self.component_mib, 1, 1024),
            ("concurrent_calls", self.concurrent_calls, 1, 1024),
            ("queue_ms", self.queue_ms, 0, 60_000),
        ];
        let outside = bounds.into_iter().filter(|(_, value, least, most)| !(least..=most).contains(&value));
        outside
            .map(|(name, value, least, most)| {
                Violation::new(format!("/{name}"), format!("{value} is not between {least} and {most}"))
            })
            .collect()
    }

    pub(super) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms.into())
    }

    pub(super) fn load_deadline(&self) -> Duration {
        Duration::from_millis(self.load_deadline_ms.into())
    }

    pub(super) fn queue(&self) -> Duration {
        Duration::from_millis(self.queue_ms.into())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        (self.memory_mib as usize) << 20
    }

    pub(super) fn output_bytes(&self) -> usize {
        (self.output_kib as usize) << 10
    }

    pub(super) fn component_bytes(&self) -> u64 {
        u64::from(self.component_mib) << 20
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn defaults_are_valid_and_bounds_are_told_together() {
        assert!(Settings::default().violations().is_empty());
        let bad = Settings { deadline_ms: 0, memory_mib: 5000, ..Settings::default() };
        let found: Vec<_> = bad.violations().into_iter().map(|violation| violation.pointer).collect();
        assert_eq!(found, ["/deadline_ms", "/memory_mib"]);
    }
}
