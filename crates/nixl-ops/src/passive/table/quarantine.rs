//! Offers that were given up, and that a peer may still write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::entry::{PassiveEntry, Watching};
use super::PassiveTable;
use crate::contained::contained;
use crate::sync::lock;

impl PassiveTable {
    pub(in super::super) fn quarantined(&self, entry: &Arc<PassiveEntry>) {
        let mut quarantine = lock(&self.quarantine);
        if !quarantine.iter().any(|held| Arc::ptr_eq(held, entry)) {
            quarantine.push(Arc::clone(entry));
        }
        drop(quarantine);
        self.wake_by(self.clock.now());
    }

    /// Offers and agents whose message about them is wanted: some of them, others the next time.
    pub(crate) fn wanted_words(&self) -> Vec<(Arc<PassiveEntry>, String)> {
        /// Questions of one look, each of which is a message.
        const AT_ONCE: usize = 256;
        let quarantine = lock(&self.quarantine);
        let wanted: Vec<_> = quarantine
            .iter()
            .flat_map(|entry| entry.asks().into_iter().map(|agent| (Arc::clone(entry), agent)))
            .collect();
        drop(quarantine);
        if wanted.len() <= AT_ONCE {
            return wanted;
        }
        let first = self.asked.fetch_add(AT_ONCE, Ordering::Relaxed) % wanted.len();
        wanted.iter().cycle().skip(first).take(AT_ONCE).cloned().collect()
    }

    pub(super) fn check_quarantine(self: &Arc<Self>, now: Duration) -> bool {
        let over: Vec<_> = {
            let mut quarantine = lock(&self.quarantine);
            let (held, over) =
                quarantine.drain(..).partition(|entry: &Arc<PassiveEntry>| entry.is_held());
            *quarantine = held;
            over
        };
        drop(over);
        let held = lock(&self.quarantine).clone();
        if held.is_empty() {
            return false;
        }
        self.wake_by(now.saturating_add(Self::CHECK));
        let Some(proofs) = self.proofs.get() else { return true };
        if self.checking.swap(true, Ordering::AcqRel) {
            return true;
        }
        let (table, quiet) = (Arc::downgrade(self), Arc::clone(&proofs.quiet));
        let (skew, clock) = (self.skew, Arc::clone(&self.clock));
        proofs.background.run(Box::new(move || {
            for entry in &held {
                let _ = contained("a proof of quiet", || {
                    let Some(Watching { peer, watch, memory }) = entry.take_watch(now, skew) else {
                        return;
                    };
                    let age = clock.now().saturating_sub(entry.begun);
                    let mut watch =
                        watch.unwrap_or_else(|| quiet.watch(&peer, memory.as_slice(), age));
                    // The waiter may take its memory back as soon as it wakes.
                    drop(memory);
                    match watch.is_quiet() {
                        true => entry.release(),
                        false => entry.put_watch(&peer, watch),
                    }
                });
            }
            drop(held);
            if let Some(table) = table.upgrade() {
                table.checking.store(false, Ordering::Release);
            }
        }));
        true
    }
}
