//! Encoding and decoding what the peers exchange.

use anyhow::{Result, ensure};
use nixl_metadata::RdmaMetadata;

use nixl_benches::Layout;

use crate::clock;
use crate::initiator::{Findings, Session};
use crate::memory::{Memory, Side};
use crate::messages::Engine;
use crate::report::{Gauge, Row};
use crate::samples::Samples;

/// Calls between two looks at the clock.
const CALLS: u64 = 16;

/// Real metadata of the connector, of one descriptor and of many, in both profiles.
pub(crate) fn metadata(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let iterations = session.effort.pick(300, 3000);
    for layout in
        [Layout::Contiguous { bytes: 4096 }, Layout::Scattered { pieces: 64, bytes: 4096 }]
    {
        // Memory of its own: it stays exported to every process that may have the metadata.
        let memory = Memory::new(Side::Initiator, layout.span())?;
        let list = memory.descriptors(&layout.pieces())?;
        let offered = session.runtime.block_on(session.connector.create_writable(list))?;
        let metadata = offered.metadata();
        let (json, native) = (metadata.to_dynamo_json(), metadata.to_native_bytes()?);
        ensure!(RdmaMetadata::decode(&native)? == *metadata, "the native profile lost something");
        ensure!(
            RdmaMetadata::decode(json.as_bytes())?.to_dynamo_json() == json,
            "the Dynamo profile lost something"
        );
        let mut row = |case: &str, call: &mut dyn FnMut() -> Result<()>| -> Result<()> {
            let mut samples = Samples::default();
            for _ in 0..iterations {
                let begun = clock::now();
                for _ in 0..CALLS {
                    call()?;
                }
                samples.push((clock::now() - begun) / CALLS);
            }
            let row = Row::new(case, Engine::Connector, &samples)?.shaped(layout);
            findings.rows.push(row.verified());
            Ok(())
        };
        row("metadata-encode-dynamo", &mut || keep(metadata.to_dynamo_json()))?;
        row("metadata-decode-dynamo", &mut || keep(RdmaMetadata::decode(json.as_bytes())?))?;
        row("metadata-encode-native", &mut || keep(metadata.to_native_bytes()?))?;
        row("metadata-decode-native", &mut || keep(RdmaMetadata::decode(&native)?))?;
        for (profile, len) in [("dynamo", json.len()), ("native", native.len())] {
            let name = format!("metadata_size.{profile}.{}_descriptors", layout.batch());
            findings.gauges.push(Gauge::new(name, len as f64, "bytes"));
        }
    }
    Ok(())
}

fn keep<T>(value: T) -> Result<()> {
    std::hint::black_box(value);
    Ok(())
}
