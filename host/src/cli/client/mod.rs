//! The commands that speak to a server over HTTP, and `sql`, which opens the database itself.

mod copy;
mod http;
pub(crate) use self::http::{ClientError, block_on};
mod jobs;
mod run;
mod sql;

pub(crate) use self::jobs::{Jobs, Logs, Processes, Receipt};
pub(crate) use self::run::Run;
pub(crate) use self::sql::Sql;
