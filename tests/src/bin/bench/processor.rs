//! `authorize` and `shape` of a request, in a fresh instance as the server does it, against the engine alone: one instance, the same
//! two calls, no limits and nothing converted.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Runtime;
use vespiary::core::{Principal, Role};
use vespiary::processor::{Action, Process, ProcessEntry, ProcessorHost, ProcessorRequest};
use vespiary_tests::workspace;
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use self::generated::{ProcessorPre, vespiary::processor::host, vespiary::processor::types};
use crate::sample::{Sample, ratio};
use crate::table::{Row, Table};
use crate::{Options, Outcome, place};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::indexing_slicing, clippy::unwrap_used)]
mod generated {
    wasmtime::component::bindgen!({ path: "../wit/v1", world: "processor" });
}

/// Bytes of the inputs, JSON and all.
const INPUT_BYTES: usize = 4096;
const P50_MICROS: f64 = 30.0;
const TIMES: f64 = 3.0;

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    let bytes = Bytes::from(std::fs::read(workspace::processor("hello-world"))?);
    let inputs = inputs();
    let host = ProcessorHost::new(&Default::default(), &place::compiled()?, Arc::new(|_: &str| false))?;
    let bare = Bare::new(&bytes)?;
    let process = runtime.block_on(async {
        let processor = host.compile(bytes).await?;
        Process::load(&host, &processor, ProcessEntry::default()).await
    })?;
    let asked = ProcessorRequest {
        action: Action::Execute,
        job_id: None,
        inputs: inputs.as_str().into(),
        outputs: Vec::new(),
        principal: Principal::anonymous(vec![Role::Execute]),
        headers: Vec::new(),
    };

    let (rounds, calls) = (options.pick(40, 4), options.pick(1000, 50));
    let (mut ours, mut theirs) = (Sample::default(), Sample::default());
    // The first turn of each warms up.
    for round in 0..=rounds {
        let (mut a, mut b) = (Sample::default(), Sample::default());
        runtime.block_on(async {
            for _ in 0..calls {
                let begun = Instant::now();
                let planned = process.plan(&asked).await?;
                a.add(begun);
                drop(planned);
            }
            Outcome::Ok(())
        })?;
        for _ in 0..calls {
            let begun = Instant::now();
            let plan = bare.once(&inputs)?;
            b.add(begun);
            drop(plan);
        }
        if round > 0 {
            ours.extend(&a);
            theirs.extend(&b);
        }
    }
    let shown = |sample: &Sample| format!("{:.1} us p50, {:.1} us p99", sample.micros(0.5), sample.micros(0.99));
    let times = ratio(ours.micros(0.5), theirs.micros(0.5));
    table.add(Row {
        figure: "authorize + shape, 4 KiB of inputs".to_owned(),
        measured: shown(&ours),
        bare: shown(&theirs),
        ratio: format!("{times:.2}"),
        reach: "<= 30 us p50 and <= 3",
        reached: Some(ours.micros(0.5) <= P50_MICROS && times <= TIMES),
        runs: format!("{rounds} x {calls} calls, after 1 round"),
    });
    Ok(())
}

/// Inputs of just so many bytes.
fn inputs() -> String {
    let of = |message: &str| json!({ "name": "Ann", "message": message }).to_string();
    of(&"m".repeat(INPUT_BYTES.saturating_sub(of("").len())))
}

/// The engine as anybody would set it up.
struct Bare {
    engine: Engine,
    pre: ProcessorPre<Guest>,
}

struct Guest {
    table: ResourceTable,
    wasi: WasiCtx,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl types::Host for Guest {}

impl host::Host for Guest {
    fn config(&mut self) -> String {
        "{}".to_owned()
    }

    fn log(&mut self, _: host::Level, _: String) {}

    fn verify_token(&mut self, _: String) -> bool {
        false
    }
}

impl Bare {
    fn new(bytes: &[u8]) -> Outcome<Self> {
        // The pool of the server, so that both pay the same for memory; its limits on time and memory are left out.
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(16)
            .total_core_instances(1024)
            .total_memories(64)
            .total_tables(512)
            .max_core_instances_per_component(64)
            .max_memories_per_component(4)
            .max_tables_per_component(32)
            .table_elements(64 << 10)
            .max_memory_size(64 << 20)
            .linear_memory_keep_resident(2 << 20)
            .pagemap_scan(Enabled::Auto)
            .table_keep_resident(64 << 10);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
        host::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |guest| guest)?;
        types::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |guest| guest)?;
        let pre = ProcessorPre::new(linker.instantiate_pre(&Component::new(&engine, bytes)?)?)?;
        Ok(Self { engine, pre })
    }

    fn once(&self, inputs: &str) -> Outcome<types::Plan> {
        let guest = Guest { table: ResourceTable::new(), wasi: WasiCtx::builder().build() };
        let mut store = Store::new(&self.engine, guest);
        let instance = self.pre.instantiate(&mut store)?;
        let request = types::Request {
            action: types::Action::Execute,
            process_id: "hello-world".to_owned(),
            job_id: None,
            inputs: inputs.to_owned(),
            outputs: Vec::new(),
            principal: None,
            headers: Vec::new(),
            extensions: String::new(),
        };
        let calls = instance.vespiary_processor_process();
        let caller = calls.call_authorize(&mut store, &request)?.map_err(|_| "authorize denies the request")?;
        Ok(calls.call_shape(&mut store, &request, &caller)?.map_err(|_| "shape rejects the request")?)
    }
}
