//! Proof that peers no longer touch memory of this process, by the path that they may have taken.

use nixl_device::Process;
use nixl_ops::{Claimant, QuietProof, QuietWatch};

/// Proofs that the operating system gives.
#[derive(Debug)]
pub(crate) struct Proofs;

impl QuietProof for Proofs {
    fn watch(&self, peer: &Claimant) -> Box<dyn QuietWatch> {
        match peer {
            Claimant::Process(pid) => Box::new(ProcessWatch(Process::open(*pid).ok())),
            _ => Box::new(ProcessWatch(None)),
        }
    }
}

#[derive(Debug)]
struct ProcessWatch(Option<Process>);

impl QuietWatch for ProcessWatch {
    fn is_quiet(&mut self) -> bool {
        self.0.as_ref().is_some_and(Process::has_ended)
    }
}
