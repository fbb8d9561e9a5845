//! The keys of the Kubernetes runner.

mod settings;

pub use self::settings::{PodSecurity, Settings};
