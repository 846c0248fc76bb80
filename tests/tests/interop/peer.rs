//! `tests/python/peer.py`, spoken to.

use std::env;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::child::Child;

const ADVICE: &str = "run `cargo xtask setup --interop` once";

pub(crate) struct Python(Child);

/// Which buffers an offer is made of, and how its metadata is printed.
#[derive(Clone, Copy, Default)]
pub(crate) struct How {
    /// The same buffers whenever the name is given; otherwise fresh ones.
    pub(crate) buffers: Option<&'static str>,
    pub(crate) hex: bool,
}

impl Python {
    /// Starts the peer.
    pub(crate) fn start() -> Self {
        let packages = env::var_os("NIXL_TEST_PYTHONPATH")
            .unwrap_or_else(|| panic!("NIXL_TEST_PYTHONPATH is not set: use cargo, and {ADVICE}"));
        for module in ["dynamo/nixl_connect/__init__.py", "dynamo/common/utils/media_nixl.py"] {
            let module = Path::new(&packages).join(module);
            assert!(module.is_file(), "{} is missing: {ADVICE}", module.display());
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/peer.py");
        let mut child = Child::spawn(
            Command::new("python3")
                .arg(script)
                .env("PYTHONPATH", packages)
                .env("PYTHONDONTWRITEBYTECODE", "1"),
        );
        let Some(hello) = child.line() else {
            panic!("the Python peer does not start: {ADVICE}; it says:\n{}", child.kill());
        };
        assert_eq!(hello, r#"{"version": "1.6.1"}"#, "{ADVICE}");
        Self(child)
    }

    /// Offers memory; returns the operation's number and its metadata.
    pub(crate) fn offer(
        &mut self,
        kind: &str,
        sizes: &[usize],
        seed: u64,
        how: How,
    ) -> (u64, String) {
        let How { buffers, hex } = how;
        let answer = self.ask(json!({
            "do": "offer", "kind": kind, "sizes": sizes, "seed": seed, "buffers": buffers, "hex": hex,
        }));
        let text = answer["metadata"].as_str().unwrap();
        (answer["id"].as_u64().unwrap(), text.to_owned())
    }

    /// Waits until the peer of an offer is done; returns the CRC-32.
    pub(crate) fn wait(&mut self, id: u64) -> String {
        crc32_of(&self.ask(json!({ "do": "wait", "id": id })))
    }

    /// Does what the metadata offers; returns the CRC-32.
    pub(crate) fn transfer(&mut self, metadata: &str, seed: u64) -> String {
        crc32_of(&self.ask(json!({ "do": "transfer", "metadata": metadata, "seed": seed })))
    }

    /// As [`transfer`](Self::transfer), and keeps the operation and the peer.
    pub(crate) fn transfer_and_keep(&mut self, metadata: &str, seed: u64) -> String {
        let command = json!({ "do": "transfer", "metadata": metadata, "seed": seed, "keep": true });
        crc32_of(&self.ask(command))
    }

    /// Reads decoded media by Dynamo's `media_nixl`; returns the shape, the CRC-32 and the metadata.
    pub(crate) fn read_media(&mut self, media: &Value) -> Value {
        self.ask(json!({ "do": "read_media", "media": media }))
    }

    /// Offers an image as Dynamo's frontend does; returns the item and the CRC-32.
    pub(crate) fn offer_media(&mut self, shape: &[usize], seed: u64) -> (String, String) {
        let answer = self.ask(json!({ "do": "offer_media", "shape": shape, "seed": seed }));
        (answer["item"].to_string(), crc32_of(&answer))
    }

    /// Reads embeddings by Dynamo's `NixlReadEmbeddingReceiver`; returns the shape, the type and the CRC-32.
    pub(crate) fn read_embeddings(&mut self, request: &Value) -> Value {
        self.ask(json!({ "do": "read_embeddings", "request": request }))
    }

    /// Offers embeddings by Dynamo's `NixlReadEmbeddingSender`; returns the number, the request and the CRC-32.
    pub(crate) fn offer_embeddings(&mut self, shape: &[usize], seed: u64) -> Value {
        self.ask(json!({ "do": "offer_embeddings", "shape": shape, "seed": seed }))
    }

    /// Waits until the sender of embeddings has learned of their read.
    pub(crate) fn sent_embeddings(&mut self, id: &Value) {
        self.ask(json!({ "do": "sent_embeddings", "id": id }));
    }

    fn ask(&mut self, command: Value) -> Value {
        self.0.send(&command.to_string());
        let Some(line) = self.0.line() else {
            panic!("the Python peer ended at {command}; it says:\n{}", self.0.kill());
        };
        let answer: Value = serde_json::from_str(&line).unwrap();
        if let Some(error) = answer.get("error") {
            panic!("the Python peer failed at {command}: {error}; it says:\n{}", self.0.kill());
        }
        answer
    }
}

fn crc32_of(answer: &Value) -> String {
    answer["crc32"].as_str().unwrap().to_owned()
}
