//! The side that reads.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nixl_executor::{DType, RemoteExport, Tensor, TensorLayout};
use nixl_memories::Memory;
use xxhash_rust::xxh3::xxh3_64;

use crate::blocks::{BLOCK, blocks};
use crate::http::json;
use crate::messages::{Exported, Granted, Wanted};

/// The longest answer of the server, in bytes: a name and a ticket, or the export and all names.
const ANSWER: usize = 16 << 20;

#[derive(clap::Args)]
pub(crate) struct Read {
    /// The address that the server printed.
    #[arg(long, default_value = "http://127.0.0.1:8500")]
    from: String,
    /// The most bytes of a tensor, of which the server says how many there are.
    #[arg(long, default_value_t = 1 << 30)]
    limit: usize,
    /// The memory that the tensors are read into: host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N or managed:N.
    #[arg(long, value_name = "KIND", default_value_t = Memory::Shared)]
    memory: Memory,
    /// The names of the tensors; without any, the names of all are printed.
    names: Vec<String>,
}

pub(crate) async fn run(args: Read) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    let response = client.get(format!("{}/export", args.from)).send().await;
    let exported: Exported = json(response.context("the server does not answer")?, ANSWER).await?;
    if args.names.is_empty() {
        exported.names.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    let connector = nixl_executor::connector().await?.name("tensor-reader").build().await?;
    let import = connector.import(&exported.export).await?;
    for name in args.names {
        let wanted = Wanted { name };
        let response = client.post(format!("{}/tensor", args.from)).json(&wanted).send().await;
        let granted = json(response.context("the server does not answer")?, ANSWER).await;
        let granted: Granted = granted.with_context(|| format!("no tensor {:?}", wanted.name))?;
        let tensor = read(&import, &granted, (args.memory, args.limit)).await;
        let tensor = tensor.with_context(|| format!("cannot read {:?}", wanted.name))?;
        let bytes = tensor.offset()..tensor.offset() + tensor.layout().byte_len();
        let hash = xxh3_64(&nixl_memories::read(tensor.region(), bytes)?);
        println!("{} {} {:?} {hash:016x}", wanted.name, granted.dtype, tensor.shape());
    }
    Ok(())
}

/// Reads a tensor into memory of its own.
async fn read(
    import: &RemoteExport,
    granted: &Granted,
    (memory, limit): (Memory, usize),
) -> Result<Tensor> {
    let dtype = DType::from_safetensors(&granted.dtype).context("elements of an unknown type")?;
    let layout = TensorLayout::new(dtype, &granted.shape)?;
    let len = layout.byte_len();
    ensure!(len <= limit, "it has {len} bytes, and at most {limit} are taken");
    let needed = granted.skip.checked_add(len).map(|end| end.div_ceil(BLOCK));
    let count = granted.ticket.blocks().len();
    ensure!(needed == Some(count), "its shape does not fit its {count} blocks");
    let (local, memory) = blocks(memory, count * BLOCK)?;
    import.read_blocks(&granted.ticket, &local, &(0..count).collect::<Vec<_>>()).await?;
    import.done(&granted.ticket).await?;
    Ok(Tensor::with_layout(memory.whole().slice(granted.skip..granted.skip + len)?, layout)?)
}
