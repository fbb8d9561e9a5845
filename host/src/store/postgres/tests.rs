//! Tests of the PostgreSQL store on a real server: the one at `TEST_POSTGRES_URL`, whose user may create databases. Without it they
//! say so and pass, unless `VESPIARY_TEST_ALL=1` demands them.

mod faults;
pub(in crate::store) mod fixture;
mod history;
mod lists;
mod replicas;

use self::fixture::open;
use crate::store::contract::contract;

contract!(open, std::convert::identity);
